"""Random numbers of a sampling policy."""

from __future__ import annotations


class InferenceSeeds:
    """The seed of each inference: (seed of the rollout, number of the inference in it).

    Rollouts count up: the first `start` begins the one of `first`, each later one the next.
    """

    def __init__(self, first: int = 0) -> None:
        self._next, self._rollout, self._count = first, first, 0

    def start(self, rollout: int | None = None) -> None:
        """Begin a rollout, by its seed where it is given."""
        self._rollout = self._next if rollout is None else rollout
        self._next, self._count = self._rollout + 1, 0

    def take(self) -> tuple[int, int]:
        """The seed of the next inference."""
        self._count += 1
        return self._rollout, self._count - 1
