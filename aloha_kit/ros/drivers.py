"""Drivers of arms behind ROS: a table from the name in a rig's file to the class that connects the arm."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence

from aloha_kit.config.rig import ArmConfig, RigConfig
from aloha_kit.core import ArmModel, Clock, ConfigError
from aloha_kit.core.arm_models import arm_model
from aloha_kit.core.plugins import resolve
from aloha_kit.loop import Latch
from aloha_kit.ros.arm import Arm, MOVE_HZ, Role

DRIVERS = {
    "interbotix": "aloha_kit.ros.interbotix:InterbotixDriver",
    "joint_state": "aloha_kit.ros.joint_state_arm:JointStateDriver",
}
"""{name in a rig's file: its class}, imported when it is used."""


class ArmDriver(abc.ABC):
    """The driver of one arm: its topics, units and registers, and the way to connect it. Making one connects nothing.

    Its joint states are sensor_msgs/JointState on `state_topic`.

    Raises:
        ConfigError: the configuration lacks what this driver needs.
    """

    effort_unit: str = "unknown"
    """Of `ArmState.effort`: "mA", "N m", … Idle grippers are found by their mA."""

    def __init__(self, config: ArmConfig) -> None:
        self.config = config

    @property
    def name(self) -> str:
        """What the arm is called in messages."""
        return self.config.name or self.state_topic

    @property
    def state_topic(self) -> str:
        """Where its joint states are published."""
        return self.config.state_topic

    @property
    def command_topics(self) -> tuple[str, ...]:
        """Where its commands are published, those for the joints first; none where it takes none from topics."""
        return (self.config.command_topic,) if self.config.command_topic else ()

    def model(self, scene: ArmModel | None = None) -> ArmModel:
        """The arm's joints and limits.

        Args:
            scene: the followers of a simulated rig that runs here, for drivers whose topics do not tell the model.
        """
        return arm_model(self.config.model)

    def motor_registers(self, registers: Sequence[str]) -> Mapping[str, tuple[int, ...]] | None:
        """{register: a value of each motor, in the order of the model}; None where the driver has no registers.

        Raises:
            RosError: they cannot be read now.
        """
        return None

    @abc.abstractmethod
    def connect(
        self,
        role: Role,
        *,
        clock: Clock,
        model: ArmModel | None = None,
        estop: Latch | None = None,
        rate_hz: float = MOVE_HZ,
    ) -> Arm:
        """The connected arm.

        Args:
            model: in place of the configured one.
            estop: while it is pressed, what would move the arm or let it go raises SafetyError.
            rate_hz: of the commands; says how far one may be from the one before.

        Raises:
            RosError: the driver's node is not there.
        """


def arm_driver(config: ArmConfig) -> ArmDriver:
    """The driver that `config` names: one of `DRIVERS`, of an installed package, or `my_package.module:Name`.

    Raises:
        ConfigError: no such driver, or the configuration lacks what it needs.
    """
    driver: ArmDriver = resolve("drivers", config.driver, DRIVERS, base=ArmDriver)(config)
    return driver


def rig_drivers(rig: RigConfig) -> dict[Role, dict[str, ArmDriver]]:
    """The drivers of a rig's followers and leaders, by the arms' names.

    Raises:
        ConfigError: as `arm_driver`, a rig without followers, or a camera without a topic.
    """
    if not rig.followers:
        raise ConfigError(f"rig '{rig.name}' lists no followers; a rig behind ROS needs at least one")
    if silent := [name for name, camera in rig.cameras.items() if not camera.topic]:
        raise ConfigError(f"cameras of rig '{rig.name}' behind ROS need a topic; without one: {', '.join(silent)}")
    groups: dict[Role, Mapping[str, ArmConfig]] = {"follower": rig.followers, "leader": rig.leaders}
    return {role: {name: arm_driver(arm) for name, arm in group.items()} for role, group in groups.items()}
