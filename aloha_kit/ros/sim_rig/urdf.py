"""A robot description of an Interbotix arm: its joints and their limits, with links drawn as nothing."""

from __future__ import annotations

from aloha_kit.core import ArmModel
from aloha_kit.core.arms import ARM_JOINTS

# m from each joint to the next, and the axis it turns about: waist first, gripper last
OFFSETS = {
    "vx300s": ((0, 0, 0.079), (0, 0, 0.048), (0.06, 0, 0.3), (0.2, 0, 0), (0.1, 0, 0), (0.07, 0, 0), (0.043, 0, 0)),
    "wx250s": ((0, 0, 0.072), (0, 0, 0.039), (0.05, 0, 0.25), (0.175, 0, 0), (0.08, 0, 0), (0.06, 0, 0), (0.043, 0, 0)),
}  # fmt: skip
AXES = ("0 0 1", "0 1 0", "0 1 0", "1 0 0", "0 1 0", "1 0 0", "1 0 0")
_FINGERS = {"left_finger": 1.0, "right_finger": -1.0}


def description(name: str, model: ArmModel) -> str:
    """URDF text of the arm behind the driver `name`: nine moving joints with the driver's names, rad and m."""
    parts = [f'<robot name="{name}">', f'<link name="{name}/base_link"/>']
    parent = "base_link"
    for joint, offset, axis in zip((*ARM_JOINTS, "gripper"), OFFSETS[model.name], AXES, strict=True):
        link = f"{joint}_link"
        if joint == "gripper":  # its motor turns for ever
            limit, kind = f'<limit effort="1" velocity="{model.velocity}"/>', "continuous"
        else:
            i = ARM_JOINTS.index(joint)
            limit, kind = _limit(model.lower[i], model.upper[i], model.velocity), "revolute"
        parts.append(_joint(name, joint, kind, parent, link, offset, axis, limit))
        if joint != "gripper":
            parent = link
    low, high = model.finger_limits
    for finger, side in _FINGERS.items():
        lower, upper = sorted((side * low, side * high))
        parts.append(
            _joint(
                name, finger, "prismatic", parent, f"{finger}_link", (0.066, 0, 0), "0 1 0", _limit(lower, upper, 1.0)
            )
        )
    return "\n".join([*parts, "</robot>"])


def _limit(lower: float, upper: float, velocity: float) -> str:
    return f'<limit lower="{lower}" upper="{upper}" effort="10" velocity="{velocity}"/>'


def _joint(
    name: str, joint: str, kind: str, parent: str, link: str, offset: tuple[float, ...], axis: str, limit: str
) -> str:
    x, y, z = offset
    return (
        f'<joint name="{joint}" type="{kind}"><parent link="{name}/{parent}"/><child link="{name}/{link}"/>'
        f'<origin xyz="{x} {y} {z}" rpy="0 0 0"/><axis xyz="{axis}"/>{limit}</joint>\n<link name="{name}/{link}"/>'
    )
