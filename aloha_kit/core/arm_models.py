"""Joints and grippers of the arms ALOHA is built from.

Joint limits are those of the Interbotix URDFs and of AgileX's Piper SDK (rad); gripper travel and its
joint angles are the constants that ALOHA, ACT and their data sets share, so numbers mean the same here
as there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aloha_kit.core.lang import Message
from aloha_kit.core.plugins import resolve

Array = npt.NDArray[np.float32]

ARM_JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")

START_ARM_POSE = np.array([0.0, -0.96, 1.16, 0.0, -0.3, 0.0], np.float32)
"""(6,) rad: where ALOHA's arms begin an episode."""

SLEEP_ARM_POSE = np.array([0.0, -1.7, 1.55, 0.12, 0.65, 0.0], np.float32)
"""(6,) rad: folded and resting on themselves, so that torque can be switched off."""


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
class Crank:
    """A gripper whose motor turns a horn that pushes the finger along a rail; lengths in metres."""

    horn: float
    arm: float

    def travel(self, angle: float) -> float:
        """Finger position (m) at a motor angle (rad)."""
        return float(self.horn * np.sin(angle) + np.sqrt(self.arm**2 - (self.horn * np.cos(angle)) ** 2))

    def travel_rate(self, angle: float) -> float:
        """Finger speed (m/s) for a motor speed of 1 rad/s at `angle`: the derivative of `travel`."""
        across = self.horn * np.cos(angle)
        return float(across + across * self.horn * np.sin(angle) / np.sqrt(self.arm**2 - across**2))

    def angle(self, travel: float) -> float:
        """Motor angle (rad) that puts the finger at `travel` (m), the nearest there is: the inverse of `travel`."""
        if travel <= 0:
            return -np.pi / 2
        sine = (travel**2 + self.horn**2 - self.arm**2) / (2 * travel * self.horn)
        return float(np.arcsin(np.clip(sine, -1.0, 1.0)))


@dataclass(frozen=True)
class ArmModel:
    """One arm's joints, grippers, limits and poses.

    A vector of the arm holds its `joints` (rad), then its `grippers` (normalised opening): 6 and 1 on ALOHA.

    `lower`, `upper`, `start` and `rest` have an entry for each joint. `finger` is metres of one finger; `gripper` is
    what its driver takes: the motor's angle in radians, or metres where there is no crank. A command outside
    `gripper_limits` is refused. `velocity` is the speed limit of each joint in rad/s.

    Raises:
        ValueError: the number of limits or of a pose's entries is not that of the joints, or two names are equal.
    """

    name: str
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    finger: GripperRange
    gripper: GripperRange
    finger_limits: tuple[float, float]
    velocity: float = np.pi
    crank: Crank | None = None
    gripper_limits: tuple[float, float] = (-np.pi, np.pi)
    start: tuple[float, ...] = tuple(START_ARM_POSE.tolist())
    rest: tuple[float, ...] = tuple(SLEEP_ARM_POSE.tolist())
    joints: tuple[str, ...] = ARM_JOINTS
    grippers: tuple[str, ...] = ("gripper",)

    def __post_init__(self) -> None:
        for field in ("lower", "upper", "start", "rest"):
            if (given := len(getattr(self, field))) != self.dof:
                raise ValueError(
                    Message(
                        "arm model '{name}': {field} has {given} entries for {dof} joints",
                        name=self.name,
                        field=field,
                        given=given,
                        dof=self.dof,
                    )
                )
        if len(set(self.names)) < self.size:
            raise ValueError(
                Message(
                    "arm model '{name}': two joints or grippers have one name: {names}",
                    name=self.name,
                    names=", ".join(self.names),
                )
            )

    @property
    def dof(self) -> int:
        """Number of joints, without grippers."""
        return len(self.joints)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the entries of a vector: joints, then grippers."""
        return (*self.joints, *self.grippers)

    @property
    def size(self) -> int:
        """Number of entries of a vector."""
        return len(self.joints) + len(self.grippers)

    def vector(self, joints: npt.ArrayLike, gripper: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """(size,) joints and grippers side by side; one value stands for all joints, or for all grippers."""
        arm = np.broadcast_to(np.asarray(joints, np.float64), self.dof)
        return np.concatenate([arm, np.broadcast_to(np.asarray(gripper, np.float64), len(self.grippers))])


_TURN = np.pi - 1e-5

VX300S = ArmModel(
    "vx300s",
    (-_TURN, -1.8500, -1.7628, -_TURN, -1.8675, -_TURN),
    (_TURN, 1.2566, 1.6057, _TURN, 2.2340, _TURN),
    finger=GripperRange(0.01844, 0.05800),
    gripper=GripperRange(-0.6213, 1.4910),
    finger_limits=(0.021, 0.057),
    crank=Crank(horn=0.022, arm=0.036),
)
WX250S = ArmModel(
    "wx250s",
    (-_TURN, -1.8850, -2.1468, -_TURN, -1.7453, -_TURN),
    (_TURN, 1.9897, 1.6057, _TURN, 2.1468, _TURN),
    finger=GripperRange(0.01244, 0.02417),
    gripper=GripperRange(-0.6842, 0.3083),
    finger_limits=(0.015, 0.037),
    crank=Crank(horn=0.014, arm=0.024),
)
_STROKE = GripperRange(0.0, 0.08)
PIPER = ArmModel(  # joint ranges as in its SDK; the slowest joint turns at 180 degrees a second
    "piper",
    (-2.6179, 0.0, -2.967, -1.745, -1.22, -2.09439),
    (2.6179, 3.14, 0.0, 1.745, 1.22, 2.09439),
    finger=_STROKE,
    gripper=_STROKE,
    finger_limits=(0.0, 0.08),
    gripper_limits=(-0.02, 0.10),  # its driver stops at 0 and 0.08 itself
    start=(0.0, 0.0, 0.0, 0.0, 0.0, 0.0),  # folded
    rest=(0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
)
ARM_MODELS = {model.name: model for model in (VX300S, WX250S, PIPER)}


_TABLE = {model.name: f"aloha_kit.core.arm_models:{model.name.upper()}" for model in ARM_MODELS.values()}


def arm_model(name: str) -> ArmModel:
    """Arm model of a name in `ARM_MODELS`, or of `my_package.module:NAME`, an `ArmModel` of the user's own.

    Raises:
        ConfigError: there is none; lists those that exist.
    """
    found: ArmModel = resolve("arm_models", name, _TABLE, instance=ArmModel)
    return found


def joint_names(arms: tuple[str, ...] = ("left", "right")) -> tuple[str, ...]:
    """ALOHA's names in vector order: `left_waist … left_gripper, right_waist … right_gripper` (14 for two arms)."""
    return vector_names(dict.fromkeys(arms, VX300S))


def vector_names(arms: Mapping[str, ArmModel]) -> tuple[str, ...]:
    """Names in vector order of a rig's arms, {arm: its model}: `left_waist … left_gripper, right_waist …`."""
    return tuple(f"{arm}_{name}" for arm, model in arms.items() for name in model.names)


BASE = "base"


def by_arm(names: Sequence[str]) -> dict[str, list[int]]:
    """{arm: places in a vector} by what its entries' names begin with, up to the first underscore.

    Arms in the order of the vector, and last a base (`base_linear`); names without an underscore are one arm, "".
    """
    found: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        arm = BASE if name.startswith(BASE) else name.partition("_")[0] if "_" in name else ""
        found.setdefault(arm, []).append(i)
    base = found.pop(BASE, None)
    return found if base is None else {**found, BASE: base}
