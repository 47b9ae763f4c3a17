"""Joints and grippers of the arms ALOHA is built from.

Joint limits are those of the Interbotix URDFs (rad); gripper travel and its joint angles are the
constants that ALOHA, ACT and their data sets share, so numbers mean the same here as there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

ARM_JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")

START_ARM_POSE = np.array([0.0, -0.96, 1.16, 0.0, -0.3, 0.0], np.float32)
"""(6,) rad: where ALOHA's arms begin an episode."""


@dataclass(frozen=True)
class GripperRange:
    """A gripper's travel between closed (normalised 0) and open (normalised 1)."""

    closed: float
    open: float

    def normalise(self, value: npt.ArrayLike) -> Array:
        """Travel (m or rad) to normalised opening; not clipped, like the data sets it must match."""
        return np.asarray((np.asarray(value) - self.closed) / (self.open - self.closed), np.float32)

    def unnormalise(self, opening: npt.ArrayLike) -> Array:
        """Normalised opening to travel (m or rad)."""
        return np.asarray(np.asarray(opening) * (self.open - self.closed) + self.closed, np.float32)

    def normalise_velocity(self, value: npt.ArrayLike) -> Array:
        """Travel speed (m/s or rad/s) to normalised opening per second."""
        return np.asarray(np.asarray(value) / (self.open - self.closed), np.float32)


@dataclass(frozen=True)
class ArmModel:
    """One arm's limits; `finger_*` in metres of one finger, `gripper_*` in radians of its motor."""

    name: str
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    finger: GripperRange
    gripper: GripperRange
    finger_limits: tuple[float, float]
    velocity: float = np.pi


_TURN = np.pi - 1e-5

VX300S = ArmModel(
    "vx300s",
    (-_TURN, -1.8500, -1.7628, -_TURN, -1.8675, -_TURN),
    (_TURN, 1.2566, 1.6057, _TURN, 2.2340, _TURN),
    finger=GripperRange(0.01844, 0.05800),
    gripper=GripperRange(-0.6213, 1.4910),
    finger_limits=(0.021, 0.057),
)
WX250S = ArmModel(
    "wx250s",
    (-_TURN, -1.8850, -2.1468, -_TURN, -1.7453, -_TURN),
    (_TURN, 1.9897, 1.6057, _TURN, 2.1468, _TURN),
    finger=GripperRange(0.01244, 0.02417),
    gripper=GripperRange(-0.6842, 0.3083),
    finger_limits=(0.015, 0.037),
)


def joint_names(arms: tuple[str, ...] = ("left", "right")) -> tuple[str, ...]:
    """Names in vector order: `left_waist … left_gripper, right_waist … right_gripper` (14 for two arms)."""
    return tuple(f"{arm}_{joint}" for arm in arms for joint in (*ARM_JOINTS, "gripper"))
