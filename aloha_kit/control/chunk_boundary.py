"""Schedule of chunks: when the next inference is due, and the action of a step that several chunks cover.

This module has neither a thread nor a clock: `AsyncInferencePolicy` runs it in real time, `SimulatedLatencyPolicy` in
virtual time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from aloha_kit.control.execution import ChunkProvenance, ensemble
from aloha_kit.core import Action, ConfigError, ContractError

ChunkBoundary = Literal["none", "blend"]
"""Transition from one chunk to the next: at once, or by a fade over steps that both cover."""

ON_TIME = "no chunk in time"
"""Why a step is held that no chunk covers."""

FADE = 10
"""Steps that a blended chunk boundary takes: 0.2 s at 50 Hz (`benchmarks/delay_success.py`)."""


def resolve_boundary(given: ChunkBoundary | None, *, temporal_agg: bool, late: bool) -> ChunkBoundary:
    """Value of `--chunk_boundary`, its default filled in.

    Args:
        given: the flag; None is `blend` where chunks come `late`, while the one before is still executed, else `none`.

    Raises:
        ConfigError: blending together with averaging.
    """
    if temporal_agg and given == "blend":
        raise ConfigError(
            "--chunk_boundary blend joins chunks executed one after another; --temporal_agg averages them instead"
        )
    return given or ("blend" if late and not temporal_agg else "none")


def fade_steps(boundary: ChunkBoundary) -> int:
    """Steps to fade over, 0 for a chunk boundary that is left as it is."""
    return FADE if boundary == "blend" else 0


@dataclass(frozen=True, eq=False)
class Chunk:
    """A predicted chunk and its transition from the one before.

    Attributes:
        begun: the step whose observation it came from, which row 0 is for.
        rows: (K, A) actions.
        since: the step from which on it is executed.
        fade: steps until it has the full weight; 0 is at once.
    """

    begun: int
    rows: npt.NDArray[np.float32]
    since: int
    fade: int

    @property
    def end(self) -> int:
        """The first step that it has no action for."""
        return self.begun + len(self.rows)

    def share(self, step: int) -> float:
        """Weight in the action, the rest being that of the chunks before: 0 at `since`, 1 from `since + fade` on.

        The straight line is the fade whose largest step is the smallest. It needs no hold at its head for what was
        executed during the inference, as a chunk that is laid from its own observation on would (Real-Time Chunking,
        Black et al., 2025): those steps are over when the chunk is there.
        """
        return 1.0 if step >= self.since + self.fade else (step - self.since) / self.fade


class ChunkSchedule:
    """The chunks of one episode; steps count from 0.

    Row i of a chunk is for i steps after its observation, so rows whose time has passed when it comes are skipped.
    Of the chunks that cover a step,

    - with an `ensemble_weight`, all are averaged as `execution.TemporalEnsemble` does;
    - else the newest counts, after a fade from what would have been executed without it over the first `fade` steps,
      or as many as the old chunk still covers. A value on the way lies between two commands, which for joints,
      gripper openings and base speeds is a command too; a grip is never wider than the wider of the two.

    Args:
        ensemble_weight: of the average, see `execution.TemporalEnsemble`; None for no average.
        inference_interval: steps from one inference to the next, at least. By default 1 when averaging, else as many
            as a chunk has to spare.
        fade: steps to fade over, at most a quarter of a chunk; 0 switches at once.

    Attributes:
        provenance: where the last action came from; None before the first, and where nothing covered the step.
        last_inference: the step of the last inference's observation; set it when one starts, to None where it failed.
    """

    def __init__(
        self, *, ensemble_weight: float | None = None, inference_interval: int | None = None, fade: int = 0
    ) -> None:
        self.provenance: ChunkProvenance | None = None
        self.last_inference: int | None = None
        self._ensemble_weight, self._interval, self._fade = ensemble_weight, inference_interval, fade
        self._chunks: list[Chunk] = []
        self._newest: int | None = None  # the last chunk that was executed, by `begun`

    def due(self, step: int, lead: int) -> bool:
        """Whether to start the next inference now, given that it takes `lead` steps."""
        if self.last_inference is None:
            return True
        interval = self.interval(len(self._chunks[-1].rows), lead) if self._chunks else self._interval or 1
        return step - self.last_inference >= interval

    def interval(self, length: int, lead: int) -> int:
        """Steps from one inference to the next for chunks of `length` actions. Without averaging, the next chunk should
        be there when this one ends, with `fade` steps of both to fade over."""
        if self._ensemble_weight is not None:
            return self._interval or 1
        return max(1, min(self._interval or length, length - lead - self._fade_in(length)))

    def add(self, begun: int, rows: npt.NDArray[np.float32], step: int) -> bool:
        """Add a chunk (K, A) for the observation of step `begun`, to be executed from `step` on. False where it comes
        too late for all of its rows.

        Raises:
            ContractError: its shape is not that of those before.
        """
        if self._chunks and rows.shape != self._chunks[-1].rows.shape:
            raise ContractError(
                "a chunk of shape {shape} after chunks of {expected}",
                shape=rows.shape,
                expected=self._chunks[-1].rows.shape,
            )
        left = self._chunks[-1].end - step if self._chunks else 0
        chunk = Chunk(begun, rows, step, max(0, min(left, self._fade_in(len(rows)))))
        if step >= chunk.end:
            return False
        self._chunks.append(chunk)
        return True

    def action(self, step: int) -> Action | None:
        """(A,) for a step, later than any before; None where no chunk covers it."""
        self._chunks = [chunk for chunk in self._chunks if step < chunk.end]
        if self._ensemble_weight is None:
            alone = [i for i, chunk in enumerate(self._chunks) if chunk.share(step) == 1.0]
            self._chunks = self._chunks[max(alone, default=0) :]
        if not self._chunks:
            self.provenance = None
            return None
        newest = self._chunks[-1].begun
        self.provenance = ChunkProvenance(
            step, newest, self._chunks[0].begun, len(self._chunks), step - newest, newest != self._newest
        )
        self._newest = newest
        rows = np.stack([chunk.rows[step - chunk.begun] for chunk in self._chunks])
        if self._ensemble_weight is not None:
            return ensemble(rows, self._ensemble_weight)
        return _mixed(rows, [chunk.share(step) for chunk in self._chunks])

    def _fade_in(self, length: int) -> int:
        return min(self._fade, length // 4)


def _mixed(rows: npt.NDArray[np.float32], shares: list[float]) -> Action:
    """(A,) of (N, A) rows, oldest first, each mixed by its share into what those before come to."""
    mixed = rows[0].astype(np.float64)
    for row, share in zip(rows[1:], shares[1:], strict=True):
        mixed += share * (row - mixed)
    return np.asarray(mixed, np.float32)
