"""Lift (Zhu et al., 2020) in this process: robosuite's task as an environment, and an expert for demonstrations.

Usable alone: needs core, config, MuJoCo and robosuite, whose versions of MuJoCo and numpy are not those of the other
simulations: `make robosuite` installs them in .venv-robosuite.
"""

from aloha_kit.config import RigConfig, TaskConfig
from aloha_kit.core import ConfigError, VirtualClock, WallClock
from aloha_kit.lift.expert import LiftExpert
from aloha_kit.lift.lift_env import Lift

__all__ = ["Lift", "LiftExpert", "connect"]


def connect(task: TaskConfig, rig: RigConfig, *, realtime: bool = False) -> Lift:
    """A `Lift` with the rig's cameras; raises as it does.

    Raises:
        ConfigError: the rig has devices, or the task has a scene, script or randomisation, which this task lacks.
    """
    rig.refuse_devices()
    given = {"scene": task.scene not in ("", "Lift"), "script": task.script, "randomise": task.randomise}
    if unused := [name for name, value in given.items() if value]:
        raise ConfigError(
            "task '{task}' on rig '{rig}': Lift has no {unused}", task=task.name, rig=rig.name, unused=", ".join(unused)
        )
    return Lift(
        cameras=task.camera_sizes(rig),
        rate_hz=task.rate_hz,
        episode_len=task.episode_len,
        shadows=rig.quality == "fine",
        clock=WallClock() if realtime else VirtualClock(),
    )
