"""Actions of a learning policy: values in [-1, 1] to commands of an environment."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from aloha_kit.core import Action, Environment, Observation
from aloha_kit.loop.capabilities import DeltaActions

Array = npt.NDArray[np.float64]


class ActionMapping:
    """Mapping of a policy's values to commands.

    Where the environment states `action_delta`, a value moves the last target by that much at most, and at most by the
    ramp of the limits, so that the guard, which ramps the first commands of an episode, does not lag behind. Entries
    whose delta is 0 stay at the first observed position and have no value. Elsewhere -1 and 1 are the lower and the
    upper limit.
    """

    def __init__(self, env: Environment) -> None:
        self._limits = env.limits
        count = len(self._limits.names)
        self._delta: Array | None = None
        if isinstance(env, DeltaActions):
            self._delta = np.minimum(env.action_delta, env.limits.ramp)
        self._moved = np.flatnonzero(np.ones(count) if self._delta is None else self._delta)
        self._target: Array | None = None

    @property
    def space(self) -> spaces.Box:
        """(N,) values in [-1, 1], one for each entry of the action that the policy moves."""
        return spaces.Box(-1.0, 1.0, (len(self._moved),), np.float32)

    def reset(self) -> None:
        """Begin an episode: the first target starts from the first observed position."""
        self._target = None

    def command(self, values: npt.ArrayLike, observation: Observation) -> Action:
        """(A,) absolute command within the limits, of (N,) values in [-1, 1]."""
        lower, upper = self._limits.lower, self._limits.upper
        chosen = np.clip(np.asarray(values, np.float64), -1.0, 1.0)
        if self._delta is None:
            return np.asarray(lower + (chosen + 1) / 2 * (upper - lower), np.float32)
        if self._target is None:
            self._target = self._limits.present(observation["qpos"])
        self._target[self._moved] += chosen * self._delta[self._moved]
        self._target = np.clip(self._target, lower, upper)
        return np.asarray(self._target, np.float32)
