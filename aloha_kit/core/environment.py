"""Environment interface, an extension of dm_env: contract, limits, rest action, success, reproducible resets."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any

import dm_env
import numpy as np
import numpy.typing as npt
from dm_env import specs

from aloha_kit.core.contract import Contract
from aloha_kit.core.features import DEPTHS, IMAGES, Observation
from aloha_kit.core.lang import Message
from aloha_kit.core.limits import SafetyLimits
from aloha_kit.core.policy import Action


@dataclass(frozen=True)
class Outcome:
    """Outcome of an episode. `final_reward` is the reward of its last step, `max_reward` its highest."""

    steps: int
    final_reward: float
    max_reward: float
    reason: str  # "complete", the message of a StopEpisode, or the error that ended it
    error: bool = False


def time_step(reward: float, observation: Observation, *, last: bool, success: bool) -> dm_env.TimeStep:
    """A MID time step, or LAST: a success terminates the episode (discount 0), the end of its time truncates it (1)."""
    if not last:
        return dm_env.transition(reward, observation)
    return (dm_env.termination if success else dm_env.truncation)(reward, observation)


class Environment(dm_env.Environment):  # type: ignore[misc]  # dm_env ships no types
    """A robot, real or simulated, as one dm_env environment that owns time.

    `step(action)` sends the command, waits for the absolute deadline and then observes, so an
    observation is fresh when the policy reads it. `reset` gives FIRST, `step` MID, and LAST on the
    final step: T actions, T + 1 observations. What only some environments can do is in `loop.capabilities`.
    """

    @property
    @abc.abstractmethod
    def contract(self) -> Contract:
        """Names, units, cameras and rate of what `step` takes and gives."""

    @property
    @abc.abstractmethod
    def limits(self) -> SafetyLimits:
        """Bounds of the commands, which the safety guard enforces."""

    @property
    @abc.abstractmethod
    def rest_action(self) -> Action:
        """(A,) the command that an episode which is broken off ends with; velocities are 0."""

    @property
    @abc.abstractmethod
    def max_reward(self) -> float:
        """The highest reward there is; 0 where nothing measures success."""

    @property
    @abc.abstractmethod
    def simulated(self) -> bool:
        """Whether no real robot moves; recorded in every episode."""

    @property
    def measures_success(self) -> bool:
        """Whether a reward measures success."""
        return self.max_reward > 0

    def is_highest(self, reward: float) -> bool:
        """Whether a reward means success: it is the highest there is."""
        return self.measures_success and reward >= self.max_reward

    def succeeded(self, outcome: Outcome) -> bool | None:
        """Whether an episode that ended so is a success; None where nothing measures it.

        Here: its last step holds the highest reward, and no error ended it.
        """
        if not self.measures_success:
            return None
        return not outcome.error and self.is_highest(outcome.final_reward)

    def touched(self, outcome: Outcome) -> bool | None:
        """Whether the highest reward was reached at any step, which is what the published ACT counts; None as above."""
        return self.is_highest(outcome.max_reward) if self.measures_success else None

    def seed(self, seed: int) -> None:
        """Make the next reset reproducible, where chance is the environment's to decide."""

    def checked(self, action: Action) -> npt.NDArray[np.float64]:
        """(A,) a copy of an action that can be sent.

        Raises:
            ValueError: an action of another shape, or one that is not finite.
        """
        command, names = np.array(action, np.float64), self.contract.action_names
        if command.shape != (len(names),):
            raise ValueError(
                Message(
                    "an action has shape ({count},): {names}; given {shape}",
                    count=len(names),
                    names=", ".join(names),
                    shape=command.shape,
                )
            )
        if not np.isfinite(command).all():
            bad = [name for name, value in zip(names, command, strict=True) if not np.isfinite(value)]
            raise ValueError(Message("an action has to be finite; it is not at: {bad}", bad=", ".join(bad)))
        return command

    def observation_spec(self) -> dict[str, Any]:
        """Specs nested like the observation of a simulation; `stamps` of a reset lacks `command`."""
        contract = self.contract
        depth = contract.depth_cameras
        images = [*(f"{IMAGES}{name}" for name in contract.cameras), *(f"{DEPTHS}{name}" for name in depth)]
        vectors = [feature for feature in contract.inputs if len(feature.shape) == 1]
        return {
            **{feature.name: specs.Array(feature.shape, np.float32, feature.name) for feature in vectors},
            "images": {
                name: specs.BoundedArray((*size, 3), np.uint8, 0, 255, f"images/{name}")
                for name, size in contract.cameras.items()
            },
            **(
                {"images_depth": {n: specs.Array(size, np.uint16, f"{DEPTHS}{n}") for n, size in depth.items()}}
                if depth
                else {}
            ),
            "stamps": {name: specs.Array((), np.int64, f"stamps/{name}") for name in ("qpos", "deadline", *images)},
        }

    def action_spec(self) -> specs.BoundedArray:
        """(A,) commands within the limits."""
        low, high = (bound.astype(np.float32) for bound in (self.limits.lower, self.limits.upper))
        return specs.BoundedArray(low.shape, np.float32, low, high, "action")

    def reward_spec(self) -> specs.BoundedArray:
        """Bounds of the reward, here 0 to `max_reward`."""
        return specs.BoundedArray((), float, 0.0, self.max_reward, "reward")

    def describe(self) -> dict[str, Any]:
        """Metadata of this environment for an episode (task, seed, versions)."""
        return {}
