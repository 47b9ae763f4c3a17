"""A recording in the place of a policy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aloha_kit.core import Action, EpisodeError, Observation, StopEpisode


class Replay:
    """Gives out recorded actions (T, A) one after another, whatever is observed.

    Raises:
        EpisodeError: `actions` is not a table with at least one row.
        StopEpisode: from `act`, after the last row.
    """

    def __init__(self, actions: npt.ArrayLike) -> None:
        self._actions = np.array(actions, np.float32)
        if self._actions.ndim != 2 or len(self._actions) == 0:
            raise EpisodeError(f"a recording of actions has shape (T, A) with T ≥ 1, given {self._actions.shape}")
        self._next = 0

    def reset(self) -> None:
        self._next = 0

    def act(self, observation: Observation) -> Action:
        if self._next == len(self._actions):
            raise StopEpisode("end of the recording")
        self._next += 1
        action: Action = self._actions[self._next - 1].copy()
        return action
