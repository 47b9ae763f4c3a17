"""Simulated drivers: the topics and services of the real ones around simulated arms and a base.

Callbacks and services come on ROS's threads and only change what the next tick of the node's loop reads,
under one lock; `publish` is called by that loop.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import rospy
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, String

from aloha_kit.ros import interbotix_messages
from aloha_kit.ros.sim_rig.control_table import GRIPPER, IDS, JOINTS
from aloha_kit.ros.sim_rig.faults import ArmFault, Faults, StreamFault
from aloha_kit.ros.sim_rig.motors import GROUPS, RefusedError
from aloha_kit.ros.sim_rig.simulated_arms import DRIVER_SLEEP, Follower, JointFollower, JointLeader, Leader
from aloha_kit.ros.sim_rig.simulated_rig import SimRig
from aloha_kit.ros.sim_rig.urdf import description

Vector = npt.NDArray[np.float64]

FINGERS = ("left_finger", "right_finger")
RECORD_STATE = "/aloha_kit/record/state"
_QUEUE = 10  # messages a slow listener may be behind


def stamp(ns: int) -> rospy.Time:
    """A ROS time from nanoseconds."""
    return rospy.Time(*divmod(ns, 1_000_000_000))


class SimulatedInterbotixDriver:
    """Simulated `xs_sdk` driver in the namespace of one arm.

    It has one thread for everything: while motors reboot it publishes nothing, executes nothing and answers no request.
    """

    def __init__(
        self, name: str, arm: Follower | Leader, faults: Faults, lock: threading.RLock, rng: np.random.Generator
    ) -> None:
        self.name, self._arm, self._faults, self._lock, self._rng = name, arm, faults, lock, rng
        self._motors, self._model = arm.motors, arm.motors.model
        self._turn = threading.Condition(lock)  # to be served
        self._path: Any = None  # the trajectory that is being executed
        self._begun, self._next = 0.0, 0
        rospy.set_param(f"/{name}/robot_description", description(name, self._model))
        self._states = rospy.Publisher(f"/{name}/joint_states", JointState, queue_size=_QUEUE)
        for topic, kind, callback in (
            ("joint_group", interbotix_messages.JointGroupCommand, lambda m: self._motors.command_group(m.name, m.cmd)),
            (
                "joint_single",
                interbotix_messages.JointSingleCommand,
                lambda m: self._motors.command_single(m.name, m.cmd),
            ),
            ("joint_trajectory", interbotix_messages.JointTrajectoryCommand, self._trajectory),
        ):
            rospy.Subscriber(f"/{name}/commands/{topic}", kind, self._locked(callback), queue_size=_QUEUE)
        for service, kind, handler in (
            ("set_operating_modes", interbotix_messages.OperatingModes, self._set_modes),
            ("torque_enable", interbotix_messages.TorqueEnable, self._enable),
            ("reboot_motors", interbotix_messages.Reboot, self._reboot),
            ("set_motor_pid_gains", interbotix_messages.MotorGains, self._set_gains),
            ("set_motor_registers", interbotix_messages.RegisterValues, self._set_registers),
            ("get_motor_registers", interbotix_messages.RegisterValues, self._get_registers),
            ("get_robot_info", interbotix_messages.RobotInfo, self._info),
        ):
            rospy.Service(f"/{name}/{service}", kind, self._served(handler))

    def advance(self, now: float) -> None:
        """Faults of the motors, and the commands of a trajectory that are due; `now` in s."""
        lost = self._faults.of(self.name, ArmFault).torque_loss
        if lost:
            self._arm.fail(JOINTS if lost is True else (lost,))
        if self._motors.rebooting:
            return
        self._turn.notify_all()
        if self._path is None:
            return
        points = self._path.traj.points
        if self._next == 0:
            self._begun, self._next = now, 1
        # a point is where to be at its time, so it is sent when the one before it is due
        while self._next < len(points) and now - self._begun >= points[self._next - 1].time_from_start.to_sec():
            self._send(points[self._next])
            self._next += 1
        if now - self._begun >= points[-1].time_from_start.to_sec():
            self._path = None

    def publish(self, now_ns: int) -> None:
        """The joint states of now."""
        fault = self._faults.of(self.name, ArmFault)
        if self._motors.rebooting or not fault.passes(self._rng):
            return
        position, velocity, effort = self._arm.position, self._arm.velocity, self._arm.effort
        if fault.read_failure:  # a driver that reads nothing takes its zeros for values
            position, velocity, effort = np.full_like(position, -np.pi), np.zeros_like(velocity), np.zeros_like(effort)
        assert self._model.crank is not None
        finger = self._model.crank.travel(position[GRIPPER])
        values = np.array([*position, finger, -finger])
        if fault.nan:
            values[:] = np.nan
        message = JointState(name=[*JOINTS, *FINGERS], position=values.tolist())
        message.velocity, message.effort = [*velocity.tolist(), 0.0, 0.0], [*effort.tolist(), 0.0, 0.0]
        message.header.stamp = stamp(fault.stamp_ns(now_ns, self._rng))
        self._states.publish(message)

    def _locked(self, callback: Callable[[Any], None]) -> Callable[[Any], None]:
        def under_lock(message: Any) -> None:
            with self._lock:
                self._wait()
                callback(message)

        return under_lock

    def _served(self, handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def serve(request: Any) -> Any:
            with self._lock:
                self._wait()
                try:
                    return handler(request)
                except RefusedError as error:
                    raise rospy.ServiceException(f"{self.name}: {error}") from error

        return serve

    def _wait(self) -> None:
        """Wait until the driver's thread is free; with the lock."""
        while self._motors.rebooting and not rospy.is_shutdown():
            self._turn.wait(0.5)

    def _trajectory(self, message: Any) -> None:
        if self._path is not None:
            rospy.logwarn(f"{self.name}: a trajectory is being executed, the new one is refused")
        elif len(message.traj.points) < 2:
            rospy.logwarn(f"{self.name}: a trajectory needs 2 points, {len(message.traj.points)} is too few")
        else:
            self._path, self._next = message, 0

    def _send(self, point: Any) -> None:
        group = self._path.cmd_type == "group"
        modes = self._motors.group_mode if group else self._motors.mode
        mode = modes.get(self._path.name, "position")
        values = {"velocity": point.velocities, "pwm": point.effort, "current": point.effort}.get(mode, point.positions)
        if group:
            self._motors.command_group(self._path.name, values)
        elif values:
            self._motors.command_single(self._path.name, values[0])

    def _set_modes(self, r: Any) -> Any:
        self._motors.set_mode(r.cmd_type, r.name, r.mode, r.profile_type, r.profile_velocity, r.profile_acceleration)
        return interbotix_messages.OperatingModes._response_class()

    def _enable(self, r: Any) -> Any:
        self._motors.enable(r.cmd_type, r.name, r.enable)
        return interbotix_messages.TorqueEnable._response_class()

    def _reboot(self, r: Any) -> Any:
        self._motors.reboot(r.cmd_type, r.name, r.enable, r.smart_reboot)
        self._wait()
        return interbotix_messages.Reboot._response_class()

    def _set_gains(self, r: Any) -> Any:
        gains = {
            "Position_P_Gain": r.kp_pos, "Position_I_Gain": r.ki_pos, "Position_D_Gain": r.kd_pos,
            "Feedforward_1st_Gain": r.k1, "Feedforward_2nd_Gain": r.k2,
            "Velocity_P_Gain": r.kp_vel, "Velocity_I_Gain": r.ki_vel,
        }  # fmt: skip
        self._motors.set_gains(r.cmd_type, r.name, gains)
        return interbotix_messages.MotorGains._response_class()

    def _set_registers(self, r: Any) -> Any:
        self._motors.set_register(r.cmd_type, r.name, r.reg, r.value)
        return interbotix_messages.RegisterValues._response_class()

    def _get_registers(self, r: Any) -> Any:
        return interbotix_messages.RegisterValues._response_class(self._motors.get_register(r.cmd_type, r.name, r.reg))

    def _info(self, r: Any) -> Any:
        """Limits and names; a gripper is given as its left finger, in metres."""
        indices = self._motors.joints(r.cmd_type, r.name)
        model, sleep = self._model, DRIVER_SLEEP[self._model.name]
        assert model.crank is not None
        lower, upper = (*model.lower, model.finger_limits[0]), (*model.upper, model.finger_limits[1])
        velocity, rest = (*[model.velocity] * model.dof, 1.0), (*sleep, model.crank.travel(0.0))
        names, places = (*model.joints, FINGERS[0]), (*range(model.dof), model.dof + 1)
        modes = self._motors.group_mode if r.cmd_type == "group" else self._motors.mode
        return interbotix_messages.RobotInfo._response_class(
            mode=modes[r.name],
            profile_type=self._motors.profile[r.name],
            joint_names=[names[i] for i in indices],
            joint_ids=[IDS[i] for i in indices],
            joint_lower_limits=[lower[i] for i in indices],
            joint_upper_limits=[upper[i] for i in indices],
            joint_velocity_limits=[velocity[i] for i in indices],
            joint_sleep_positions=[rest[i] for i in indices],
            joint_state_indices=[places[i] for i in indices],
            num_joints=len(indices),
            name=sorted(GROUPS) if r.name == "all" else [r.name],
        )


