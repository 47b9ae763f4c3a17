"""Scripted demonstrations: one pass in joint space, planned from the true object poses at reset."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from aloha_kit.core import Action, ConfigError, Contract, Observation, Policy
from aloha_kit.sim import scripts
from aloha_kit.sim.planning import Planner


class ScriptedScene(Protocol):
    """What an expert needs of an environment."""

    @property
    def contract(self) -> Contract: ...

    @property
    def episode_len(self) -> int: ...

    def script(self) -> scripts.Script:
        """The demonstration from where the objects are now."""
        ...


class ScriptedExpert(Policy):
    """Plays a plan made at `reset` from the environment's true object poses.

    Deterministic from the object poses and `seed`; with `noise` above 0 the n-th reset draws from
    (seed, n), so that one expert makes varied demonstrations (see `scripts.vary`).

    Raises:
        ConfigError: a negative noise, or an environment that does not run at the scripts' 50 Hz.
        ValueError: objects that the arms cannot reach (at `reset`).
    """

    def __init__(self, env: ScriptedScene, *, noise: float = 0.0, seed: int = 0) -> None:
        if not noise >= 0:
            raise ConfigError("motion noise must be at least 0, given {noise}", noise=noise)
        self._env, self._noise, self._seed = env, noise, seed
        self._planner = Planner(env.contract.rate_hz)
        self._resets, self._step = 0, 0
        self._actions = np.zeros((1, len(env.contract.action_names)), np.float32)

    def reset(self) -> None:
        """Plan the whole episode from where the objects are now."""
        rng = np.random.default_rng([self._seed, self._resets])
        script = scripts.vary(self._env.script(), self._noise, rng)
        self._actions = self._plan(script)
        self._resets, self._step = self._resets + 1, 0

    def act(self, observation: Observation) -> Action:
        """(A,) the plan's joint targets of this step; its last ones once it is over."""
        action: Action = self._actions[min(self._step, len(self._actions) - 1)].copy()
        self._step += 1
        return action

    def _plan(self, script: scripts.Script) -> npt.NDArray[np.float32]:
        """(T, A) actions of the whole episode."""
        return self._planner.actions(script, self._env.episode_len)
