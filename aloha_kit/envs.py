"""Table of environments by the kind of a rig."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aloha_kit.config import key_errors, RigConfig, TaskConfig
from aloha_kit.core import ConfigError, Environment
from aloha_kit.core.errors import shown
from aloha_kit.core.lang import Message
from aloha_kit.core.plugins import call, resolve

ENVIRONMENTS = {
    "sim": "aloha_kit.sim:connect",
    "reach": "aloha_kit.sim:connect_reach",
    "ros": "aloha_kit.ros:connect",
    "pusht": "aloha_kit.pusht:connect",
    "lift": "aloha_kit.lift:connect",
    "locomotion": "aloha_kit.locomotion:connect",
}
"""{kind of a rig: a callable (task, rig, *, realtime) that gives an `Environment`}.

For an operator with leader arms it is also called with `leaders=True` and `start_sequence`, see `connect`. A callable
whose environments are behind ROS has the attribute `needs_ros = True`, one whose environments are simulations in this
process `simulated = True`; a class that declares `simulated = True` for its objects has it already. Names that a
task's `action_space` may have are in the attribute `action_spaces`; one that renders the depth of a task's
`depth_cameras` has `renders_depth = True`."""


def needs_ros(rig: RigConfig) -> bool:
    """Whether the environment of `rig` is behind ROS.

    Raises:
        ConfigError: a kind that does not exist or is not installed.
    """
    return bool(getattr(_environment(rig), "needs_ros", False))


def is_robot(rig: RigConfig) -> bool:
    """Whether `rig` is a robot, real or simulated behind its drivers, and not a simulation in this process.

    A robot's time is real, its cameras have the size that their drivers give, an operator records and places the
    objects. Its kind decides by `simulated` (`ENVIRONMENTS`), unless it has the methods of a `LiveRobot`; of a kind
    without either, a rig that lists followers is a robot.

    Raises:
        ConfigError: a kind that does not exist or is not installed.
    """
    if rig.kind in ENVIRONMENTS and not rig.followers:
        return False  # nothing has to be imported for it
    kind = _environment(rig)
    if hasattr(kind, "guarded"):
        return True
    stated = getattr(kind, "simulated", None)  # a property has no value before there is an object
    return not stated if isinstance(stated, bool) else bool(rig.followers)


def has_operator(rig: RigConfig) -> bool:
    """Whether an operator demonstrates on `rig`, with leader arms or the mouse, in place of a scripted expert.

    Raises:
        ConfigError: as `is_robot`.
    """
    return rig.teleop == "mouse" or is_robot(rig)


def connect(
    task: TaskConfig,
    rig: RigConfig,
    *,
    realtime: bool = False,
    leaders: bool = False,
    start_sequence: Callable[[Any], None] | None = None,
) -> Environment:
    """Environment of `task` on `rig`.

    Args:
        realtime: pace a simulation in this process at the task's rate instead of as fast as it computes.
        leaders: connect the rig's leader arms too; `env.leaders` is then the policy of the operator who holds them.
        start_sequence: called in `reset` of such a rig with the environment, once its followers are at the start pose.

    Raises:
        ConfigError: a camera, depth or an action space that the rig does not have, leaders where there are none, or a
            kind that does not exist, is not installed, takes other arguments, raises an exception of its own or gives
            no environment.
        RosError: no master, or a driver that does not run.
    """
    for name in task.cameras:
        rig.camera(name)
    if leaders and not (rig.leaders or rig.teleop == "mouse"):
        raise ConfigError("rig '{rig}' has no leader arms for an operator", rig=rig.name)
    make = _environment(rig)
    spaces = getattr(make, "action_spaces", ())
    if task.action_space is not None and task.action_space not in spaces:
        raise ConfigError(
            "rig '{rig}' has no action space '{action_space}'; {value}",
            rig=rig.name,
            action_space=task.action_space,
            value="there are: " + ", ".join(spaces) if spaces else Message("its actions are as they are: leave it out"),
        )
    if task.depth_cameras and not getattr(make, "renders_depth", False):
        raise ConfigError(
            "rig '{rig}' renders no depth, given depth_cameras {depth_cameras}; a robot records the depth of "
            "the cameras for which its rig has a depth_topic",
            rig=rig.name,
            depth_cameras=" ".join(task.depth_cameras),
        )
    named: dict[str, Any] = {"realtime": realtime}
    if leaders:
        named |= {"leaders": True, "start_sequence": start_sequence}
    env = call("environments", rig.kind, make, {"task": task, "rig": rig}, **named)
    if not isinstance(env, Environment):
        raise ConfigError(
            "'{kind}' of the environments must give an aloha_kit.core.Environment, gave {env}",
            kind=rig.kind,
            env=shown(env),
        )
    return env


def _environment(rig: RigConfig) -> Callable[..., Any]:
    with key_errors(rig, "kind"):
        found: Callable[..., Any] = resolve("environments", rig.kind, ENVIRONMENTS)
    return found
