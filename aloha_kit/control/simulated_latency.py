"""Simulated inference latency: the steps of `AsyncInferencePolicy` in virtual time, reproducible."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from aloha_kit.control.chunk_boundary import ChunkBoundary, ChunkSchedule, fade_steps, ON_TIME
from aloha_kit.control.execution import (
    checked,
    ChunkExecutor,
    ChunkProvenance,
    ENSEMBLE,
    Executor,
    TemporalEnsemble,
)
from aloha_kit.core import Action, ChunkSource, ConfigError, HoldStill, Observation


class SimulatedLatencyPolicy:
    """A policy whose chunk for the observation of step s can be executed from step s + `delay` on.

    Inferences follow the schedule of `AsyncInferencePolicy`: one at a time, so early that the next chunk is there when
    this one ends. The arms wait for the first chunk of an episode, which counts no steps, so it is not delayed. Where
    no chunk covers a step, because an inference takes more than half a chunk, the arms hold still (`HoldStill`).

    Args:
        source: where chunks come from; inference runs at once, its chunk is kept back.
        delay: steps, 0 to K - 1.
        ensemble_weight, inference_interval, fade: see `ChunkSchedule`.

    Raises:
        ConfigError: a delay below 0; `act` raises it for one that leaves nothing of a chunk.
    """

    def __init__(
        self,
        source: ChunkSource,
        delay: int,
        *,
        ensemble_weight: float | None = None,
        inference_interval: int | None = None,
        fade: int = 0,
    ) -> None:
        if delay < 0:
            raise ConfigError("delay must be at least 0 steps, given {delay}", delay=delay)
        self._source, self._delay = source, delay
        self._ensemble_weight, self._interval, self._fade = ensemble_weight, inference_interval, fade
        self._start_episode()

    def _start_episode(self) -> None:
        self._schedule = ChunkSchedule(
            ensemble_weight=self._ensemble_weight, inference_interval=self._interval, fade=self._fade
        )
        self._coming: tuple[int, int, npt.NDArray[np.float32]] | None = None  # begun, there, rows
        self._step = 0

    @property
    def provenance(self) -> ChunkProvenance | None:
        """Provenance of the last action; None before the first, and while it holds."""
        return self._schedule.provenance

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
        if self._coming is None and self._schedule.due(step, self._delay):
            self._coming = step, step + self._delay * (step > 0), self._infer(observation)
            self._schedule.last_inference = step
            self._take(step)
        action = self._schedule.action(step)
        if action is None:
            raise HoldStill(ON_TIME)
        return action

    def _infer(self, observation: Observation) -> npt.NDArray[np.float32]:
        rows = np.array(checked(self._source.predict_chunk(observation)))  # copied: a source may fill it again
        if self._delay >= len(rows):
            raise ConfigError(
                "a delay of {delay} steps leaves nothing of a chunk of {count} actions",
                delay=self._delay,
                count=len(rows),
            )
        return rows

    def _take(self, step: int) -> None:
        if self._coming is not None and step >= self._coming[1]:
            begun, _, rows = self._coming
            self._schedule.add(begun, rows, step)
            self._coming = None


@dataclass(frozen=True)
class Execution:
    """Chunk execution settings where inference runs in the control loop.

    Attributes:
        temporal_agg: average all predictions for a step.
        n_action_steps: steps executed between inferences; None is as many as a chunk has to spare, or 1 when averaging.
        chunk_boundary: how a chunk takes over from the one before.
        delay: steps that an inference takes.
        ensemble_weight: of the average, see `execution.TemporalEnsemble`.
    """

    temporal_agg: bool = False
    n_action_steps: int | None = None
    chunk_boundary: ChunkBoundary = "none"
    delay: int = 0
    ensemble_weight: float = ENSEMBLE

    @property
    def average(self) -> float | None:
        """Weight of the average; None without one."""
        return self.ensemble_weight if self.temporal_agg else None

    def with_default(
        self, n_action_steps: int | None, chunk_size: int, ensemble_weight: float | None = None
    ) -> Execution:
        """Settings with a policy's own ones: its `ensemble_weight` where nothing else is given, or `temporal_agg`; else
        its `n_action_steps`, at most `chunk_size`, where none is given or averaged."""
        if ensemble_weight is not None and (self.temporal_agg or self.n_action_steps is None):
            return replace(self, temporal_agg=True, chunk_boundary="none", ensemble_weight=ensemble_weight)
        if n_action_steps is None or self.n_action_steps is not None or self.temporal_agg:
            return self
        return replace(self, n_action_steps=min(n_action_steps, chunk_size))

    def executor(self, source: ChunkSource) -> Executor:
        """The policy that executes the chunks of `source`."""
        if self.delay or self.chunk_boundary == "blend":
            return SimulatedLatencyPolicy(
                source,
                self.delay,
                ensemble_weight=self.average,
                inference_interval=self.n_action_steps,
                fade=fade_steps(self.chunk_boundary),
            )
        if self.temporal_agg:
            return TemporalEnsemble(source, self.ensemble_weight, inference_interval=self.n_action_steps or 1)
        return ChunkExecutor(source, self.n_action_steps)

    def interval(self, chunk_size: int) -> int:
        """Steps from one inference to the next."""
        schedule = ChunkSchedule(
            ensemble_weight=self.average,
            inference_interval=self.n_action_steps,
            fade=fade_steps(self.chunk_boundary),
        )
        return max(self.delay, schedule.interval(chunk_size, self.delay))  # one inference at a time
