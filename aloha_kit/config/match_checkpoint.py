"""Adaptation of task and rig to a checkpoint: its cameras, at its image sizes, under the rig's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aloha_kit.config.rig import RigConfig
from aloha_kit.config.task import TaskConfig
from aloha_kit.core import Contract, joint_names, UsageError
from aloha_kit.core.arm_models import arm_model, vector_names
from aloha_kit.core.end_effector import action_space, EE, EE_DELTA
from aloha_kit.core.lang import joined, Message

BASE_NAMES = ("base_linear", "base_angular")
"""A mobile base's entries at the end of the action: m/s and rad/s."""

_PUBLISHED_SIZE = (480, 640)  # of the images that the published repositories record


def rig_joints(rig: RigConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of a rig's state and of its actions, in the order of the vectors."""
    # a simulated rig lists no arms: it has two
    joints = vector_names({name: arm_model(arm.model) for name, arm in rig.followers.items()}) or joint_names()
    return joints, (*joints, *(BASE_NAMES if rig.base else ()))


@dataclass(frozen=True)
class AssumedSetup:
    """Cameras, image sizes, joints and rate that are assumed for a checkpoint of others, which does not record them.

    Attributes:
        cameras: {name: (height, width)}, in the order of the training's `camera_names`.
        rate_hz: steps a second.
        cameras_from, sizes_from, rate_from: source of each value.
        named: the cameras were given by name, and not taken from a task.
        cautious: where neither weights nor flags determine the cameras, refuse instead of assuming the task's.
        joints: contract of the vectors, a rate of 0 being none; None where none was given.
        joints_from: its source.
    """

    cameras: Mapping[str, tuple[int, int]]
    rate_hz: float = 50.0
    cameras_from: str = "--cameras"
    sizes_from: str = "--image_size"
    rate_from: str = "--rate_hz"
    named: bool = True
    cautious: bool = False
    joints: Contract | None = None
    joints_from: str = "--rig or --contract"

    def size(self, camera: str) -> tuple[int, int]:
        """(height, width) of a camera, one that is not among `cameras` too."""
        return self.cameras.get(camera) or next(iter(self.cameras.values()), _PUBLISHED_SIZE)


def assumed_setup(
    task: TaskConfig,
    rig: RigConfig,
    cameras: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    rename: Mapping[str, str] | None = None,
    *,
    joints: Contract | None = None,
    robot: bool = False,
) -> AssumedSetup:
    """Training setup from `task` and `rig`, for checkpoints that do not record theirs.

    Args:
        cameras: the policy's names in the training's order, in place of the task's.
        size: in place of the task's and the rig's.
        rename: {the policy's name of a camera: the rig's}.
        joints: names and units of the vectors, see `AssumedSetup`.
        robot: the rig is one (`envs.is_robot`), see `AssumedSetup.cautious`.

    Raises:
        UsageError: a camera is named twice.
    """
    if cameras is not None and (not cameras or len(set(cameras)) < len(cameras)):
        raise UsageError(
            "--cameras names each camera once, given: {given}", given=" ".join(cameras) or Message("(none)")
        )
    where, renamed = f"task '{task.name}'", rename or {}
    back = {theirs: mine for mine, theirs in renamed.items()}
    names = [back.get(name, name) for name in task.cameras if name in rig.cameras] if cameras is None else cameras
    sizes = {}
    for name in names:
        camera = rig.cameras.get(renamed.get(name, name))
        own = (camera.height, camera.width) if camera else _PUBLISHED_SIZE
        sizes[name] = size or task.image_size or own
    return AssumedSetup(
        sizes,
        task.rate_hz,
        where if cameras is None else "--cameras",
        where if size is None else "--image_size",
        where,
        named=cameras is not None,
        cautious=robot,
        joints=joints,
    )


def assumption(assumed: Mapping[str, Any]) -> str:
    """One-line summary of the assumptions in `ChunkNetwork.assumed`."""
    parts: list[str] = []
    if "cameras" in assumed:
        cameras = ", ".join(f"{name} {height}x{width}" for name, (height, width) in assumed["cameras"].items())
        parts.append(
            Message(
                "cameras {cameras} (names: {names_from}; number: {number_from}; sizes: {sizes_from})",
                cameras=cameras,
                names_from=assumed["cameras_from"],
                number_from=assumed["number_from"],
                sizes_from=assumed["sizes_from"],
            )
        )
    if "joints" in assumed:
        parts.append(Message("joints {joints} ({source})", joints=assumed["joints"], source=assumed["joints_from"]))
    parts.append(f"{assumed['rate_hz']:g} Hz ({assumed['rate_from']})")
    return Message("assumed, since the checkpoint does not record it: {parts}", parts=joined(parts, ", "))


def renames(words: Sequence[str]) -> dict[str, str]:
    """{the policy's name of a camera: the rig's} of `policy=rig` words.

    Raises:
        UsageError: a word is not of this form, or a camera is named twice.
    """
    found: dict[str, str] = {}
    for word in words:
        mine, equals, theirs = word.partition("=")
        if not (mine and equals and theirs) or "=" in theirs:
            raise UsageError("--rename takes POLICY_CAMERA=RIG_CAMERA, such as top=cam_high; given '{word}'", word=word)
        if mine in found or theirs in found.values():
            raise UsageError("--rename names a camera twice: {given}", given=" ".join(words))
        found[mine] = theirs
    return found


def match_checkpoint(
    task: TaskConfig,
    rig: RigConfig,
    contract: Contract,
    size: tuple[int, int] | None = None,
    *,
    robot: bool = False,
) -> tuple[TaskConfig, RigConfig]:
    """The task and the rig with the cameras, depth and action space of a policy's contract.

    Only cameras that the rig has are requested; the comparison of the contracts names missing ones.

    Args:
        size: in place of the contract's.
        robot: the rig is one (`envs.is_robot`), whose cameras keep their own image size.
    """
    names = tuple(name for name in contract.cameras if name in rig.cameras)
    task = match_action_space(task, contract)
    if robot:
        return replace(
            task, cameras=names, depth_cameras=(), image_size=size or task.image_size or _common_size(contract)
        ), rig
    sizes = {name: size or contract.cameras[name] for name in names}
    cameras = {name: replace(rig.cameras[name], height=h, width=w) for name, (h, w) in sizes.items()}
    depth = tuple(name for name in names if name in contract.depth_cameras)
    return replace(task, cameras=names, depth_cameras=depth, image_size=None), replace(
        rig, cameras={**rig.cameras, **cameras}
    )


def match_action_space(task: TaskConfig, contract: Contract) -> TaskConfig:
    """The task in the action space of a recording's or a policy's contract.

    Only what is known by its names is matched; the comparison of the contracts names other differences.
    """
    joints = task.action_space in (EE, EE_DELTA) and contract.action_names == joint_names()
    return replace(task, action_space="joints" if joints else action_space(contract) or task.action_space)


def _common_size(contract: Contract) -> tuple[int, int] | None:
    sizes = set(contract.cameras.values())
    return sizes.pop() if len(sizes) == 1 else None
