"""The bimanual rig in MuJoCo: `SimEnv`, `EndEffectorEnv`, `ReachEnv`, their scenes, and experts that solve them.

Usable alone: needs core, MuJoCo, dm_control, mink and the arm meshes of the package gym-aloha 0.1.3.
Import it before MuJoCo or dm_control: how they draw is settled when they load.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import TypeVar

if not logging.getLogger().handlers:
    # dm_control logs as it loads, through absl, which gives the root logger a handler where it has none: every line
    # that the package logs would appear twice
    logging.getLogger().addHandler(logging.NullHandler())

import aloha_kit.mujoco_images  # noqa: F401  # before dm_control: it settles how MuJoCo draws
from aloha_kit.config import key_errors, RigConfig, TaskConfig
from aloha_kit.core import ConfigError, VirtualClock, WallClock
from aloha_kit.core.end_effector import EE, EE_DELTA
from aloha_kit.sim import tasks
from aloha_kit.sim.end_effector import EndEffectorEnv
from aloha_kit.sim.reach import Reach, ReachEnv
from aloha_kit.sim.scripted_expert import ScriptedExpert
from aloha_kit.sim.sim_env import SimEnv

__all__ = ["EndEffectorEnv", "ReachEnv", "ScriptedExpert", "SimEnv", "connect", "connect_reach"]

Env = TypeVar("Env", bound=SimEnv)


def connect(task: TaskConfig, rig: RigConfig, *, realtime: bool = False) -> SimEnv:
    """A `SimEnv` of the task's scene with the rig's cameras; raises as it does.

    Raises:
        ConfigError: the rig has what this simulation does not have: sensors, a base, arms with drivers of their own.
    """
    scene = _scene(task, rig)
    with key_errors(task, "script"):
        tasks.script_of(scene, task.script)
    space = task.action_space or "joints"
    kind = SimEnv if space == "joints" else partial(EndEffectorEnv, space=space)
    return _made(kind, task, rig, realtime)


def connect_reach(task: TaskConfig, rig: RigConfig, *, realtime: bool = False) -> ReachEnv:
    """A `ReachEnv` of the task's scene with the rig's cameras; raises as it does.

    Raises:
        ConfigError: as `connect`; a scene that is none of reaching, or a script.
    """
    scene = _scene(task, rig)
    if not isinstance(scene, Reach) or task.script:
        raise ConfigError(
            "task '{task}' on rig '{rig}', one arm that reaches, needs a scene of reaching ('reach' or "
            "'reach_dense') and no script; given scene '{scene}', script '{script}'",
            task=task.name,
            rig=rig.name,
            scene=task.scene,
            script=task.script,
        )
    return _made(ReachEnv, task, rig, realtime)


def _scene(task: TaskConfig, rig: RigConfig) -> tasks.WorkcellScene:
    rig.refuse_devices()
    with key_errors(task, "scene"):
        return tasks.scene(task.scene)


def _made(kind: Callable[..., Env], task: TaskConfig, rig: RigConfig, realtime: bool) -> Env:
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


for each in (connect, connect_reach):
    each.simulated = True  # type: ignore[attr-defined]  # read by `envs.is_robot`
    each.renders_depth = True  # type: ignore[attr-defined]  # read by `envs.connect`
connect.action_spaces = ("joints", EE, EE_DELTA)  # type: ignore[attr-defined]  # read by `envs.connect`
