"""Time of training steps: waiting for data, the step itself, and the rest."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from aloha_kit.core.lang import tr

MATTERS = 0.2  # share of the time from which on something other than the step is reported as the bottleneck
BUSY = 0.75  # share of the wanted cores that must be free


@dataclass(frozen=True)
class Lap:
    """Seconds that some steps took: waiting for data, in the step, and between steps."""

    steps: int
    data: float
    step: float
    other: float

    def bottleneck(self, overall: Lap) -> str:
        """Bottleneck of the training, with advice where it is not the step.

        `overall` are all laps so far, since validations and checkpoints are rare and long.
        """
        if overall.other > MATTERS * (overall.data + overall.step + overall.other):
            return tr("validation, rollouts and checkpoints (try a larger --val_every or --eval_every)")
        if self.data > MATTERS * (self.data + self.step):
            return tr("data (try --cache disk or device, or more --workers)")
        return tr("step")

    def __add__(self, more: Lap) -> Lap:
        return Lap(self.steps + more.steps, self.data + more.data, self.step + more.step, self.other + more.other)


class Timing:
    """Stopwatch of the training loop. It never makes the host wait for a GPU, whose steps are timed by CUDA events."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._device = torch.device("cpu")
        self._began: float | None = None
        self._requested = self._ready = 0.0
        self._start: torch.cuda.Event | None = None
        self._reset()

    def batch_requested(self) -> None:
        """Note that the loop waits for the next batch."""
        self._requested = self._clock()
        if self._began is None:
            self._began = self._requested

    def batch_ready(self) -> None:
        """Note that the batch has come."""
        self._ready = self._clock()
        self._waited += self._ready - self._requested
        self._start = self._event()

    def step_done(self, device: torch.device) -> None:
        """Note that the step is done, or on a GPU queued."""
        self._steps += 1
        end = self._event()
        if self._start is None or end is None:  # also the very first on a GPU: where it would run was not known
            self._spent += self._clock() - self._ready
        else:
            self._events.append((self._start, end))
        self._device = device

    def lap(self) -> Lap:
        """Times of the steps since the last lap; a GPU must have finished them."""
        now = self._clock()
        step = self._spent + sum(start.elapsed_time(end) for start, end in self._events) / 1e3
        rest = max(now - (now if self._began is None else self._began) - step, 0.0)
        data = min(self._waited, rest)  # a GPU that is busy meanwhile does not wait
        lap = Lap(self._steps, data, step, rest - data)
        self._began = now
        self._reset()
        return lap

    def _reset(self) -> None:
        self._steps, self._waited, self._spent = 0, 0.0, 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def _event(self) -> torch.cuda.Event | None:
        if self._device.type != "cuda":
            return None
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event


class OtherProcesses:
    """CPU time that other processes take, from Linux's /proc/stat; nothing elsewhere."""

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        self._stat = stat
        self._last = self._read()

    def text(self, threads: int) -> str:
        """A remark for the progress line where the others since the last call leave less than `threads` cores."""
        before, self._last = self._last, self._read()
        if before is None or self._last is None or self._last[0] <= before[0]:
            return ""
        seconds, busy, own = (new - old for new, old in zip(self._last, before, strict=True))
        others, cores = max(busy - own, 0.0) / seconds, os.cpu_count() or 1
        if cores - others > BUSY * min(threads, cores):
            return ""
        return tr(
            "; the machine is busy, other processes use {others:.1f} of {cores} cores", others=others, cores=cores
        )

    def _read(self) -> tuple[float, float, float] | None:
        """Seconds: of the clock, that all cores were busy, and that this process took of them."""
        try:
            fields = [int(word) for word in self._stat.read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
            busy = sum(fields) - fields[3] - fields[4]  # all but idle and waiting for a disk
            return time.monotonic(), busy / os.sysconf("SC_CLK_TCK"), time.process_time()
        except (OSError, ValueError, IndexError):
            return None
