"""Interbotix arms over their driver `xs_sdk`, through the manufacturer's package or by ROS topics and services."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy.typing as npt
import rosgraph
import rospy

from aloha_kit.ros import interbotix_messages
from aloha_kit.ros.arm import (
    answered,
    Arm,
    ArmSetup,
    check_target,
    Part,
    wait_for_subscribers,
)
from aloha_kit.ros.command_publisher import CommandPublisher
from aloha_kit.ros.drivers import ArmDriver
from aloha_kit.ros.node import RosError
from aloha_kit.ros.topic_arm import TopicArm
from aloha_kit.sync.arm_readers import InterbotixDescription, InterbotixReader

_REBOOT_ALL_S = 15.0
"""Timeout of a service: a driver answers nothing while motors reboot, 9 s for a whole arm."""
_PARTS: dict[str, tuple[str, str]] = {"arm": ("group", "arm"), "gripper": ("single", "gripper")}
_SERVICES = {
    "set_operating_modes": "OperatingModes",
    "torque_enable": "TorqueEnable",
    "reboot_motors": "Reboot",
    "set_motor_pid_gains": "MotorGains",
    "set_motor_registers": "RegisterValues",
    "get_motor_registers": "RegisterValues",
    "get_robot_info": "RobotInfo",
}
# bits of a Dynamixel's Hardware_Error_Status
_ERRORS = {0: "input voltage", 2: "overheating", 3: "encoder", 4: "electrical shock", 5: "overload"}


class XsInterface(Protocol):
    """Interface to one xs driver: two command topics and seven services."""

    group: CommandPublisher  # of JointGroupCommand
    single: CommandPublisher  # of JointSingleCommand

    def call(self, service: str, *values: Any) -> Any:
        """Call `/<name>/<service>` with its request's values in order; raises rospy.ServiceException."""
        ...

    def close(self) -> None:
        """Leave ROS."""


class TopicInterface:
    """Direct use of the driver's topics and services; needs nothing installed."""

    def __init__(self, name: str) -> None:
        self.group, self.single = _command_publishers(name)
        self._services = {
            service: rospy.ServiceProxy(f"/{name}/{service}", getattr(interbotix_messages, kind))
            for service, kind in _SERVICES.items()
        }

    def call(self, service: str, *values: Any) -> Any:
        return self._services[service](*values)

    def close(self) -> None:
        self.group.unregister()
        self.single.unregister()
        for service in self._services.values():
            service.close()


class ModuleInterface:
    """Access through the installed package `interbotix_xs_modules`.

    Only the package's core is constructed: its arm interface computes forward kinematics after each command
    and writes slow motion profiles into the motors, its gripper interface starts a timer.
    """

    def __init__(self, name: str, model: str) -> None:
        from interbotix_xs_modules.core import InterbotixRobotXSCore

        self._core = InterbotixRobotXSCore(robot_model=model, robot_name=name, init_node=False)
        for queued in (self._core.pub_group, self._core.pub_single):  # they send in a thread of rospy
            queued.unregister()
        self.group, self.single = _command_publishers(name)
        self._services = {
            "set_operating_modes": self._core.srv_set_op_modes,
            "torque_enable": self._core.srv_torque,
            "reboot_motors": self._core.srv_reboot,
            "set_motor_pid_gains": self._core.srv_set_pids,
            "set_motor_registers": self._core.srv_set_reg,
            "get_motor_registers": self._core.srv_get_reg,
            "get_robot_info": self._core.srv_get_info,
        }

    def call(self, service: str, *values: Any) -> Any:
        return self._services[service](*values)

    def close(self) -> None:
        for topic in (self.group, self.single, self._core.pub_traj, self._core.sub_joint_states):
            topic.unregister()


def _command_publishers(name: str) -> tuple[CommandPublisher, CommandPublisher]:
    return (
        CommandPublisher(f"/{name}/commands/joint_group", interbotix_messages.JointGroupCommand),
        CommandPublisher(f"/{name}/commands/joint_single", interbotix_messages.JointSingleCommand),
    )


