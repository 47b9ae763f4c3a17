"""A robot description of an Interbotix arm: its joints and their limits, with links drawn as nothing."""

from __future__ import annotations

from aloha_kit.core import ArmModel
from aloha_kit.core.arm_models import ARM_JOINTS

# mm forwards and upwards from each joint to the next: waist first, gripper last
OFFSETS = {
    "vx300s": ((0, 79), (0, 48), (60, 300), (200, 0), (100, 0), (70, 0), (43, 0)),
    "wx250s": ((0, 72), (0, 39), (50, 250), (175, 0), (75, 0), (65, 0), (43, 0)),
}
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
            _joint(name, finger, "prismatic", parent, f"{finger}_link", (66, 0), "0 1 0", _limit(lower, upper, 1.0))
        )
    return "\n".join([*parts, "</robot>"])


def _limit(lower: float, upper: float, velocity: float) -> str:
    return f'<limit lower="{lower}" upper="{upper}" effort="10" velocity="{velocity}"/>'


def _joint(
    name: str, joint: str, kind: str, parent: str, link: str, offset: tuple[int, int], axis: str, limit: str
) -> str:
    x, z = (value / 1e3 for value in offset)
    return (
        f'<joint name="{joint}" type="{kind}"><parent link="{name}/{parent}"/><child link="{name}/{link}"/>'
        f'<origin xyz="{x} 0 {z}" rpy="0 0 0"/><axis xyz="{axis}"/>{limit}</joint>\n<link name="{name}/{link}"/>'
    )
