"""Push-T (Chi et al., 2023) in this process: gym-pusht's physics as an environment, an expert, and the mouse.

Usable alone: needs core, config, loop and the package gym-pusht.
"""

import os

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # pygame prints a greeting to standard output as it loads
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # nothing here opens a window, and servers have no display

from collections.abc import Callable
from typing import Any

from aloha_kit.config import from_mapping, RigConfig, TaskConfig
from aloha_kit.core import ConfigError, VirtualClock, WallClock
from aloha_kit.pusht.expert import PushExpert
from aloha_kit.pusht.mouse import MousePushT, PageAddress
from aloha_kit.pusht.pusht_env import PushT

__all__ = ["MousePushT", "PushExpert", "PushT", "connect"]


def connect(
    task: TaskConfig,
    rig: RigConfig,
    *,
    realtime: bool = False,
    leaders: bool = False,
    start_sequence: Callable[[Any], None] | None = None,
) -> PushT:
    """A `PushT` of the task's scene with the rig's cameras; raises as it does.

    Args:
        leaders: for an operator with the mouse, a `MousePushT`; `options` of the rig are the host and port of its page.
        start_sequence: of a `MousePushT`.

    Raises:
        ConfigError: the rig has devices, or the task has a script or randomisation, which this simulation lacks.
    """
    rig.refuse_devices()
    given = {"script": task.script, "randomise": task.randomise}
    if unused := [name for name, value in given.items() if value]:
        raise ConfigError(
            "task '{task}' on rig '{rig}': Push-T has no {unused}",
            task=task.name,
            rig=rig.name,
            unused=", ".join(unused),
        )
    options: dict[str, Any] = {
        "cameras": task.camera_sizes(rig),
        "rate_hz": task.rate_hz,
        "episode_len": task.episode_len,
    }
    if leaders:
        page = from_mapping(PageAddress, rig.options, where=f"{rig.file or rig.name}: options")
        return MousePushT(task.scene, page=page, start_sequence=start_sequence, **options)
    return PushT(task.scene, clock=WallClock() if realtime else VirtualClock(), **options)


connect.simulated = True  # type: ignore[attr-defined]  # read by `envs.is_robot`
