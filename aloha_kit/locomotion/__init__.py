"""Animals that walk, in this process: dm_control's rat, or any of its walkers, on its way to a target.

Usable alone: needs core, config, MuJoCo and dm_control, but not labmaze.
"""

# ruff: noqa: E402
import logging

# dm_control logs as it loads, through absl, which gives the root logger a handler where it has none
_HANDLER = logging.NullHandler()
logging.getLogger().addHandler(_HANDLER)

import aloha_kit.mujoco_images  # noqa: F401  # before dm_control: it settles how MuJoCo draws
from aloha_kit.config import from_mapping, key_errors, RigConfig, TaskConfig
from aloha_kit.core import ConfigError, VirtualClock, WallClock
from aloha_kit.core.errors import did_you_mean
from aloha_kit.locomotion.go_to_target import GoToTarget, SCENES
from aloha_kit.locomotion.walker_model import WalkerOptions

logging.getLogger().removeHandler(_HANDLER)  # else `logging.basicConfig` of a user's script would do nothing

__all__ = ["GoToTarget", "WalkerOptions", "connect"]


def connect(task: TaskConfig, rig: RigConfig, *, realtime: bool = False) -> GoToTarget:
    """A `GoToTarget` of the task's scene with the rig's cameras; `options` of the rig are `WalkerOptions`.

    Raises:
        ConfigError: an unknown scene, walker or camera; or the rig has devices, or the task a script or randomisation,
            which this simulation lacks.
    """
    rig.refuse_devices()
    given = {"script": task.script, "randomise": task.randomise}
    if unused := [name for name, value in given.items() if value]:
        raise ConfigError(
            "task '{task}' on rig '{rig}': a walk to a target has no {unused}",
            task=task.name,
            rig=rig.name,
            unused=", ".join(unused),
        )
    with key_errors(task, "scene"):
        if task.scene not in SCENES:
            raise ConfigError(
                "no scene '{scene}' of walkers. {known}", scene=task.scene, known=did_you_mean(task.scene, SCENES)
            )
    return GoToTarget(
        task.scene,
        options=from_mapping(WalkerOptions, rig.options, where=f"{rig.file or rig.name}: options"),
        cameras=task.camera_sizes(rig),
        rate_hz=task.rate_hz,
        episode_len=task.episode_len,
        quality=rig.quality,
        clock=WallClock() if realtime else VirtualClock(),
    )


connect.simulated = True  # type: ignore[attr-defined]  # read by `envs.is_robot`
