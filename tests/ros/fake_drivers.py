"""Tiny stand-ins for arm drivers, in this process: they store their commands and go there at once."""

from __future__ import annotations

import abc
import importlib.machinery
import json
import sys
import threading
import types
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np
import pytest
import rospy
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from sensor_msgs.msg import CompressedImage, JointState
from std_msgs.msg import Float32
from std_srvs.srv import Trigger, TriggerResponse

from aloha_kit.core import ArmModel, PIPER, VX300S, WallClock
from aloha_kit.ros import image_messages, interbotix_messages
from aloha_kit.ros.arm import ArmSetup

MOTORS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper")
REGISTERS = {"Current_Limit": 500, "Hardware_Error_Status": 0, "Profile_Velocity": 2000, "Profile_Acceleration": 300}


def xs_setup(name: str = "puppet_left", model: ArmModel = VX300S, **changes: Any) -> ArmSetup:
    """Setup of an arm behind a `FakeInterbotix` of this name."""
    return ArmSetup(name, model, WallClock(), f"/{name}/joint_states", **changes)


class Ticking:
    """Calls `tick` at a rate in a thread of its own until it is closed."""

    def __init__(self, hz: float, tick: Callable[[], None]) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(1 / hz, tick), daemon=True)
        self._thread.start()

    def _run(self, period: float, tick: Callable[[], None]) -> None:
        while not self._ended.wait(period):
            tick()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()


class Driver(abc.ABC):
    """What both kinds of driver share: joint states that go out, and things that can go wrong."""

    def __init__(self, topic: str, hz: float) -> None:
        self.lock = threading.Lock()
        self.broken: Callable[[JointState], None] = lambda message: None  # changes what is published
        self._publisher = rospy.Publisher(topic, JointState, queue_size=5)
        self._ticking = Ticking(hz, self._tick)
        self._endpoints: list[Any] = [self._publisher]

    @abc.abstractmethod
    def state(self) -> JointState:
        """What is published next."""

    def _tick(self) -> None:
        message = self.state()
        message.header.stamp = rospy.Time.now()
        self.broken(message)
        self._publisher.publish(message)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._ticking.close()
        for endpoint in self._endpoints:
            (endpoint.unregister if hasattr(endpoint, "unregister") else endpoint.shutdown)()


