"""Chunks along the steps that they are for: when the next one is due, and what they say of a step together.

There is neither a thread nor a clock in here: `AsyncInferencePolicy` runs it in real time, `SimulatedLatencyPolicy` in
virtual time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from aloha_kit.control.execution import ChunkProvenance, ensemble
from aloha_kit.core import Action, ConfigError, ContractError

Seam = Literal["none", "blend"]

ON_TIME = "no chunk in time"
"""Why a step is held that no chunk covers."""

FADE = 10
"""Steps that a blended chunk boundary takes: 0.2 s at 50 Hz (`benchmarks/delay_success.py`)."""


def chosen(seam: Seam | None, *, temporal_agg: bool, late: bool) -> Seam:
    """What `--seam` comes to.

    Args:
        seam: as given; None is `blend` where chunks come `late`, while the one before still plays, else `none`.

    Raises:
        ConfigError: blending together with averaging.
    """
    if temporal_agg and seam == "blend":
        raise ConfigError("--seam blend joins chunks played one after another; --temporal_agg averages them instead")
    return seam or ("blend" if late and not temporal_agg else "none")


def fade_of(seam: Seam) -> int:
    """Steps to fade over, 0 for a chunk boundary that is left as it is."""
    return FADE if seam == "blend" else 0


@dataclass(frozen=True, eq=False)
class Chunk:
    """A prediction, and how it takes over from the one before.

    Attributes:
        begun: the step whose observation it came from, which row 0 is for.
        rows: (K, A) actions.
        since: the step from which on it is played.
        fade: steps until it is alone; 0 is at once.
    """

    begun: int
    rows: npt.NDArray[np.float32]
    since: int
    fade: int

    @property
    def end(self) -> int:
        """The first step that it says nothing of."""
        return self.begun + len(self.rows)

    def share(self, step: int) -> float:
        """Its part of the action, the rest being that of the chunks before: 0 at `since`, 1 from `since + fade` on.

        The straight line is the fade whose largest step is the smallest. It needs no hold at its head for what was
        played while the network was asked, as a chunk that is laid from its own observation on would (Real-Time
        Chunking, Black et al., 2025): those steps are over when the chunk is there.
        """
        return 1.0 if step >= self.since + self.fade else (step - self.since) / self.fade


class ChunkSchedule:
    """The chunks of one episode; steps count from 0.

    Row i of a chunk is for i steps after its observation, so rows whose time has passed when it comes are skipped.
    Of the chunks that cover a step,

    - with a `coefficient`, all are averaged as `execution.TemporalEnsemble` does;
    - else the newest counts, after a fade from what would have been played without it over the first `fade` steps,
      or as many as the old chunk still covers. A value on the way lies between two commands, which for joints,
      gripper openings and base speeds is a command too; a grip is never wider than the wider of the two.

    Args:
        coefficient: of the average; None for no average.
        every: steps from one query to the next, at least. By default 1 when averaging, else as many as a chunk has
            to spare.
        fade: steps to fade over, at most a quarter of a chunk; 0 switches at once.

    Attributes:
        playing: where the last action came from; None before the first, and where nothing covered the step.
        asked: the step of the last query; set it when you ask, and to None where the query was lost.
    """

    def __init__(self, *, coefficient: float | None = None, every: int | None = None, fade: int = 0) -> None:
        self.playing: ChunkProvenance | None = None
        self.asked: int | None = None
        self._coefficient, self._every, self._fade = coefficient, every, fade
        self._chunks: list[Chunk] = []
        self._newest: int | None = None  # the last chunk that was played, by `begun`

    def due(self, step: int, lead: int) -> bool:
        """Whether to ask now for the next chunk, given that an answer takes `lead` steps."""
        if self.asked is None:
            return True
        interval = self.interval(len(self._chunks[-1].rows), lead) if self._chunks else self._every or 1
        return step - self.asked >= interval

    def interval(self, length: int, lead: int) -> int:
        """Steps from one query to the next for chunks of `length` actions. Without averaging, the next chunk should be
        there when this one ends, with `fade` steps of both to fade over."""
        if self._coefficient is not None:
            return self._every or 1
        return max(1, min(self._every or length, length - lead - self._fade_in(length)))

    def add(self, begun: int, rows: npt.NDArray[np.float32], step: int) -> bool:
        """A chunk (K, A) for the observation of `begun` is there, to be played from `step` on. False where it comes too
        late for all of its rows.

        Raises:
            ContractError: its shape is not that of those before.
        """
        if self._chunks and rows.shape != self._chunks[-1].rows.shape:
            raise ContractError(f"a chunk of shape {rows.shape} after chunks of {self._chunks[-1].rows.shape}")
        left = self._chunks[-1].end - step if self._chunks else 0
        chunk = Chunk(begun, rows, step, max(0, min(left, self._fade_in(len(rows)))))
        if step >= chunk.end:
            return False
        self._chunks.append(chunk)
        return True

    def action(self, step: int) -> Action | None:
        """(A,) for a step, later than any before; None where no chunk covers it."""
        self._chunks = [chunk for chunk in self._chunks if step < chunk.end]
        if self._coefficient is None:
            alone = [i for i, chunk in enumerate(self._chunks) if chunk.share(step) == 1.0]
            self._chunks = self._chunks[max(alone, default=0) :]
        if not self._chunks:
            self.playing = None
            return None
        newest = self._chunks[-1].begun
        self.playing = ChunkProvenance(
            step, newest, self._chunks[0].begun, len(self._chunks), step - newest, newest != self._newest
        )
        self._newest = newest
        rows = np.stack([chunk.rows[step - chunk.begun] for chunk in self._chunks])
        if self._coefficient is not None:
            return ensemble(rows, self._coefficient)
        return _mixed(rows, [chunk.share(step) for chunk in self._chunks])

    def _fade_in(self, length: int) -> int:
        return min(self._fade, length // 4)


def _mixed(rows: npt.NDArray[np.float32], shares: list[float]) -> Action:
    """(A,) of (N, A) rows, oldest first, each mixed by its share into what those before come to."""
    mixed = rows[0].astype(np.float64)
    for row, share in zip(rows[1:], shares[1:], strict=True):
        mixed += share * (row - mixed)
    return np.asarray(mixed, np.float32)
