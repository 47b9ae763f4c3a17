"""Expert of reaching: a motion of least jerk to joint angles that inverse kinematics finds for the target."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from aloha_kit.core import Action, ConfigError, Contract, Observation, Policy, START_ARM_POSE, VX300S
from aloha_kit.sim.kinematics import Kinematics
from aloha_kit.sim.planning import least_jerk

SECONDS = 2.0  # of the motion; the fastest joint then stays below half of its speed limit
NOISE = 0.2  # rad by which noise 1 bends the motion at its middle at most, and share by which it takes longer


class ReachScene(Protocol):
    """What the expert needs of an environment."""

    @property
    def contract(self) -> Contract: ...

    def object_poses(self) -> dict[str, npt.NDArray[np.float64]]:
        """True pose (7,) of each object; `target` is where to go."""
        ...


class ReachExpert(Policy):
    """Plays a motion that is planned at `reset` from the true place of the target; gravity is made up for.

    Deterministic from the target; with `noise` above 0 the n-th reset draws another way and pace from (seed, n).

    Raises:
        ConfigError: a negative noise.
        ValueError: a target out of the arm's reach (at `reset`).
    """

    def __init__(self, env: ReachScene, arm: str, *, noise: float = 0.0, seed: int = 0) -> None:
        if not noise >= 0:
            raise ConfigError("motion noise must be at least 0, given {noise}", noise=noise)
        self._env, self._arm, self._noise, self._seed = env, arm, noise, seed
        self._kinematics = Kinematics((arm,))
        self._resets, self._step = 0, 0
        self._start = self._goal = self._bend = START_ARM_POSE.astype(np.float64)
        self._seconds = SECONDS

    def reset(self) -> None:
        """Plan the motion anew, from where the target is now."""
        rng = np.random.default_rng([self._seed, self._resets])
        self._resets, self._step = self._resets + 1, 0
        self._bend = NOISE * self._noise * rng.uniform(-1, 1, VX300S.dof)
        self._seconds = SECONDS * (1 + NOISE * self._noise * rng.uniform())
        target = self._env.object_poses()["target"][:3]
        self._goal = self._kinematics.inverse_position(self._arm, target, self._start)

    def act(self, observation: Observation) -> Action:
        """(A,) joint targets one period ahead on the way, the gripper as it is."""
        self._step += 1
        share = least_jerk(self._step / self._env.contract.rate_hz / self._seconds)
        joints = self._start + share * (self._goal - self._start) + np.sin(np.pi * share) * self._bend
        sag = self._kinematics.sag({self._arm: joints})[self._arm]
        target = np.clip(joints + sag, VX300S.lower, VX300S.upper)
        return np.array([*target, observation["qpos"][-1]], np.float32)