class InterbotixDriver(InterbotixDescription, ArmDriver):
    """An xs driver under the namespace `name`; `Arm`s of any model with one gripper."""

    def motor_registers(self, registers: Sequence[str]) -> dict[str, tuple[int, ...]]:
        service = f"/{self.config.name}/get_motor_registers"
        try:
            rosgraph.Master(rospy.get_name()).lookupService(service)
        except rosgraph.MasterError as error:
            raise RosError("no service {service}", service=service) from error
        read = rospy.ServiceProxy(service, interbotix_messages.RegisterValues)
        try:
            return {
                register: tuple(value for part in _PARTS.values() for value in read(*part, register, 0).values)
                for register in registers
            }
        except (rospy.ServiceException, rospy.ROSException) as error:
            raise RosError(str(error)) from error

    def connect(self, setup: ArmSetup) -> Arm:
        """Connect, through the manufacturer's package where it is installed."""
        return InterbotixArm(setup)


class InterbotixArm(TopicArm, InterbotixReader):
    """A ViperX or WidowX behind its xs driver; an `Arm`.

    Args:
        driver: the interface to its driver; by default the manufacturer's package where it is installed.

    Raises:
        RosError: the driver does not run; names what is missing.
    """

    def __init__(self, setup: ArmSetup, driver: XsInterface | None = None) -> None:
        _wait_for_services(setup)
        super().__init__(setup)  # the package would wait for services and joint states without a timeout
        name, installed = setup.name, importlib.util.find_spec("interbotix_xs_modules") is not None
        self._driver = driver or (ModuleInterface(name, setup.model.name) if installed else TopicInterface(name))
        wait_for_subscribers([self._driver.group, self._driver.single], setup)

    def command(self, target: npt.ArrayLike) -> None:
        goal = self._commands.limit(check_target(self.name, self.model, target))
        for publisher in (self._driver.group, self._driver.single):
            if publisher.get_num_connections() == 0:
                self.forget()
                self._not_subscribed(publisher.resolved_name)
        motor = float(self.model.gripper.unnormalise(goal[-1]))
        with self.setup.estop.sending():
            self._driver.group.publish(interbotix_messages.JointGroupCommand(name="arm", cmd=goal[:-1].tolist()))
            self._driver.single.publish(interbotix_messages.JointSingleCommand(name="gripper", cmd=motor))
            self._commands.sent(goal)

    def prepare_follower(self, gripper_current_limit: int = 0) -> None:
        """Prepare a follower as `Arm.prepare_follower`; clears an overloaded gripper.

        Raises:
            RosError: the driver does not answer, a motor of the arm reports an error, or the gripper did not
                take the current limit.
        """
        errors = self.errors()
        if errors.pop("gripper", None):
            self.reboot_gripper()
        if errors:
            listed = ", ".join(f"{joint}: {what}" for joint, what in errors.items())
            raise RosError(
                "{name}: motors have shut off ({listed}). See why, then reboot these: rosservice call "
                "/{name}/reboot_motors group arm true true",
                name=self.name,
                listed=listed,
            )
        self._mode("arm", "position")
        if gripper_current_limit and self._register("gripper", "Current_Limit") != [gripper_current_limit]:
            self.set_torque(False, "gripper")  # the motor's memory takes no value under torque
            try:
                self.set_register("gripper", "Current_Limit", gripper_current_limit)
            finally:
                self.set_torque(True, "gripper")
        self._mode("gripper", "current_based_position")
        self._prompt()

    def prepare_leader(self) -> None:
        self._mode("arm", "position")
        self._mode("gripper", "position")
        self._prompt()

    def set_torque(self, on: bool, part: Part = "all") -> None:
        for each in ("arm", "gripper") if part == "all" else (part,):
            self._call("torque_enable", *_PARTS[each], on)
        if not on:
            self.forget()

    def torque_state(self) -> dict[str, bool]:
        def read() -> list[int]:
            return [*self._register("arm", "Torque_Enable"), *self._register("gripper", "Torque_Enable")]

        values = answered(read, self.name)
        joints = self.model.names
        if len(values) != len(joints):
            raise RosError(
                "{name}: {count} of {joints} motors reported whether they have torque",
                name=self.name,
                count=len(values),
                joints=len(joints),
            )
        return {joint: bool(value) for joint, value in zip(joints, values, strict=True)}

    def reboot_gripper(self) -> None:
        self.forget()
        self._call("reboot_motors", *_PARTS["gripper"], True, False)  # a second: the driver waits for the motor
        self.reading()

    def set_pid_gains(self, p: int = 800, i: int = 0, d: int = 0, part: Literal["arm", "gripper"] = "arm") -> None:
        """Set the position gains of the motors' own controllers; lost when a motor reboots."""
        self._call("set_motor_pid_gains", *_PARTS[part], p, i, d, 0, 0, 100, 1920)

    def set_register(self, part: Literal["arm", "gripper"], register: str, value: int) -> None:
        """Write a register of the motors, by its name in their control table (`Current_Limit`).

        Raises:
            RosError: it does not hold `value` afterwards; the driver itself ignores failures.
        """
        self._call("set_motor_registers", *_PARTS[part], register, value)
        found = self._register(part, register)
        if not found or any(each != value for each in found):
            raise RosError(
                "{name}: the {part}'s register {register} did not take {value}, it holds {found}",
                name=self.name,
                part=part,
                register=register,
                value=value,
                found=found,
            )

    def errors(self) -> dict[str, str]:
        """Hardware errors {joint: text} of motors that have shut off."""
        status = [*self._register("arm", "Hardware_Error_Status"), *self._register("gripper", "Hardware_Error_Status")]
        joints = self.model.names
        if len(status) != len(joints):
            raise RosError(
                "{name}: {count} of {joints} motors reported their error status",
                name=self.name,
                count=len(status),
                joints=len(joints),
            )
        words = (" and ".join(what for bit, what in _ERRORS.items() if value >> bit & 1) for value in status)
        return {joint: what for joint, what in zip(joints, words, strict=True) if what}

    def close(self) -> None:
        self._driver.close()

    def _mode(self, part: Literal["arm", "gripper"], mode: str) -> None:
        """Set the operating `mode` with torque on, only where it differs: a change switches the torque off briefly."""
        if self._call("get_robot_info", *_PARTS[part]).mode != mode:
            self.forget()
            self._call("set_operating_modes", *_PARTS[part], mode, "velocity", 0, 0)
        self.set_torque(True, part)

    def _prompt(self) -> None:
        """Clear motion profiles, so that commands are followed at once: an earlier program may have left some."""
        for register in ("Profile_Velocity", "Profile_Acceleration"):
            self._call("set_motor_registers", *_PARTS["arm"], register, 0)

    def _register(self, part: str, register: str) -> list[int]:
        return list(self._call("get_motor_registers", *_PARTS[part], register, 0).values)

    def _call(self, service: str, *values: Any) -> Any:
        reads = service in ("get_motor_registers", "get_robot_info")
        holds = service == "torque_enable" and values[-1]
        # changes of mode and reboots switch the torque off too, briefly
        allowed = contextlib.nullcontext() if reads or holds else self.setup.estop.sending()
        try:
            with allowed:
                return answered(lambda: self._driver.call(service, *values), self.name, _REBOOT_ALL_S)
        except (rospy.ServiceException, rospy.ROSException) as error:
            raise RosError(
                "{name}: the service /{name}/{service} failed: {error}", name=self.name, service=service, error=error
            ) from error


def _wait_for_services(setup: ArmSetup) -> None:
    name = setup.name
    for service in _SERVICES:
        try:
            rospy.wait_for_service(f"/{name}/{service}", timeout=setup.timeout_s)
        except rospy.ROSException as error:
            raise RosError(
                "{name}: no service /{name}/{service} after {timeout_s:g} s. Start the arm's driver, or the "
                "simulated rig: roslaunch aloha_kit sim_rig.launch",
                name=name,
                service=service,
                timeout_s=setup.timeout_s,
            ) from error
