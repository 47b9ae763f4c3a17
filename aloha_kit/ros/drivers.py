"""Arm drivers over ROS: a table from the name in a rig's file to the class that connects the arm."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence

from aloha_kit.config import key_errors
from aloha_kit.config.rig import ArmConfig, RigConfig
from aloha_kit.core import ConfigError
from aloha_kit.core.plugins import call, resolve
from aloha_kit.ros.arm import Arm, ArmSetup, Role
from aloha_kit.sync.arm_readers import ArmDescription

DRIVERS = {
    "interbotix": "aloha_kit.ros.interbotix:InterbotixDriver",
    "joint_state": "aloha_kit.ros.joint_state_arm:JointStateDriver",
}
"""{name in a rig's file: its class}, imported when it is used."""


class ArmDriver(ArmDescription):
    """Driver of one arm: its description, its registers, and connecting to it. The constructor connects nothing.

    Raises:
        ConfigError: the configuration lacks what this driver needs.
    """

    def motor_registers(self, registers: Sequence[str]) -> Mapping[str, tuple[int, ...]] | None:
        """Motor registers {register: a value of each motor, in the order of the model}; None where the driver has none.

        Raises:
            RosError: they cannot be read now.
        """
        return None

    @abc.abstractmethod
    def connect(self, setup: ArmSetup) -> Arm:
        """Connect to the arm; `setup` has this driver's name, topics and model.

        Raises:
            RosError: the driver's node does not run.
        """


def arm_driver(config: ArmConfig) -> ArmDriver:
    """Arm driver that `config` names: one of `DRIVERS`, of an installed package, or `my_package.module:Name`.

    Raises:
        ConfigError: no such driver, or the configuration lacks what it needs.
    """
    found = resolve("drivers", config.driver, DRIVERS, base=ArmDriver)
    driver: ArmDriver = call("drivers", config.driver, found, {"config": config})
    return driver


def rig_drivers(rig: RigConfig) -> dict[Role, dict[str, ArmDriver]]:
    """Arm drivers of a rig: followers and leaders, by the arms' names.

    Raises:
        ConfigError: as `arm_driver`, a rig without followers, or a camera without a topic.
    """
    if not rig.followers:
        raise ConfigError("rig '{rig}' lists no followers; a rig behind ROS needs at least one", rig=rig.name)
    if silent := [name for name, camera in rig.cameras.items() if not camera.topic]:
        raise ConfigError(
            "cameras of rig '{rig}' behind ROS need a topic; without one: {silent}",
            rig=rig.name,
            silent=", ".join(silent),
        )
    groups: dict[Role, Mapping[str, ArmConfig]] = {"follower": rig.followers, "leader": rig.leaders}
    found: dict[Role, dict[str, ArmDriver]] = {role: {} for role in groups}
    for role, group in groups.items():
        for name, arm in group.items():
            with key_errors(rig, f"{role}s: {name}"):
                found[role][name] = arm_driver(arm)
    return found
