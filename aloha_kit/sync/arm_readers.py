"""Arms by their topics: what their messages mean. Commanding and preparing an arm is in `ros`."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from aloha_kit.config import ArmConfig
from aloha_kit.core import ArmModel, ConfigError, StreamError
from aloha_kit.core.arm_models import arm_model
from aloha_kit.core.lang import Message
from aloha_kit.core.plugins import call, resolve
from aloha_kit.sync.readings import joint_values, require_finite, require_reading, Vector

DESCRIPTIONS = {
    "interbotix": "aloha_kit.sync.arm_readers:InterbotixDescription",
    "joint_state": "aloha_kit.sync.arm_readers:JointStateDescription",
}
"""{driver in a rig's file: its description}; that of another driver is the driver's class itself, see `ros.drivers`."""

_FINGER = "left_finger"


@dataclass(frozen=True)
class ArmState:
    """State of one arm from one message: the entries of its model, joints first, then grippers."""

    qpos: Vector  # (size,) rad, gripper normalised by its finger's travel
    qvel: Vector | None  # (size,) rad/s, gripper normalised /s; None where the driver omits it for any joint
    effort: Vector | None  # (size,) as the driver reports it: mA on Dynamixel; or None


class ArmReader(Protocol):
    """Reader of one arm's messages. A target is (size,): joints in rad, then grippers, 0 closed to 1 open over the
    motor's range.

    Gripper scales differ, as in ALOHA's data sets: `qpos` by the finger's travel, targets by the motor's angle; the
    difference is up to 0.09.
    """

    name: str
    model: ArmModel

    def read(self, message: Any) -> ArmState:
        """State of the arm from a sensor_msgs/JointState.

        Raises:
            ReadingError: a value is not finite, or the driver reports that it could not read its motors.
            StreamError: the message lacks a joint or its position.
        """
        ...

    def leader_action(self, message: Any) -> Vector:
        """(size,) follower target from a leader's joint state. Raises as `read` does."""
        ...


class CommandReader(Protocol):
    """Optional ability of an `ArmReader`: what a message on one of its command topics commands."""

    def commanded(self, message: Any) -> Mapping[int, float]:
        """{entry: its value} of the target that the message sets; empty where it sets none.

        Raises:
            StreamError: it has another number of values than the arm has joints.
        """
        ...


class ArmDescription(abc.ABC):  # noqa: B024 - `reader` is optional, for drivers of the user's own
    """Description of one arm by its configuration: topics, units, model. It connects nothing.

    Its joint states are sensor_msgs/JointState on `state_topic`.

    Raises:
        ConfigError: the configuration lacks what its driver needs.
    """

    effort_unit: str = "unknown"
    """Of `ArmState.effort`: "mA", "N m", … Idle grippers are found by their mA."""

    def __init__(self, config: ArmConfig) -> None:
        self.config = config

    @property
    def name(self) -> str:
        """Name of the arm in messages."""
        return self.config.name or self.state_topic

    @property
    def state_topic(self) -> str:
        """Topic of its joint states."""
        return self.config.state_topic

    @property
    def command_topics(self) -> tuple[str, ...]:
        """Command topics, those for the joints first; empty where it takes no commands by topic."""
        return (self.config.command_topic,) if self.config.command_topic else ()

    def model(self, scene: ArmModel | None = None) -> ArmModel:
        """Arm model: joints and limits.

        Args:
            scene: the followers of a simulated rig that runs here, for drivers whose topics do not identify the model.
        """
        return arm_model(self.config.model)

    def reader(self, model: ArmModel) -> ArmReader:
        """Reader of its messages, for bags.

        Raises:
            ConfigError: its driver has none.
        """
        raise ConfigError(
            "the driver '{driver}' of {name} has no `reader`, so its recorded messages cannot be read",
            driver=self.config.driver,
            name=self.name,
        )


def arm_description(config: ArmConfig) -> ArmDescription:
    """Description of the arm that `config` names.

    Raises:
        ConfigError: no such driver, or the configuration lacks what it needs.
    """
    found = resolve("drivers", config.driver, DESCRIPTIONS, base=ArmDescription)
    description: ArmDescription = call("drivers", config.driver, found, {"config": config})
    return description


class InterbotixReader(ArmReader):
    """Reader of the messages of an xs driver: angles of all motors and metres of the fingers by name."""

    def __init__(self, name: str, model: ArmModel) -> None:
        self.name, self.model = name, model

    def read(self, message: Any) -> ArmState:
        dof = self.model.dof
        position = self._position(message, (*self.model.names, _FINGER))
        velocity, effort = (
            if_given(self.model.names, message.name, each) for each in (message.velocity, message.effort)
        )
        if velocity is not None:
            if self.model.crank is not None:  # the finger's own speed is published as 0
                velocity[dof] *= self.model.crank.travel_rate(position[dof])
            velocity[dof] = self.model.finger.normalise_velocity(velocity[dof])
        qpos = self.model.vector(position[:dof], self.model.finger.normalise(position[-1]))
        return ArmState(qpos.astype(np.float32), single(velocity), single(effort))

    def leader_action(self, message: Any) -> Vector:
        position = self._position(message, self.model.names)
        position[-1] = self.model.gripper.normalise(position[-1])
        return position.astype(np.float32)

    def commanded(self, message: Any) -> dict[int, float]:
        """Entries of a JointGroupCommand to the group `arm`, or of a JointSingleCommand to the gripper."""
        if not hasattr(message, "cmd"):  # a trajectory, which ALOHA's programs do not send
            return {}
        dof, values = self.model.dof, np.atleast_1d(np.asarray(message.cmd, np.float64))
        if message.name == "gripper":
            return {dof: float(self.model.gripper.normalise(values[0]))}
        if message.name != "arm":
            return {}
        _require_size(self.name, dof, len(values))
        return dict(enumerate(values.tolist()))

    def _position(self, message: Any, names: tuple[str, ...]) -> npt.NDArray[np.float64]:
        position = joint_values(self.name, names, message, "position")
        require_reading(self.name, position[: self.model.size])
        return position


class InterbotixDescription(ArmDescription):
    """An xs driver under the namespace `name`; arms of any model with one gripper."""

    effort_unit = "mA"

    def __init__(self, config: ArmConfig) -> None:
        if not config.name:
            raise ConfigError("an interbotix arm needs a name, the namespace of its driver (puppet_left)")
        if (grippers := arm_model(config.model).grippers) != ("gripper",):
            raise ConfigError(
                "an interbotix arm has one motor 'gripper', given: {grippers}",
                grippers=", ".join(grippers) or Message("(none)"),
            )
        super().__init__(config)

    @property
    def state_topic(self) -> str:
        return self.config.state_topic or f"/{self.config.name.strip('/')}/joint_states"

    @property
    def command_topics(self) -> tuple[str, ...]:
        topics = ("joint_group", "joint_single", "joint_trajectory")
        return tuple(f"/{self.config.name}/commands/{topic}" for topic in topics)

    def reader(self, model: ArmModel) -> ArmReader:
        return InterbotixReader(self.name, model)


class JointStateReader(ArmReader):
    """Reader of arms with sensor_msgs/JointState for both states and commands.

    Messages hold a value for each entry of the model, in its order, under any names; a gripper's is its travel in
    metres, which the driver limits.
    """

    def __init__(self, name: str, model: ArmModel) -> None:
        self.name, self.model = name, model

    def read(self, message: Any) -> ArmState:
        dof, position = self.model.dof, self._position(message)
        names = range(self.model.size)
        velocity, effort = (if_given(names, names, each) for each in (message.velocity, message.effort))
        if velocity is not None:
            velocity[dof:] = self.model.finger.normalise_velocity(velocity[dof:])
        return ArmState(position.astype(np.float32), single(velocity), single(effort))

    def leader_action(self, message: Any) -> Vector:
        return self._position(message).astype(np.float32)

    def commanded(self, message: Any) -> dict[int, float]:
        """Every entry of a JointState."""
        return dict(enumerate(self._position(message).tolist()))

    def _position(self, message: Any) -> npt.NDArray[np.float64]:
        """(size,) rad, grippers normalised by their travel."""
        size, dof, values = self.model.size, self.model.dof, np.array(message.position, np.float64)
        if values.shape != (size,):
            raise StreamError(
                "{name}: its joint states need {size} values of position, they hold {count}",
                name=self.name,
                size=size,
                count=len(values),
            )
        require_finite(self.name, "position", [f"joint{i}" for i in range(size)], values)
        require_reading(self.name, values)
        values[dof:] = self.model.finger.normalise(values[dof:])
        return values


class JointStateDescription(ArmDescription):
    """sensor_msgs/JointState on `state_topic` and `command_topic`; arms of any model."""

    def __init__(self, config: ArmConfig) -> None:
        if not config.state_topic:
            raise ConfigError("a joint_state arm needs a state_topic (/puppet/joint_left)")
        super().__init__(config)

    def model(self, scene: ArmModel | None = None) -> ArmModel:
        """Arm model: the scene's where the rig is simulated, since the topics do not identify the arm."""
        return scene or super().model()

    def reader(self, model: ArmModel) -> ArmReader:
        return JointStateReader(self.name, model)


def single(values: npt.NDArray[np.float64] | None) -> Vector | None:
    """Convert to float32, the precision of episode files."""
    return None if values is None else values.astype(np.float32)


def if_given(names: Sequence[Any], given: Sequence[Any], numbers: Sequence[float]) -> npt.NDArray[np.float64] | None:
    """Optional values (N,) of the joints `names`; None where the driver sends an empty list, only some joints,
    or NaN, as drivers may for velocity and effort."""
    if len(numbers) != len(given) or any(name not in given for name in names):
        return None
    values = np.array([numbers[given.index(name)] for name in names], np.float64)
    return values if np.isfinite(values).all() else None


def _require_size(who: str, expected: int, given: int) -> None:
    if given != expected:
        raise StreamError(
            "{who}: a command of its arm has {given} values, expected {expected}",
            who=who,
            given=given,
            expected=expected,
        )
