"""A slow network in virtual time: the steps of `AsyncInferencePolicy`, reproducible."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aloha_kit.control.chunk_boundary import ChunkSchedule, fade_of, ON_TIME, Seam
from aloha_kit.control.execution import (
    checked,
    ChunkExecutor,
    ChunkProvenance,
    ChunkSource,
    ENSEMBLE,
    Executor,
    TemporalEnsemble,
)
from aloha_kit.core import Action, ConfigError, HoldStill, Observation


class SimulatedLatencyPolicy:
    """A policy whose chunk for the observation of step s can be played from step s + `delay` on.

    Inferences follow the schedule of `AsyncInferencePolicy`: one at a time, so early that the next chunk is there when
    this one ends. The arms wait for the first chunk of an episode, which counts no steps, so it is not delayed. Where
    no chunk covers a step, because an answer takes more than half a chunk, the policy asks to hold still.

    Args:
        source: where chunks come from; asked at once, its answer kept back.
        delay: steps, 0 to K - 1.
        coefficient, every, fade: see `ChunkSchedule`.

    Raises:
        ConfigError: a delay below 0; `act` raises it for one that leaves nothing of a chunk.
    """

    def __init__(
        self,
        source: ChunkSource,
        delay: int,
        *,
        coefficient: float | None = None,
        every: int | None = None,
        fade: int = 0,
    ) -> None:
        if delay < 0:
            raise ConfigError(f"delay must be at least 0 steps, given {delay}")
        self._source, self._delay = source, delay
        self._coefficient, self._every, self._fade = coefficient, every, fade
        self._start_episode()

    def _start_episode(self) -> None:
        self._timeline = ChunkSchedule(coefficient=self._coefficient, every=self._every, fade=self._fade)
        self._coming: tuple[int, int, npt.NDArray[np.float32]] | None = None  # begun, there, rows
        self._step = 0

    @property
    def playing(self) -> ChunkProvenance | None:
        """Where the last action came from; None before the first, and while it holds."""
        return self._timeline.playing

    def reset(self) -> None:
        self._source.reset()
        self._start_episode()

    def act(self, observation: Observation) -> Action:
        """The command for the present step.

        Raises:
            HoldStill: no chunk covers it.
        """
        step, self._step = self._step, self._step + 1
        self._take(step)
        if self._coming is None and self._timeline.due(step, self._delay):
            self._coming = step, step + self._delay * (step > 0), self._ask(observation)
            self._timeline.asked = step
            self._take(step)
        action = self._timeline.action(step)
        if action is None:
            raise HoldStill(ON_TIME)
        return action

    def _ask(self, observation: Observation) -> npt.NDArray[np.float32]:
        rows = np.array(checked(self._source.predict_chunk(observation)))  # copied: a source may fill it again
        if self._delay >= len(rows):
            raise ConfigError(f"a delay of {self._delay} steps leaves nothing of a chunk of {len(rows)} actions")
        return rows

    def _take(self, step: int) -> None:
        if self._coming is not None and step >= self._coming[1]:
            begun, _, rows = self._coming
            self._timeline.add(begun, rows, step)
            self._coming = None


@dataclass(frozen=True)
class Execution:
    """How chunks become actions where the network is asked in the control loop.

    Attributes:
        temporal_agg: average what all chunks say of a step.
        horizon: steps from one query to the next; None is as many as a chunk has to spare, or 1 when averaging.
        seam: how a chunk takes over from the one before.
        delay: steps that an answer takes.
    """

    temporal_agg: bool = False
    horizon: int | None = None
    seam: Seam = "none"
    delay: int = 0

    def executor(self, source: ChunkSource) -> Executor:
        """The policy that does it."""
        if self.delay or self.seam == "blend":
            coefficient = ENSEMBLE if self.temporal_agg else None
            return SimulatedLatencyPolicy(
                source, self.delay, coefficient=coefficient, every=self.horizon, fade=fade_of(self.seam)
            )
        if self.temporal_agg:
            return TemporalEnsemble(source, ENSEMBLE, query_every=self.horizon or 1)
        return ChunkExecutor(source, self.horizon)

    def interval(self, chunk_size: int) -> int:
        """Steps from one query to the next."""
        coefficient = ENSEMBLE if self.temporal_agg else None
        timeline = ChunkSchedule(coefficient=coefficient, every=self.horizon, fade=fade_of(self.seam))
        return max(self.delay, timeline.interval(chunk_size, self.delay))  # one query at a time
