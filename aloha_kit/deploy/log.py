"""Step log of a rollout, written beside its episode while it runs."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import dm_env

from aloha_kit.control.execution import ChunkProvenance
from aloha_kit.core import Action, Policy, Stamps
from aloha_kit.loop import LatencyReport, Outcome, SafetyGuard
from aloha_kit.loop.latency import STAGES
from aloha_kit.storage.step_log import columns, RecordedStep

FLUSH_S = 0.4
"""A crash costs at most this much of the log. Lines are handed to the system, never forced onto the disk."""

_CHUNK = ("newest", "oldest", "chunks", "row", "boundary")
_STAGES = ("total", *(stage for stage in STAGES if stage != "total"))


class StepLog:
    """An observer that writes `episode_N.steps.csv` (see `storage.step_log`); the file begins with the first step.

    Put it behind `latency` among the observers: it reads what that has just measured.

    Args:
        executor: the policy inside the guard; its `provenance` names the chunks of an action.
        now_s: the clock for flushing.
    """

    def __init__(
        self,
        path: Path,
        latency: LatencyReport,
        guard: SafetyGuard,
        executor: Policy,
        *,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._latency, self._guard, self._executor = path, latency, guard, executor
        self._now = now_s
        self._file: TextIO | None = None
        self._steps = 0
        self._seen: Stamps = {}

    def on_reset(self, timestep: dm_env.TimeStep) -> None:
        self._seen = timestep.observation["stamps"]

    def on_step(self, action: Action, timestep: dm_env.TimeStep) -> None:
        if self._file is None:
            self._file = self._path.open("w", newline="", encoding="utf-8")
            self._write: Any = csv.writer(self._file, lineterminator="\n").writerow
            # the first step runs an inference, and with it every stage that there is
            self._stages = tuple(dict.fromkeys((*_STAGES, *self._latency.last)))
            self._write(columns(self._stages))
            self._flushed = self._now()
        self._write(self._step().cells(self._stages))
        self._steps, self._seen = self._steps + 1, timestep.observation["stamps"]
        if self._now() - self._flushed >= FLUSH_S:
            self._file.flush()
            self._flushed = self._now()

    def on_end(self, outcome: Outcome) -> None:
        if self._file is not None:
            self._file.close()

    def _step(self) -> RecordedStep:
        ms, held = self._latency.last, self._guard.held
        provenance: ChunkProvenance | None = None if held else getattr(self._executor, "provenance", None)
        chunk = {} if provenance is None else {name: getattr(provenance, name) for name in _CHUNK}
        age_ms, stalest = _stalest(self._seen)
        missed = ms["total"] > self._latency.period_ms
        return RecordedStep(
            self._steps,
            ms,
            **chunk,
            held=held,
            limited=self._guard.limited,
            age_ms=age_ms,
            stalest=stalest,
            missed=missed,
        )


def _stalest(stamps: Stamps) -> tuple[float, str]:
    """The oldest sample's age in ms against the newest stamp of all, and its stream."""
    streams = {name: stamp for name, stamp in stamps.items() if name not in {"deadline", "command"}}
    if not streams:
        return 0.0, ""
    stalest = min(streams, key=streams.__getitem__)
    return (max(stamps.values()) - streams[stalest]) / 1e6, stalest