class SimulatedJointStateDriver:
    """Simulated Cobot Magic drivers of one side: the follower's state, and the leader's, which moves it."""

    def __init__(
        self, rig: SimRig, side: str, names: tuple[str, str], topics: tuple[str, str],
        faults: Faults, lock: threading.RLock, rng: np.random.Generator,
    ) -> None:  # fmt: skip
        """`names` and `topics` are the follower's and the leader's."""
        self._rig, self._side, self._names, self._faults, self._rng = rig, side, names, faults, rng
        self._publishers = [rospy.Publisher(topic, JointState, queue_size=_QUEUE) for topic in topics]

        def follow(message: Any) -> None:
            stranger = message._connection_header.get("callerid") != rospy.get_name()
            with lock:
                rig.follow(side, np.array(message.position, float), stranger=stranger)

        rospy.Subscriber(topics[1], JointState, follow, queue_size=_QUEUE, tcp_nodelay=True)

    def advance(self, now: float) -> None:
        """Faults of the motors."""
        follower = self._rig.followers[self._side]
        lost = self._faults.of(self._names[0], ArmFault).torque_loss
        follower.fail(JOINTS if lost is True else (lost,) if lost else ())

    def publish(self, now_ns: int) -> None:
        """The joint states of now; the leader's only while the operator holds it."""
        self._send(0, self._rig.followers[self._side], now_ns)
        if self._side in self._rig.leaders and self._rig.operator_holds:
            self._send(1, self._rig.leaders[self._side], now_ns)

    def _send(self, which: int, arm: Any, now_ns: int) -> None:
        fault = self._faults.of(self._names[which], ArmFault)
        if not fault.passes(self._rng):
            return
        assert isinstance(arm, (JointFollower, JointLeader))
        position = np.full_like(arm.position, -np.pi) if fault.read_failure else arm.position
        position = np.full_like(arm.position, np.nan) if fault.nan else position
        message = JointState(name=[f"joint{i}" for i in range(len(position))], position=position.tolist())
        message.velocity, message.effort = arm.velocity.tolist(), arm.effort.tolist()
        message.header.stamp = stamp(fault.stamp_ns(now_ns, self._rng))
        self._publishers[which].publish(message)


