"""The simulation of a task on a rig of kind `sim`."""

from __future__ import annotations

from aloha_kit.config import RigConfig, TaskConfig
from aloha_kit.core import VirtualClock, WallClock
from aloha_kit.sim.sim_env import SimEnv


def connect(task: TaskConfig, rig: RigConfig, *, realtime: bool = False) -> SimEnv:
    """A `SimEnv` of the task's scene with the rig's cameras; raises as it does."""
    return SimEnv(
        task.scene,
        cameras={name: task.image_size or (rig.cameras[name].height, rig.cameras[name].width) for name in task.cameras},
        rate_hz=task.rate_hz,
        episode_len=task.episode_len,
        quality=rig.quality,
        randomise=task.randomise,
        views={name: camera.view for name, camera in rig.cameras.items() if camera.view},
        script=task.script,
        clock=WallClock() if realtime else VirtualClock(),
    )
