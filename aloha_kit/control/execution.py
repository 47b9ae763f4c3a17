"""Chunk execution: action by action, or the average of all predictions for the present step.

Needs numpy alone, so that a robot PC can execute chunks that a server predicts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from aloha_kit.core import Action, ChunkSource, ConfigError, ContractError, Observation, Policy

ENSEMBLE = 0.01
"""Weight of temporal ensembling: prediction i, oldest first, weighs exp(-weight · i) (Zhao et al., 2023)."""


@dataclass(frozen=True)
class ChunkProvenance:
    """Chunks that the action of a step was computed from. Steps count from the episode's first, 0.

    Attributes:
        step: the step that the action is for.
        newest, oldest: the steps whose observations gave the newest and the oldest chunk in it.
        chunks: how many chunks take part.
        row: the row of the newest one.
        boundary: whether the newest one takes part for the first time (so does an episode's first chunk).
    """

    step: int
    newest: int
    oldest: int
    chunks: int
    row: int
    boundary: bool


class Executor(Policy, Protocol):
    """A policy that executes chunks."""

    @property
    def provenance(self) -> ChunkProvenance | None:
        """Chunks of the last action; None before the first, and while holding still."""
        ...


class ChunkExecutor:
    """Executes the first `n_action_steps` actions of a chunk, then runs the next inference.

    Args:
        source: where chunks come from.
        n_action_steps: actions executed of each chunk; None executes all.

    Attributes:
        provenance: where the last action came from; None before the first.

    Raises:
        ConfigError: `n_action_steps` below 1; `act` raises it for more than the chunk has.
    """

    def __init__(self, source: ChunkSource, n_action_steps: int | None = None) -> None:
        if n_action_steps is not None and n_action_steps < 1:
            raise ConfigError(
                "n_action_steps must be at least 1, given {n_action_steps}", n_action_steps=n_action_steps
            )
        self._source, self._n_action_steps = source, n_action_steps
        self._start_episode()

    def _start_episode(self) -> None:
        self.provenance: ChunkProvenance | None = None
        self._chunk, self._next, self._step = np.zeros((0, 0), np.float32), 0, 0

    def reset(self) -> None:
        self._source.reset()
        self._start_episode()

    def act(self, observation: Observation) -> Action:
        if self._next >= len(self._chunk):
            chunk = checked(self._source.predict_chunk(observation))
            if self._n_action_steps is not None and self._n_action_steps > len(chunk):
                raise ConfigError(
                    "n_action_steps is {n_action_steps}, and a chunk has {count} actions",
                    n_action_steps=self._n_action_steps,
                    count=len(chunk),
                )
            self._chunk, self._next = chunk[: self._n_action_steps], 0
        action: Action = self._chunk[self._next].copy()
        begun = self._step - self._next
        self.provenance = ChunkProvenance(self._step, begun, begun, 1, self._next, self._next == 0)
        self._next, self._step = self._next + 1, self._step + 1
        return action


class TemporalEnsemble:
    """Averages every prediction that was made for the present step (Zhao et al., 2023, section IV-A).

    The i-th of them, oldest first, weighs exp(-ensemble_weight · i), normalised: older ones weigh more,
    which smooths, and a new observation enters gradually. Memory is the last K / inference_interval chunks.

    Args:
        source: where chunks come from.
        ensemble_weight: 0 is the plain mean; negative trusts the newest most.
        inference_interval: steps from one prediction to the next, 1 to K.

    Attributes:
        provenance: where the last action came from; None before the first.

    Raises:
        ConfigError: `inference_interval` below 1; `act` raises it for one beyond the chunk.
    """

    def __init__(self, source: ChunkSource, ensemble_weight: float = ENSEMBLE, inference_interval: int = 1) -> None:
        if inference_interval < 1:
            raise ConfigError(
                "inference_interval must be at least 1 step, given {inference_interval}",
                inference_interval=inference_interval,
            )
        self._source, self._ensemble_weight, self._interval = source, ensemble_weight, inference_interval
        self._start_episode()

    def _start_episode(self) -> None:
        self.provenance: ChunkProvenance | None = None
        self._ring: npt.NDArray[np.float32] | None = None  # (chunks that can overlap, K, A)
        self._step = 0

    def reset(self) -> None:
        self._source.reset()
        self._start_episode()

    def act(self, observation: Observation) -> Action:
        inference = self._step // self._interval
        if self._step % self._interval == 0:
            self._remember(inference, checked(self._source.predict_chunk(observation)))
        assert self._ring is not None
        slots, length = self._ring.shape[:2]
        # inferences still valid are those begun at most length - 1 steps ago
        oldest = max(0, -((length - 1 - self._step) // self._interval))
        inferences = np.arange(oldest, inference + 1)
        predictions = self._ring[inferences % slots, self._step - inferences * self._interval]
        begun, row = inference * self._interval, self._step % self._interval
        self.provenance = ChunkProvenance(self._step, begun, oldest * self._interval, len(inferences), row, row == 0)
        self._step += 1
        return ensemble(predictions, self._ensemble_weight)

    def _remember(self, inference: int, chunk: npt.NDArray[np.float32]) -> None:
        if self._ring is None:
            if self._interval > len(chunk):
                raise ConfigError(
                    "inference_interval {interval} leaves steps without a prediction: {count} a chunk",
                    interval=self._interval,
                    count=len(chunk),
                )
            self._ring = np.zeros((-(-len(chunk) // self._interval), *chunk.shape), np.float32)
        if chunk.shape != self._ring.shape[1:]:
            raise ContractError(
                "a chunk of shape {shape} after chunks of {expected}", shape=chunk.shape, expected=self._ring.shape[1:]
            )
        self._ring[inference % len(self._ring)] = chunk


def ensemble(predictions: npt.NDArray[np.float32], ensemble_weight: float) -> Action:
    """(A,) mean of (N, A) predictions for one step, oldest first; the i-th weighs exp(-ensemble_weight · i)."""
    weights = np.exp(-ensemble_weight * np.arange(len(predictions)))
    return np.asarray(weights / weights.sum() @ predictions, np.float32)


def checked(chunk: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The chunk as float32; raises `ContractError` unless it is (K, A) with a row at least."""
    array = np.asarray(chunk, np.float32)
    if array.ndim != 2 or not len(array):
        raise ContractError("a chunk must be (K, A) with K of at least 1, given shape {shape}", shape=array.shape)
    return array