class FakeInterbotix(Driver):
    """An xs driver: 9 joints, two command topics, seven services. Motors without torque ignore commands."""

    def __init__(self, name: str, model: ArmModel = VX300S, hz: float = 100.0) -> None:
        self.model = model
        self.motors = np.zeros(7)  # rad
        self.velocity, self.effort = np.zeros(7), np.zeros(7)
        self.torque = dict.fromkeys(MOTORS, False)
        self.blocked = False  # something is in its way
        self.modes = {"arm": "velocity", "gripper": "velocity"}
        self.registers = {motor: dict(REGISTERS) for motor in MOTORS}
        self.calls: list[tuple[str, ...]] = []
        self.groups: list[np.ndarray[Any, Any]] = []  # rad, every command received
        self.grippers: list[float] = []
        super().__init__(f"/{name}/joint_states", hz)
        self._endpoints += [
            rospy.Subscriber(f"/{name}/commands/joint_group", interbotix_messages.JointGroupCommand, self._group),
            rospy.Subscriber(f"/{name}/commands/joint_single", interbotix_messages.JointSingleCommand, self._single),
            *(rospy.Service(f"/{name}/{service}", kind, handler) for service, kind, handler in self._services()),
        ]

    def state(self) -> JointState:
        with self.lock:
            finger = self.model.crank.travel(self.motors[6]) if self.model.crank else 0.0
            return JointState(
                name=[*MOTORS, "left_finger", "right_finger"],
                position=[*self.motors, finger, -finger],
                velocity=[*self.velocity, 0.0, 0.0],
                effort=[*self.effort, 0.0, 0.0],
            )

    def _services(self) -> list[tuple[str, Any, Any]]:
        return [
            ("set_operating_modes", interbotix_messages.OperatingModes, self._set_modes),
            ("torque_enable", interbotix_messages.TorqueEnable, self._set_torque),
            ("reboot_motors", interbotix_messages.Reboot, self._reboot),
            ("set_motor_pid_gains", interbotix_messages.MotorGains, self._set_gains),
            ("set_motor_registers", interbotix_messages.RegisterValues, self._set_register),
            ("get_motor_registers", interbotix_messages.RegisterValues, self._get_register),
            ("get_robot_info", interbotix_messages.RobotInfo, self._info),
        ]

    def _named(self, request: Any) -> list[str]:
        return list(MOTORS[:6]) if (request.cmd_type, request.name) == ("group", "arm") else [request.name]

    def _group(self, message: Any) -> None:
        with self.lock:
            self.groups.append(np.array(message.cmd))
            if message.name == "arm" and self.torque["waist"] and not self.blocked:
                self.motors[:6] = message.cmd

    def _single(self, message: Any) -> None:
        with self.lock:
            self.grippers.append(message.cmd)
            if self.torque[message.name]:
                self.motors[MOTORS.index(message.name)] = message.cmd

    def _set_modes(self, request: Any) -> Any:
        self.calls.append(("mode", request.name, request.mode))
        self.modes[request.name] = request.mode
        self.torque.update(dict.fromkeys(self._named(request), True))
        return interbotix_messages.OperatingModes._response_class()

    def _set_torque(self, request: Any) -> Any:
        self.calls.append(("torque", request.name, "on" if request.enable else "off"))
        self.torque.update(dict.fromkeys(self._named(request), request.enable))
        return interbotix_messages.TorqueEnable._response_class()

    def _reboot(self, request: Any) -> Any:
        self.calls.append(("reboot", request.name))
        for motor in self._named(request):
            self.registers[motor]["Hardware_Error_Status"] = 0
            self.torque[motor] = request.enable
        return interbotix_messages.Reboot._response_class()

    def _set_gains(self, request: Any) -> Any:
        self.calls.append(("gains", request.name, f"{request.kp_pos} {request.ki_pos} {request.kd_pos}"))
        return interbotix_messages.MotorGains._response_class()

    def _set_register(self, request: Any) -> Any:
        for motor in self._named(request):
            kept = request.reg == "Current_Limit" and self.torque[motor]  # the motor's memory is locked under torque
            if request.reg in self.registers[motor] and not kept:
                self.registers[motor][request.reg] = request.value
        return interbotix_messages.RegisterValues._response_class()

    def _get_register(self, request: Any) -> Any:
        known = {motor: {**self.registers[motor], "Torque_Enable": int(self.torque[motor])} for motor in MOTORS}
        values = [known[m][request.reg] for m in self._named(request) if request.reg in known[m]]
        return interbotix_messages.RegisterValues._response_class(values=values)

    def _info(self, request: Any) -> Any:
        return interbotix_messages.RobotInfo._response_class(mode=self.modes[request.name])


