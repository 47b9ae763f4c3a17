"""Names and units of robomimic's data sets (Mandlekar et al., 2021) and of robosuite's tasks, which they are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.core.contract import Contract
from aloha_kit.core.features import Feature, IMAGE, PRIVILEGED, SENSORS
from aloha_kit.core.source import RecordedEpisode

STATE_KEYS = ("eef_pos", "eef_quat", "gripper_qpos")
"""Observations of a robot that form the state, in this order: position (m), quaternion (x, y, z, w), fingers (m)."""
OBJECT_KEY = "object"
"""Observation with the true poses of a task's objects: `environment_state`."""
DEPTH_SUFFIX = "_depth"
IMAGE_SUFFIX = "_image"
"""Behind a camera's name, in the key of its images."""
ROBOSUITE, GYM = 1, 2
"""`env_args["type"]` of robosuite's tasks, and of others."""
VISUAL_GROUPS = (1, 2)
"""Groups of the shapes that are drawn of robosuite's models; group 0 holds collision shapes."""

_POSE = ("x", "y", "z", "qx", "qy", "qz", "qw")
_TWIST = ("x", "y", "z", "rx", "ry", "rz")
_RANGE = (0.05, 0.05, 0.05, 0.5, 0.5, 0.5)  # m and rad of a command of 1, robosuite's default
OBJECTS = {"Lift": (*(f"cube_{axis}" for axis in _POSE), *(f"gripper_to_cube_{axis}" for axis in _POSE[:3]))}
"""{task: entries of `object`}; those of other tasks are numbered."""


@dataclass(frozen=True, eq=False)
class SimulatorRecord:
    """What a simulator went through in an episode.

    Attributes:
        env_args: description of the environment, as robomimic's files have it.
        states: (T, D) time (s), generalised positions and velocities in which each action was chosen.
        model: the model, XML.
    """

    env_args: Mapping[str, Any]
    states: npt.NDArray[np.float64]
    model: str


def env_args_of(episode: RecordedEpisode) -> Mapping[str, Any]:
    """`env_args` of an episode: those that its environment described itself with, or its name, version and rate."""
    described = episode.describe
    if isinstance(stated := described.get("env_args"), Mapping):
        return stated
    return {
        "env_name": str(described.get("scene") or episode.attrs.get("task", "")),
        "env_version": str(described.get("robosuite", "")),
        "type": ROBOSUITE if "robosuite" in described else GYM,
        "env_kwargs": {"control_freq": episode.rate_hz},
    }


def contract(
    env_args: Mapping[str, Any],
    fingers: Mapping[str, int],
    actions: int,
    objects: int,
    cameras: Mapping[str, tuple[int, int]],
) -> Contract:
    """The contract of a task.

    Args:
        env_args: a data set's description of its environment: `env_name`, and `env_kwargs` with `control_freq` (Hz; 20
            where it is missing) and `controller_configs`.
        fingers: {robot, such as `robot0`: entries of its `gripper_qpos`}.
        actions: entries of an action. Seven for each robot are a position, a rotation vector and the gripper; entries
            of other actions are numbered.
        objects: entries of `object`; 0 for none.
        cameras: {name: (height, width)}.
    """
    kwargs = env_args.get("env_kwargs") or {}
    units = {"joints": "m"}
    states: list[str] = []
    for robot, count in fingers.items():
        pose = [f"{_prefix(robot)}eef_{axis}" for axis in _POSE]
        states += [*pose, *(f"{_prefix(robot)}finger{i}" for i in range(count))]
        units |= dict.fromkeys(pose[3:], "1")
    commands = {f"action{i}": "1" for i in range(actions)}
    if actions == 7 * len(fingers):
        commands = {}
        for number, robot in enumerate(fingers):
            commands |= _commands(_prefix(robot), _controller(kwargs, number))
    entries = OBJECTS.get(str(env_args.get("env_name")), ())
    if len(entries) != objects:
        entries = tuple(f"object{i}" for i in range(objects))
    kinds = ["m" if name.endswith(("_x", "_y", "_z")) else "1" for name in entries]
    poses = (Feature.vector("environment_state", PRIVILEGED, entries, kinds),) if entries else ()
    rate = float(kwargs.get("control_freq") or 20)
    return Contract.of(tuple(states), tuple(commands), dict(cameras), rate, units=units | commands, sensors=poses)


def observation_keys(contract: Contract) -> dict[str, tuple[str, slice]]:
    """{key of an observation: (vector, its entries)}: how a file of robomimic's layout holds a contract's vectors.

    A state named as `contract` names it is divided among robomimic's keys; any other one is `qpos`. `environment_state`
    is `object`, and `sensors/NAME` is `NAME`.
    """
    found = _state_keys(contract.state_names) or {"qpos": ("qpos", slice(None))}
    for sensor in contract.sensors:
        if sensor.role != IMAGE and len(sensor.shape) == 1:
            key = OBJECT_KEY if sensor.role == PRIVILEGED else sensor.name.removeprefix(SENSORS)
            found[key.replace("/", "_")] = (sensor.name, slice(None))
    return found


def _state_keys(names: Sequence[str]) -> dict[str, tuple[str, slice]]:
    """Robomimic's keys of a state of end effectors and fingers; none for a state of other names."""
    found: dict[str, tuple[str, slice]] = {}
    start = 0
    for number in range(len(names) // len(_POSE)):
        robot = f"robot{number}"
        pose = start + len(_POSE)
        end = pose
        while end < len(names) and names[end] == f"{_prefix(robot)}finger{end - pose}":
            end += 1
        if list(names[start:pose]) != [f"{_prefix(robot)}eef_{axis}" for axis in _POSE]:
            return {}
        bounds = (start, start + 3, pose, end)
        found |= {f"{robot}_{key}": ("qpos", slice(*bounds[i : i + 2])) for i, key in enumerate(STATE_KEYS)}
        start = end
        if start == len(names):
            return found
    return {}


def _prefix(robot: str) -> str:
    """Before the names of a robot's entries; the first robot's have none."""
    return "" if robot == "robot0" else f"{robot}_"


def _commands(prefix: str, controller: Mapping[str, Any]) -> dict[str, str]:
    """{name: unit} of a robot's seven commands: changes of the gripper's pose in the controller's range, or a pose."""
    absolute = controller.get("control_delta") is False or controller.get("input_type") == "absolute"
    kind, scale = "delta", [f"{value:g} " for value in np.broadcast_to(controller.get("output_max", _RANGE), 6)]
    if absolute:
        kind, scale = "target", [""] * 6
    found = {
        f"{prefix}{kind}_{axis}": f"{value}{'rad' if axis.startswith('r') else 'm'}"
        for axis, value in zip(_TWIST, scale, strict=True)
    }
    return {**found, f"{prefix}gripper_closing": "-1 opens, 1 closes"}


def _controller(kwargs: Mapping[str, Any], number: int) -> Mapping[str, Any]:
    """Configuration of a robot's arm controller, as robosuite writes it before and since version 1.5."""
    configs = kwargs.get("controller_configs") or {}
    if isinstance(configs, list):
        configs = configs[number] if number < len(configs) else {}
    parts = configs.get("body_parts", {"right": configs})
    found: Mapping[str, Any] = parts.get("right") or next(iter(parts.values()), {})
    return found
