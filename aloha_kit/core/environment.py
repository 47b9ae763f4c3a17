"""What every environment of the toolkit adds to dm_env's: a contract, a top reward, reproducible resets."""

from __future__ import annotations

import abc
from typing import Any

import dm_env

from aloha_kit.core.contract import Contract


class Environment(dm_env.Environment):  # type: ignore[misc]  # dm_env ships no types
    """A rig, real or simulated, as one dm_env environment that owns time.

    `step(action)` sends the command, waits for the absolute deadline and then observes, so an
    observation is fresh when the policy sees it. `reset` gives FIRST, `step` MID, and LAST on the
    final step: T actions, T + 1 observations.
    """

    @property
    @abc.abstractmethod
    def contract(self) -> Contract:
        """Names, units, cameras and rate of what `step` takes and gives."""

    @property
    @abc.abstractmethod
    def max_reward(self) -> float:
        """The reward that means success when the last step holds it; 0 where nothing measures it."""

    def seed(self, seed: int) -> None:
        """Make the next reset reproducible, where chance is the environment's to decide."""

    def describe(self) -> dict[str, Any]:
        """What an episode should remember about this environment (task, seed, versions)."""
        return {}
