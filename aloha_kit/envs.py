"""The table of environments: a kind of rig, and what connects to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aloha_kit.config import RigConfig, TaskConfig
from aloha_kit.core import ConfigError, did_you_mean, Environment
from aloha_kit.core.errors import shown
from aloha_kit.core.plugins import require_call, resolve

ENVIRONMENTS = {
    "sim": "aloha_kit.sim:connect",
    "ros": "aloha_kit.ros:connect",
    "pusht": "aloha_kit.pusht:connect",
}
"""{kind of a rig: a callable (task, rig, *, realtime) that gives an `Environment`}.

For a person with leader arms it is also called with `leaders=True` and `start_sequence`, see `connect`."""


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
        ConfigError: a camera that the rig does not have, leaders where there are none, or a kind that does not exist,
            is not installed, takes other arguments or gives no environment.
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
    named: dict[str, Any] = {"realtime": realtime}
    if leaders:
        named |= {"leaders": True, "start_sequence": start_sequence}
    require_call("environments", rig.kind, make, "task", "rig", **named)
    env = make(task, rig, **named)
    if not isinstance(env, Environment):
        raise ConfigError(
            f"'{rig.kind}' of the environments must give an aloha_kit.core.Environment, gave {shown(env)}"
        )
    return env
