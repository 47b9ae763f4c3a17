"""The bimanual rig in MuJoCo: `SimEnv`, `EndEffectorEnv`, their scenes, and scripted experts that solve them.

Usable alone: needs core, MuJoCo, dm_control, mink and the arm meshes of the package gym-aloha 0.1.3.
Import it before MuJoCo or dm_control: how they draw is settled when they load.
"""

import logging
from functools import partial

if not logging.getLogger().handlers:
    # dm_control logs as it loads, through absl, which gives the root logger a handler where it has none: every line
    # that the package logs would appear twice
    logging.getLogger().addHandler(logging.NullHandler())

import aloha_kit.mujoco_images  # noqa: F401  # before dm_control: it settles how MuJoCo draws
from aloha_kit.config import key_errors, RigConfig, TaskConfig
from aloha_kit.core import VirtualClock, WallClock
from aloha_kit.core.end_effector import EE, EE_DELTA
from aloha_kit.sim import tasks
from aloha_kit.sim.end_effector import EndEffectorEnv
from aloha_kit.sim.scripted_expert import ScriptedExpert
from aloha_kit.sim.sim_env import SimEnv

__all__ = ["EndEffectorEnv", "ScriptedExpert", "SimEnv", "connect"]


def connect(task: TaskConfig, rig: RigConfig, *, realtime: bool = False) -> SimEnv:
    """A `SimEnv` of the task's scene with the rig's cameras; raises as it does.

    Raises:
        ConfigError: the rig has what this simulation does not have: sensors, a base, arms with drivers of their own.
    """
    rig.refuse_devices()
    with key_errors(task, "scene"):
        scene = tasks.scene(task.scene)
    with key_errors(task, "script"):
        tasks.script_of(scene, task.script)
    space = task.action_space or "joints"
    kind = SimEnv if space == "joints" else partial(EndEffectorEnv, space=space)
    return kind(
        task.scene,
        cameras=task.camera_sizes(rig),
        depth_cameras=task.depth_cameras,
        rate_hz=task.rate_hz,
        episode_len=task.episode_len,
        quality=rig.quality,
        randomise=task.randomise,
        views={name: camera.view for name, camera in rig.cameras.items() if camera.view},
        script=task.script,
        clock=WallClock() if realtime else VirtualClock(),
    )


connect.simulated = True  # type: ignore[attr-defined]  # read by `envs.is_robot`
connect.renders_depth = True  # type: ignore[attr-defined]  # read by `envs.connect`
connect.action_spaces = ("joints", EE, EE_DELTA)  # type: ignore[attr-defined]  # read by `envs.connect`
