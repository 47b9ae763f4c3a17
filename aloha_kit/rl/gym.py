"""A house environment as a gymnasium one: named observation groups in, actions in [-1, 1], the guard between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from aloha_kit.core import Action, Environment, Observation, Outcome
from aloha_kit.loop import SafetyGuard
from aloha_kit.loop.capabilities import render_on_request, TargetBands
from aloha_kit.rl.actions import ActionMapping
from aloha_kit.rl.episodes import bands_of, EpisodeRecorder
from aloha_kit.rl.groups import ObservationGroups, Values

EPISODE = "episode_summary"
"""Key of `info` at the end of an episode: the values of its `EpisodeSummary`."""


class GymEnv(gymnasium.Env[Values, npt.NDArray[np.float32]]):
    """Environment of one task.

    An episode whose last discount is 0 is terminated, any other one truncated. What is commanded passes the safety
    guard, as in every other loop.

    Args:
        groups: names of the observation groups.
        seed: of the first reset, and of the draws of bands.
    """

    def __init__(self, env: Environment, groups: Sequence[str], *, seed: int = 0) -> None:
        render_on_request(env)
        self._env: Any = env
        self._groups, self._mapping = ObservationGroups(groups, env.contract), ActionMapping(env)
        self.observation_space: Any = self._groups.space
        self.action_space: Any = self._mapping.space
        self._guard = SafetyGuard(_Given(self), env.limits)
        self._recorder = EpisodeRecorder(env)
        self._weights = np.ones(max(len(bands_of(env)), 1))
        self._values: npt.NDArray[np.float32] = np.zeros(self.action_space.shape, np.float32)
        self._seed(seed)

    def set_bands(self, weights: Sequence[float]) -> None:
        """Draw the band of the next targets in proportion to `weights`, one for each band."""
        self._weights = np.asarray(weights, np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Values, dict[str, Any]]:
        if seed is not None:
            self._seed(seed)
        if isinstance(self._env, TargetBands):
            self._env.band = int(self.np_random.choice(len(self._weights), p=self._weights / self._weights.sum()))
        timestep = self._env.reset()
        self._guard.reset()
        self._recorder.on_reset(timestep)
        self._observation: Observation = timestep.observation
        self._steps, self._best = 0, 0.0
        return self._groups.read(self._observation), {}

    def step(self, action: npt.NDArray[np.float32]) -> tuple[Values, float, bool, bool, dict[str, Any]]:
        self._values = action
        command = self._guard.act(self._observation)
        timestep = self._env.step(command)
        self._recorder.on_step(command, timestep)
        self._observation, reward = timestep.observation, float(timestep.reward or 0.0)
        self._steps, self._best = self._steps + 1, max(self._best, reward)
        info: dict[str, Any] = {}
        if timestep.last():
            self._recorder.on_end(Outcome(self._steps, reward, self._best, "complete"))
            info[EPISODE] = asdict(self._recorder.summary)
        terminated = timestep.last() and timestep.discount == 0
        return self._groups.read(self._observation), reward, terminated, timestep.last() and not terminated, info

    def close(self) -> None:
        self._env.close()

    def _seed(self, seed: int) -> None:
        self._env.seed(seed)
        super().reset(seed=seed)  # of the draws of bands


class _Given:
    """Policy inside the guard: the values that `step` was called with."""

    def __init__(self, gym: GymEnv) -> None:
        self._gym = gym

    def reset(self) -> None:
        self._gym._mapping.reset()

    def act(self, observation: Observation) -> Action:
        return self._gym._mapping.command(self._gym._values, observation)
