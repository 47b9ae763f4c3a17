"""Jumps of the action at chunk boundaries."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.control.execution import Executor
from aloha_kit.core import Action, Observation


class BoundaryMonitor:
    """A policy that measures jumps at chunk boundaries, between the executor and the safety guard, which limits them.

    A change is measured in what the guard allows each entry in a period, and the largest entry counts: at more than 1
    a command is limited. At a chunk boundary are the first step of a newer chunk and those on which more than one takes
    part, with the one after, since a fade may end in a jump as well; an episode's first chunk follows none.

    Args:
        reach: (A,) the largest change of each entry in one step.
    """

    def __init__(self, policy: Executor, reach: npt.NDArray[np.float64]) -> None:
        self._policy, self._reach = policy, reach
        self._start_episode()

    def _start_episode(self) -> None:
        self._before: Action | None = None
        self._joining = False
        self._steps: list[float] = []
        self._at_boundary: list[bool] = []
        self._boundaries = 0

    def reset(self) -> None:
        self._start_episode()
        self._policy.reset()

    def act(self, observation: Observation) -> Action:
        action = self._policy.act(observation)
        provenance = self._policy.provenance
        joining = provenance is not None and (provenance.boundary or provenance.chunks > 1)
        if self._before is not None:
            self._boundaries += provenance is not None and provenance.boundary
            self._steps.append(float(np.max(np.abs(action - self._before) / self._reach)))
            self._at_boundary.append(joining or self._joining)
            self._joining = joining and provenance is not None and provenance.chunks > 1
        self._before = action
        return action

    def report(self) -> dict[str, Any]:
        """Chunk boundaries of the episode: their number, the largest step at one, the median and the largest step."""
        steps, at_boundary = np.array(self._steps or [0.0]), np.array(self._at_boundary or [False])
        return {
            "count": self._boundaries,
            "largest": float(steps[at_boundary].max(initial=0.0)),
            "median_step": float(np.median(steps)),
            "largest_step": float(steps.max()),
        }
