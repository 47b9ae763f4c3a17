"""The view of a rollout for people."""

from __future__ import annotations

from dataclasses import replace

from aloha_kit.config import RigConfig, TaskConfig
from aloha_kit.core import ConfigError, did_you_mean
from aloha_kit.deploy.args import DeployArgs


def view(args: DeployArgs, task: TaskConfig, rig: RigConfig) -> tuple[str, int]:
    """The camera for people, and how many rollouts are filmed.

    In simulation a camera that the policy does not see, else one that it does. A real camera is on the wires
    or it is not, and drawing costs time that a control loop has not: there only what the policy sees, on request.
    """
    others = [name for name in rig.cameras if name not in task.cameras]
    if rig.has_drivers:
        if args.video_camera and args.video_camera not in task.cameras:
            raise ConfigError(
                f"on a rig a video shows what the policy sees, not '{args.video_camera}'."
                f" {did_you_mean(args.video_camera, task.cameras)}"
            )
        return args.video_camera or next(iter(task.cameras), ""), args.video or 0
    view = args.video_camera or ("angle" if "angle" in others else [*others, *task.cameras][0])
    return view, 3 if args.video is None else args.video


def with_view(task: TaskConfig, rig: RigConfig, view: str, size: tuple[int, int]) -> tuple[TaskConfig, RigConfig]:
    """Task and rig with the camera `view` too; one that the rig has not stays unknown, for connecting to refuse."""
    cameras = {
        name: replace(camera, height=size[0], width=size[1]) if name == view else camera
        for name, camera in rig.cameras.items()
    }
    return replace(task, cameras=(*task.cameras, view)), replace(rig, cameras=cameras)
