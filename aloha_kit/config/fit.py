"""The task and the rig as a policy needs them: its cameras, at its sizes."""

from __future__ import annotations

from dataclasses import replace

from aloha_kit.config.rig import CameraConfig, RigConfig
from aloha_kit.config.task import TaskConfig
from aloha_kit.core import Contract, joint_names

BASE_NAMES = ("base_linear", "base_angular")
"""A mobile base's entries at the end of the action: m/s and rad/s."""


def rig_joints(rig: RigConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of a rig's state and of its actions, in the order of the vectors."""
    joints = joint_names(tuple(rig.followers) or ("left", "right"))  # a simulated rig lists no arms: it has two
    return joints, (*joints, *(BASE_NAMES if rig.base else ()))


def camera_sizes(task: TaskConfig, rig: RigConfig, size: tuple[int, int] | None = None) -> dict[str, tuple[int, int]]:
    """{camera: (height, width)} of what a task shows, for policies that do not say what they were shown.

    Args:
        size: in place of the task's and the rig's.
    """
    cameras = {name: rig.cameras[name] for name in task.cameras if name in rig.cameras}
    return {name: size or task.image_size or (c.height, c.width) for name, c in cameras.items()}


def as_trained(
    task: TaskConfig, rig: RigConfig, contract: Contract, size: tuple[int, int] | None = None
) -> tuple[TaskConfig, RigConfig]:
    """The task and the rig with the cameras of a policy's contract.

    Only cameras that the rig has are asked for; comparing the contracts names those it has not. Real cameras
    are as large as they are, and a rig that is simulated behind ROS as it was started.

    Args:
        size: in place of the contract's.
    """
    names = tuple(name for name in contract.cameras if name in rig.cameras)
    if rig.kind == "ros":
        return replace(task, cameras=names, image_size=size or task.image_size or _common_size(contract)), rig
    cameras = {name: CameraConfig(*(size or contract.cameras[name])) for name in names}
    return replace(task, cameras=names, image_size=None), replace(rig, cameras={**rig.cameras, **cameras})


def _common_size(contract: Contract) -> tuple[int, int] | None:
    sizes = set(contract.cameras.values())
    return sizes.pop() if len(sizes) == 1 else None
