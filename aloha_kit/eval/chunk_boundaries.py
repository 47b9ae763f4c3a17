"""How hard a policy jumps where one chunk takes over from another."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.control.execution import Executor
from aloha_kit.core import Action, Observation


class BoundaryMonitor:
    """A policy, watched between its executor and the safety guard, which would cut the jumps.

    A step is measured in what the guard lets each entry move in a period, the largest counts: at more than 1 a command
    is limited. At a chunk boundary are the first step of a newer chunk and those on which more than one is played, with
    the one after, since a fade may end in a jump as well; an episode's first chunk joins on to nothing.

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
        self._at_seam: list[bool] = []
        self._seams = 0

    def reset(self) -> None:
        self._start_episode()
        self._policy.reset()

    def act(self, observation: Observation) -> Action:
        action = self._policy.act(observation)
        playing = self._policy.playing
        joining = playing is not None and (playing.seam or playing.chunks > 1)
        if self._before is not None:
            self._seams += playing is not None and playing.seam
            self._steps.append(float(np.max(np.abs(action - self._before) / self._reach)))
            self._at_seam.append(joining or self._joining)
            self._joining = joining and playing is not None and playing.chunks > 1
        self._before = action
        return action

    def report(self) -> dict[str, Any]:
        """Of the episode: the number of chunk boundaries, the largest step at one, the median and the largest step."""
        steps, at_seam = np.array(self._steps or [0.0]), np.array(self._at_seam or [False])
        return {
            "count": self._seams,
            "largest": float(steps[at_seam].max(initial=0.0)),
            "median_step": float(np.median(steps)),
            "largest_step": float(steps.max()),
        }