class SimulatedSwitches:
    """Switches of Cobot Magic's operator and drivers: whether a recording runs, and whether motors are on."""

    def __init__(self, rig: SimRig, lock: threading.RLock) -> None:
        def recorded(message: Any) -> None:
            with lock:
                rig.recording, rig.paused = message.data == "recording", message.data == "paused"

        def enabled(message: Any) -> None:
            with lock:
                for follower in rig.followers.values():
                    if isinstance(follower, JointFollower):
                        follower.enable(bool(message.data))

        rospy.Subscriber(RECORD_STATE, String, recorded, queue_size=_QUEUE)
        rospy.Subscriber("/enable_flag", Bool, enabled, queue_size=_QUEUE)


class SimulatedBaseDriver:
    """Odometry out, velocities in."""

    def __init__(
        self, rig: SimRig, topics: tuple[str, str], faults: Faults, lock: threading.RLock, rng: np.random.Generator
    ) -> None:
        """`topics` are those of odometry and command."""
        self._rig, self._faults, self._rng = rig, faults, rng
        self._odometry = rospy.Publisher(topics[0], Odometry, queue_size=_QUEUE)

        def drive(message: Any) -> None:
            with lock:
                rig.drive((message.linear.x, message.angular.z))

        rospy.Subscriber(topics[1], Twist, drive, queue_size=1)

    def publish(self, now_ns: int) -> None:
        """The odometry of now."""
        fault, base = self._faults.of("base", StreamFault), self._rig.base
        if base is None or not fault.passes(self._rng):
            return
        message = Odometry(child_frame_id="base_link")
        message.header.frame_id, message.header.stamp = "odom", stamp(fault.stamp_ns(now_ns, self._rng))
        message.pose.pose.position.x, message.pose.pose.position.y, heading = base.pose.tolist()
        message.pose.pose.orientation.z, message.pose.pose.orientation.w = np.sin(heading / 2), np.cos(heading / 2)
        message.twist.twist.linear.x, message.twist.twist.angular.z = base.velocity.tolist()
        self._odometry.publish(message)
