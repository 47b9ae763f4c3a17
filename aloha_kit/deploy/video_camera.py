"""Camera of a rollout's video."""

from __future__ import annotations

from dataclasses import replace

from aloha_kit.config import RigConfig, TaskConfig
from aloha_kit.core import ConfigError, did_you_mean


def choose_view(
    task: TaskConfig, rig: RigConfig, camera: str | None, count: int | None, *, robot: bool
) -> tuple[str, int]:
    """Choose the overview camera and the number of rollouts with a video.

    In simulation a camera that the policy does not read, else one that it does. On a robot only a camera of the policy,
    on request: another one would have to be connected, and drawing costs time that a control loop has not.

    Args:
        camera, count: `--video_camera` and `--video`; None is the default.
        robot: the rig is one, see `envs.is_robot`.

    Raises:
        ConfigError: on a robot, a camera that the policy does not read.
    """
    others = [name for name in rig.cameras if name not in task.cameras]
    if robot:
        if camera and camera not in task.cameras:
            raise ConfigError(
                "on a rig a video shows a camera that the policy reads, not '{camera}'. {known}",
                camera=camera,
                known=did_you_mean(camera, task.cameras),
            )
        return camera or next(iter(task.cameras), ""), count or 0
    view = camera or ("angle" if "angle" in others else [*others, *task.cameras][0])
    return view, 3 if count is None else count


def with_view(task: TaskConfig, rig: RigConfig, view: str, size: tuple[int, int]) -> tuple[TaskConfig, RigConfig]:
    """Task and rig with the camera `view` too; one that the rig has not stays unknown, for connecting to refuse."""
    cameras = {
        name: replace(camera, height=size[0], width=size[1]) if name == view else camera
        for name, camera in rig.cameras.items()
    }
    return replace(task, cameras=(*task.cameras, view)), replace(rig, cameras=cameras)