def install_fake_package(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """`interbotix_xs_modules` with the part of its core that is used; returns the arguments it is built with."""
    built: list[dict[str, Any]] = []

    class Core:
        def __init__(self, **arguments: Any) -> None:
            built.append(arguments)
            name = arguments["robot_name"]

            def publisher(topic: str, kind: Any) -> Any:
                return rospy.Publisher(f"/{name}/commands/{topic}", kind, queue_size=1)

            def service(topic: str, kind: Any) -> Any:
                return rospy.ServiceProxy(f"/{name}/{topic}", kind)

            self.pub_group = publisher("joint_group", interbotix_messages.JointGroupCommand)
            self.pub_single = publisher("joint_single", interbotix_messages.JointSingleCommand)
            self.pub_traj = publisher("joint_trajectory", interbotix_messages.JointTrajectoryCommand)
            self.sub_joint_states = rospy.Subscriber(f"/{name}/joint_states", JointState, lambda message: None)
            self.srv_set_op_modes = service("set_operating_modes", interbotix_messages.OperatingModes)
            self.srv_torque = service("torque_enable", interbotix_messages.TorqueEnable)
            self.srv_reboot = service("reboot_motors", interbotix_messages.Reboot)
            self.srv_set_pids = service("set_motor_pid_gains", interbotix_messages.MotorGains)
            self.srv_set_reg = service("set_motor_registers", interbotix_messages.RegisterValues)
            self.srv_get_reg = service("get_motor_registers", interbotix_messages.RegisterValues)
            self.srv_get_info = service("get_robot_info", interbotix_messages.RobotInfo)

    package, core = types.ModuleType("interbotix_xs_modules"), types.ModuleType("interbotix_xs_modules.core")
    core.InterbotixRobotXSCore = Core  # type: ignore[attr-defined]
    package.__spec__ = importlib.machinery.ModuleSpec("interbotix_xs_modules", None)
    monkeypatch.setitem(sys.modules, "interbotix_xs_modules", package)
    monkeypatch.setitem(sys.modules, "interbotix_xs_modules.core", core)
    return built


class FakePiper(Driver):
    """A JointState arm, Piper's six joints by default; its gripper in metres, stopped at its ends by the driver."""

    def __init__(self, state_topic: str, command_topic: str = "", hz: float = 200.0, model: ArmModel = PIPER) -> None:
        self.joints, self._dof = np.zeros(model.size), model.dof
        super().__init__(state_topic, hz)
        if command_topic:
            self._endpoints.append(rospy.Subscriber(command_topic, JointState, self._command))

    def state(self) -> JointState:
        with self.lock:
            return JointState(
                name=[f"joint{i}" for i in range(len(self.joints))],
                position=self.joints.tolist(),
                velocity=[0.0] * len(self.joints),
                effort=[0.0] * (len(self.joints) - 1) + [0.3],
            )

    def _command(self, message: JointState) -> None:
        with self.lock:
            self.joints[:] = message.position
            self.joints[self._dof :] = np.clip(self.joints[self._dof :], 0.0, 0.08)


class FakeCamera:
    """JPEG images on a topic; each is one shade of red, which counts up."""

    def __init__(self, topic: str, size: tuple[int, int] = (48, 64), hz: float = 30.0) -> None:
        self.size, self.running, self.sent = size, True, 0
        self.tears = lambda image: False  # whether the image of this number arrives cut off
        self._publisher = rospy.Publisher(topic, CompressedImage, queue_size=5)
        self._ticking = Ticking(hz, self._tick)

    def _tick(self) -> None:
        if self.running:
            self.sent += 1
            image = np.zeros((*self.size, 3), np.uint8)
            image[..., 0] = 40 + self.sent % 200
            message = image_messages.to_compressed(image, rospy.Time.now().to_nsec())
            if self.tears(self.sent):
                message.data = message.data[: len(message.data) // 2]
            self._publisher.publish(message)

    def __enter__(self) -> FakeCamera:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._ticking.close()
        self._publisher.unregister()


class FakeBase:
    """A mobile base that follows its commands; `collected` keeps every (linear, angular) command."""

    def __init__(self, hz: float = 50.0) -> None:
        self.collected: list[tuple[float, float]] = []
        self.velocity = (0.0, 0.0)
        self._publisher = rospy.Publisher("/odom", Odometry, queue_size=5)
        self._subscriber = rospy.Subscriber("/cmd_vel", Twist, self._command)
        self._ticking = Ticking(hz, self._tick)

    def _command(self, message: Twist) -> None:
        self.velocity = (message.linear.x, message.angular.z)
        self.collected.append(self.velocity)

    def _tick(self) -> None:
        message = Odometry()
        message.header.stamp = rospy.Time.now()
        message.twist.twist.linear.x, message.twist.twist.angular.z = self.velocity
        self._publisher.publish(message)

    def __enter__(self) -> FakeBase:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._ticking.close()
        self._publisher.unregister()
        self._subscriber.unregister()


class FakeSimulation:
    """Topics and services of a simulated rig beside its drivers: its description, rewards, a reset of the objects."""

    def __init__(self, about: dict[str, Any]) -> None:
        self.seed, self.reward, self.resets = 0, 0.0, 0
        rospy.set_param("/sim_rig", about)
        self._publisher = rospy.Publisher("/sim_rig/reward", Float32, queue_size=5)
        self._service = rospy.Service("/sim_rig/reset", Trigger, self._reset)
        self._ticking = Ticking(50.0, lambda: self._publisher.publish(Float32(data=self.reward)))

    def _reset(self, request: Any) -> TriggerResponse:
        self.resets += 1
        self.seed = rospy.get_param("/sim_rig_seed", self.seed + 1)
        if rospy.has_param("/sim_rig_seed"):
            rospy.delete_param("/sim_rig_seed")
        return TriggerResponse(success=True, message=json.dumps({"seed": self.seed}))

    def __enter__(self) -> FakeSimulation:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._ticking.close()
        self._service.shutdown()
        self._publisher.unregister()
        rospy.delete_param("/sim_rig")
