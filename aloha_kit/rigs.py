"""Connect to a rig by its configuration; the one place that knows which kind lives in which room."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from aloha_kit.config import RigConfig, TaskConfig
from aloha_kit.core import ConfigError, Environment, nearest


def connect(
    task: TaskConfig,
    rig: RigConfig,
    *,
    realtime: bool = False,
    leaders: bool = False,
    opening: Callable[[Any], None] | None = None,
) -> Environment:
    """The environment that `task` runs in on `rig`: a `SimEnv` in this process, or a `RosEnv`.

    Args:
        realtime: pace a simulation in this process at the task's rate instead of as fast as it computes.
        leaders: connect a ROS rig's leaders too; a person who holds them is then `env.leaders`, a policy.
        opening: what a ROS rig does in `reset` once its followers stand at the start, given the environment.

    Raises:
        ConfigError: the task asks for a camera that the rig has not, for leaders where there are none, or
            for ROS where it is not installed.
        RosError: no master, or a driver that is not there.
    """
    for name in task.cameras:
        if name not in rig.cameras:
            raise ConfigError(
                f"task '{task.name}' wants camera '{name}' of rig '{rig.name}'. {nearest(name, rig.cameras)}"
            )
    if rig.kind == "ros":
        return _behind_ros(task, rig, leaders, opening)
    if leaders:
        raise ConfigError(f"rig '{rig.name}' has no leader arms for a person to hold")
    sizes = {name: task.image_size or (rig.cameras[name].height, rig.cameras[name].width) for name in task.cameras}
    from aloha_kit.core import VirtualClock, WallClock
    from aloha_kit.sim import SimEnv  # MuJoCo loads only where a simulated rig is asked for

    return SimEnv(
        task.scene,
        cameras=sizes,
        rate_hz=task.rate_hz,
        episode_len=task.episode_len,
        quality=rig.quality,
        randomise=task.randomise,
        clock=WallClock() if realtime else VirtualClock(),
    )


def _behind_ros(task: TaskConfig, rig: RigConfig, leaders: bool, opening: Callable[[Any], None] | None) -> Environment:
    if importlib.util.find_spec("rospy") is None:
        raise ConfigError(
            f"rig '{rig.name}' is behind ROS 1, but Python has no rospy here. `make install` puts it there"
        )
    from aloha_kit.ros.environment import RosEnv

    return RosEnv(task, rig, leaders=leaders, opening=opening)
