"""Expert of Lift: a script that moves above the cube, descends, grasps and lifts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aloha_kit.core import Action, ConfigError, Observation, Policy

Array = npt.NDArray[np.float64]

ABOVE = 0.06  # m above the cube's centre, where the descent begins
REACHED = 0.01  # m from the axis above the cube
LEVEL = 0.008  # m of height from the cube's centre, where the gripper closes
ALIGNED = 0.1  # rad between the fingers' axis and a side of the cube
GRASP_STEPS = 7  # actions in which the gripper closes
LIFT = 0.1  # m, the change of height that is commanded while lifting
MOVE, TURN = 0.05, 0.5  # m and rad of a command of 1
NOISE = 0.02  # m by which noise 1 moves the place above the cube at most, along each axis


class LiftExpert(Policy):
    """Approaches, descends, grasps and lifts, from the poses of end effector and cube in the observation.

    The fingers' axis is turned to the nearest pair of the cube's sides. Deterministic from the observations; with
    `noise` above 0 the place above the cube and the speed vary, and the n-th reset draws from (seed, n).

    Raises:
        ConfigError: a negative noise.
    """

    def __init__(self, *, noise: float = 0.0, seed: int = 0) -> None:
        if not noise >= 0:
            raise ConfigError("motion noise must be at least 0, given {noise}", noise=noise)
        self._noise, self._seed, self._resets = noise, seed, 0
        self._offset, self._speed = np.zeros(3), 1.0
        self._phase, self._closing = "approach", 0

    def reset(self) -> None:
        """Begin with the approach."""
        rng = np.random.default_rng([self._seed, self._resets])
        self._resets += 1
        self._phase, self._closing = "approach", 0
        self._offset = NOISE * self._noise * rng.uniform(-1, 1, 3)
        self._speed = float(np.exp(-0.5 * min(self._noise, 2.0) * rng.uniform()))

    def act(self, observation: Observation) -> Action:
        """(7,) see `Lift`."""
        state = np.asarray(observation["qpos"], np.float64)
        objects = np.asarray(observation["environment_state"], np.float64)
        effector, cube = state[:3], objects[:3]
        turn = _to_nearest_side(state[3:7], objects[3:7])
        above = cube + [0.0, 0.0, ABOVE] + self._offset
        self._next_phase(effector, cube, above, turn)
        target = {"approach": above, "lift": effector + [0.0, 0.0, LIFT]}.get(self._phase, cube)
        action = np.zeros(7)
        action[:3] = np.clip((target - effector) / MOVE, -1, 1) * self._speed
        if self._phase in ("approach", "descend"):
            action[5] = np.clip(turn / TURN, -1, 1)
        action[6] = 1.0 if self._phase in ("grasp", "lift") else -1.0
        return action.astype(np.float32)

    def _next_phase(self, effector: Array, cube: Array, above: Array, turn: float) -> None:
        if self._phase == "approach" and np.linalg.norm((effector - above)[:2]) < REACHED and abs(turn) < ALIGNED:
            self._phase = "descend"
        elif self._phase == "descend" and abs(effector[2] - cube[2]) < LEVEL:
            self._phase = "grasp"
        elif self._phase == "grasp":
            self._closing += 1
            if self._closing >= GRASP_STEPS:
                self._phase = "lift"


def _to_nearest_side(effector: Array, cube: Array) -> float:
    """Rotation about the vertical axis, rad in [-π/4, π/4], that turns the fingers' axis to a side of the cube.

    Args:
        effector, cube: (4,) quaternions x, y, z, w.
    """
    difference = _heading(cube) - _heading(effector)
    return float((difference + np.pi / 4) % (np.pi / 2) - np.pi / 4)


def _heading(quaternion: Array) -> float:
    """Direction of a body's y axis in the horizontal plane, rad."""
    x, y, z, w = quaternion
    return float(np.arctan2(1 - 2 * (x * x + z * z), 2 * (x * y - w * z)))
