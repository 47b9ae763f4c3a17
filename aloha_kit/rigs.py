"""Connect to a rig by its configuration; the one place that knows which kind lives in which room."""

from __future__ import annotations

from aloha_kit.config import RigConfig, TaskConfig
from aloha_kit.core import ConfigError, Environment, nearest


def connect(task: TaskConfig, rig: RigConfig, *, realtime: bool = False) -> Environment:
    """The environment that `task` runs in on `rig`.

    Args:
        realtime: pace a simulated rig at the task's rate instead of as fast as it computes.

    Raises:
        ConfigError: the task asks for a camera that the rig has not.
    """
    for name in task.cameras:
        if name not in rig.cameras:
            raise ConfigError(
                f"task '{task.name}' wants camera '{name}' of rig '{rig.name}'. {nearest(name, rig.cameras)}"
            )
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
