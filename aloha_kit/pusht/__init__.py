"""Push-T (Chi et al., 2023) in this process: gym-pusht's physics as an environment, and an expert for demonstrations.

Usable alone: needs core, config and the package gym-pusht.
"""

import os

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # pygame prints a greeting to standard output as it loads
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # nothing here opens a window, and servers have no display

from aloha_kit.config import RigConfig, TaskConfig
from aloha_kit.core import ConfigError, VirtualClock, WallClock
from aloha_kit.pusht.environment import PushT
from aloha_kit.pusht.expert import PushExpert

__all__ = ["PushExpert", "PushT", "connect"]


def connect(task: TaskConfig, rig: RigConfig, *, realtime: bool = False) -> PushT:
    """A `PushT` of the task's scene with the rig's cameras; raises as it does.

    Raises:
        ConfigError: the rig has devices, or the task has a script or randomisation, which this simulation lacks.
    """
    rig.refuse_devices()
    given = {"script": task.script, "randomise": task.randomise}
    if unused := [name for name, value in given.items() if value]:
        raise ConfigError(f"task '{task.name}' on rig '{rig.name}': Push-T has no {', '.join(unused)}")
    return PushT(
        task.scene,
        cameras={name: task.image_size or (rig.cameras[name].height, rig.cameras[name].width) for name in task.cameras},
        rate_hz=task.rate_hz,
        episode_len=task.episode_len,
        clock=WallClock() if realtime else VirtualClock(),
    )
