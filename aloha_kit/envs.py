"""The table of environments: a kind of rig, and what connects to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aloha_kit.config import RigConfig, TaskConfig
from aloha_kit.core import ConfigError, did_you_mean, Environment
from aloha_kit.core.errors import shown
from aloha_kit.core.plugins import resolve

ENVIRONMENTS = {"sim": "aloha_kit.sim.connect:connect", "ros": "aloha_kit.ros.connect:connect"}
"""{kind of a rig: what is called with a task and a rig, and `realtime`, and gives an `Environment`}.

For a person with leader arms it is called with `leaders=True` and `start_sequence` too, see `connect`."""


def connect(
    task: TaskConfig,
    rig: RigConfig,
    *,
    realtime: bool = False,
    leaders: bool = False,
    start_sequence: Callable[[Any], None] | None = None,
) -> Environment:
    """The environment that `task` runs in on `rig`.

    Args:
        realtime: pace a simulation in this process at the task's rate instead of as fast as it computes.
        leaders: connect the rig's leaders too; a person who holds them is then `env.leaders`, a policy.
        start_sequence: what such a rig does in `reset` once its followers stand at the start, given the environment.

    Raises:
        ConfigError: the task asks for a camera that the rig has not, for leaders where there are none, or for a kind
            of environment that does not exist or is not installed.
        RosError: no master, or a driver that is not there.
    """
    for name in task.cameras:
        if name not in rig.cameras:
            raise ConfigError(
                f"task '{task.name}' wants camera '{name}' of rig '{rig.name}'. {did_you_mean(name, rig.cameras)}"
            )
    if leaders and not rig.leaders:
        raise ConfigError(f"rig '{rig.name}' has no leader arms for a person to hold")
    make = resolve("environments", rig.kind, ENVIRONMENTS)
    with_person = {"leaders": True, "start_sequence": start_sequence} if leaders else {}
    env = make(task, rig, realtime=realtime, **with_person)
    if not isinstance(env, Environment):
        raise ConfigError(
            f"'{rig.kind}' of the environments must give an aloha_kit.core.Environment, gave {shown(env)}"
        )
    return env
