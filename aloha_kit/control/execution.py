"""From chunks to single actions: play a chunk out, or average all that was ever predicted for now.

numpy alone, so that a robot PC can run them on chunks that come from elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from aloha_kit.core import Action, ConfigError, ContractError, Observation, Policy

ENSEMBLE = 0.01
"""Temporal ensembling's coefficient (Zhao et al., 2023)."""


class ChunkSource(Protocol):
    """Predicts the next K actions; `agent.ChunkPolicy` is one."""

    def reset(self) -> None:
        """Forget the previous episode."""

    def predict_chunk(self, observation: Observation) -> npt.NDArray[np.float32]:
        """(K, A), the same K and A every time; row i is for i steps from now."""
        ...


@dataclass(frozen=True)
class ChunkProvenance:
    """Which chunks the action of a step came from. Steps count from the episode's first, 0.

    Attributes:
        step: the step that the action is for.
        newest, oldest: the steps whose observations gave the newest and the oldest chunk in it.
        chunks: how many chunks take part.
        row: the row of the newest one.
        seam: whether the newest one takes part for the first time (so does an episode's first chunk).
    """

    step: int
    newest: int
    oldest: int
    chunks: int
    row: int
    seam: bool


class Executor(Policy, Protocol):
    """A policy that plays chunks."""

    @property
    def playing(self) -> ChunkProvenance | None:
        """Where the last action came from; None before the first, and while holding still."""
        ...


class ChunkExecutor:
    """Plays the first `horizon` actions of a chunk, then asks for the next one.

    Args:
        source: where chunks come from.
        horizon: actions played of each chunk; None plays all.

    Attributes:
        playing: where the last action came from; None before the first.

    Raises:
        ConfigError: a horizon below 1; `act` raises it for one beyond the chunk.
    """

    def __init__(self, source: ChunkSource, horizon: int | None = None) -> None:
        if horizon is not None and horizon < 1:
            raise ConfigError(f"horizon must be at least 1 action, given {horizon}")
        self._source, self._horizon = source, horizon
        self._start_episode()

    def _start_episode(self) -> None:
        self.playing: ChunkProvenance | None = None
        self._chunk, self._next, self._step = np.zeros((0, 0), np.float32), 0, 0

    def reset(self) -> None:
        self._source.reset()
        self._start_episode()

    def act(self, observation: Observation) -> Action:
        if self._next >= len(self._chunk):
            chunk = checked(self._source.predict_chunk(observation))
            if self._horizon is not None and self._horizon > len(chunk):
                raise ConfigError(f"horizon {self._horizon} is beyond the chunk of {len(chunk)} actions")
            self._chunk, self._next = chunk[: self._horizon], 0
        action: Action = self._chunk[self._next].copy()
        begun = self._step - self._next
        self.playing = ChunkProvenance(self._step, begun, begun, 1, self._next, self._next == 0)
        self._next, self._step = self._next + 1, self._step + 1
        return action


class TemporalEnsemble:
    """Averages every prediction that was made for the present step (Zhao et al., 2023, section IV-A).

    The i-th of them, oldest first, weighs exp(-coefficient · i), normalised: older ones weigh more,
    which smooths, and a new observation enters gradually. Memory is the last K / query_every chunks.

    Args:
        source: where chunks come from.
        coefficient: 0 is the plain mean; negative trusts the newest most.
        query_every: steps from one prediction to the next, 1 to K.

    Attributes:
        playing: where the last action came from; None before the first.

    Raises:
        ConfigError: `query_every` below 1; `act` raises it for one beyond the chunk.
    """

    def __init__(self, source: ChunkSource, coefficient: float = ENSEMBLE, query_every: int = 1) -> None:
        if query_every < 1:
            raise ConfigError(f"query_every must be at least 1 step, given {query_every}")
        self._source, self._coefficient, self._every = source, coefficient, query_every
        self._start_episode()

    def _start_episode(self) -> None:
        self.playing: ChunkProvenance | None = None
        self._ring: npt.NDArray[np.float32] | None = None  # (chunks that can overlap, K, A)
        self._step = 0

    def reset(self) -> None:
        self._source.reset()
        self._start_episode()

    def act(self, observation: Observation) -> Action:
        query = self._step // self._every
        if self._step % self._every == 0:
            self._remember(query, checked(self._source.predict_chunk(observation)))
        assert self._ring is not None
        slots, length = self._ring.shape[:2]
        # queries still valid are those begun at most length - 1 steps ago
        oldest = max(0, -((length - 1 - self._step) // self._every))
        queries = np.arange(oldest, query + 1)
        predictions = self._ring[queries % slots, self._step - queries * self._every]
        begun, row = query * self._every, self._step % self._every
        self.playing = ChunkProvenance(self._step, begun, oldest * self._every, len(queries), row, row == 0)
        self._step += 1
        return ensemble(predictions, self._coefficient)

    def _remember(self, query: int, chunk: npt.NDArray[np.float32]) -> None:
        if self._ring is None:
            if self._every > len(chunk):
                raise ConfigError(f"query_every {self._every} leaves steps without a prediction: {len(chunk)} a chunk")
            self._ring = np.zeros((-(-len(chunk) // self._every), *chunk.shape), np.float32)
        if chunk.shape != self._ring.shape[1:]:
            raise ContractError(f"a chunk of shape {chunk.shape} after chunks of {self._ring.shape[1:]}")
        self._ring[query % len(self._ring)] = chunk


def ensemble(predictions: npt.NDArray[np.float32], coefficient: float) -> Action:
    """(A,) mean of (N, A) predictions for one step, oldest first; the i-th weighs exp(-coefficient · i)."""
    weights = np.exp(-coefficient * np.arange(len(predictions)))
    return np.asarray(weights / weights.sum() @ predictions, np.float32)


def checked(chunk: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The chunk as float32; raises `ContractError` unless it is (K, A) with a row at least."""
    array = np.asarray(chunk, np.float32)
    if array.ndim != 2 or not len(array):
        raise ContractError(f"a chunk must be (K, A) with K of at least 1, given shape {array.shape}")
    return array
