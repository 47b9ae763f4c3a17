"""A user of a simulated rig in tests: subscribes to its arms, commands them, calls their drivers."""

from __future__ import annotations

import contextlib
import json
import time
import xmlrpc.client
from collections import deque
from typing import Any

import numpy as np
import rosgraph
import rospy
from sensor_msgs.msg import JointState
from std_msgs.msg import Float32
from std_srvs.srv import Trigger

from aloha_kit.ros import interbotix_messages
from tests.waiting import until

ARMS = ("puppet_left", "puppet_right", "master_left", "master_right")
SERVICES = {
    "set_operating_modes": interbotix_messages.OperatingModes,
    "torque_enable": interbotix_messages.TorqueEnable,
    "reboot_motors": interbotix_messages.Reboot,
    "set_motor_pid_gains": interbotix_messages.MotorGains,
    "set_motor_registers": interbotix_messages.RegisterValues,
    "get_motor_registers": interbotix_messages.RegisterValues,
    "get_robot_info": interbotix_messages.RobotInfo,
}


def kill_node(name: str) -> None:
    """`rosnode kill`, which does not mind a node that goes before it has answered."""
    with contextlib.suppress(OSError):
        xmlrpc.client.ServerProxy(rosgraph.Master(rospy.get_name()).lookupNode(name)).shutdown(
            "/rosnode", "user request"
        )


class Received:
    """The messages of a topic: the newest, when it came (time.monotonic), and those since somebody cleared them."""

    def __init__(self, topic: str, kind: Any) -> None:
        self.newest: Any = None
        self.came = 0.0
        self.messages: deque[Any] = deque(maxlen=1000)
        self.subscriber = rospy.Subscriber(topic, kind, self._receive, queue_size=1000)

    def _receive(self, message: Any) -> None:
        self.newest, self.came = message, time.monotonic()
        self.messages.append(message)

    def next(self, count: int = 1, timeout: float = 20.0) -> list[Any]:
        """The next `count` messages from now."""
        self.messages.clear()
        until(lambda: len(self.messages) >= count, f"{count} messages on {self.subscriber.name}", timeout)
        return list(self.messages)[:count]


class Client:
    """Interbotix arms of a rig, by the names of their drivers."""

    def __init__(self, arms: tuple[str, ...] = ARMS) -> None:
        self.states = {arm: Received(f"/{arm}/joint_states", JointState) for arm in arms}
        self.reward = Received("/sim_rig/reward", Float32)
        self.scene = Received("/sim_rig/state", JointState)
        self.group = {arm: self._publisher(arm, "joint_group", interbotix_messages.JointGroupCommand) for arm in arms}
        self.single = {
            arm: self._publisher(arm, "joint_single", interbotix_messages.JointSingleCommand) for arm in arms
        }
        self.path = {
            arm: self._publisher(arm, "joint_trajectory", interbotix_messages.JointTrajectoryCommand) for arm in arms
        }
        for publishers in (self.group, self.single, self.path):
            for arm, publisher in publishers.items():
                until(publisher.get_num_connections, f"{arm}'s driver listens")
        for arm, received in self.states.items():
            until(lambda received=received: received.newest, f"{arm}'s joint states")

    @staticmethod
    def _publisher(arm: str, topic: str, kind: Any) -> Any:
        return rospy.Publisher(f"/{arm}/commands/{topic}", kind, queue_size=10)

    def position(self, arm: str) -> np.ndarray:
        """(9,) newest."""
        return np.array(self.states[arm].newest.position)

    def call(self, arm: str, service: str, *values: Any) -> Any:
        proxy = rospy.ServiceProxy(f"/{arm}/{service}", SERVICES[service])
        return proxy(*values)

    def mode(self, arm: str, arm_mode: str = "position", gripper: str = "current_based_position") -> None:
        self.call(arm, "set_operating_modes", "group", "arm", arm_mode, "velocity", 0, 0)
        self.call(arm, "set_operating_modes", "single", "gripper", gripper, "velocity", 0, 0)

    def torque(self, arm: str, on: bool, *, joints: str = "all") -> None:
        self.call(arm, "torque_enable", "single" if joints == "gripper" else "group", joints, on)

    def send(self, arm: str, joints: Any, gripper: float | None = None) -> None:
        self.group[arm].publish(interbotix_messages.JointGroupCommand("arm", [float(value) for value in joints]))
        if gripper is not None:
            self.single[arm].publish(interbotix_messages.JointSingleCommand("gripper", float(gripper)))

    def arrives(self, arm: str, joints: Any, tolerance: float = 0.03) -> None:
        """Until the arm's first joints are at `joints`."""
        goal = np.asarray(joints, float)
        until(
            lambda: np.abs(self.position(arm)[: len(goal)] - goal).max() < tolerance,
            f"{arm} at {goal}, it is at {np.round(self.position(arm), 3)}",
        )

    def move(self, arm: str, joints: Any, gripper: float, seconds: float = 1.0) -> None:
        """There in a straight line, at 50 Hz; returns when it is there."""
        begin = self.position(arm)[:7]
        end = np.append(joints, gripper)
        for share in np.linspace(0, 1, max(2, int(50 * seconds))):
            target = begin + share * (end - begin)
            self.send(arm, target[:6], target[6])
            time.sleep(0.02)
        self.arrives(arm, joints)

    def reset(self) -> int:
        """Put the objects back; the seed."""
        answer = rospy.ServiceProxy("/sim_rig/reset", Trigger)()
        assert answer.success, answer.message
        return int(json.loads(answer.message)["seed"])

    def faults(self, faults: dict[str, Any]) -> None:
        rospy.set_param("/sim_rig_faults", faults)
        assert rospy.ServiceProxy("/sim_rig/apply_faults", Trigger)().success

    def close(self) -> None:
        for received in (*self.states.values(), self.reward, self.scene):
            received.subscriber.unregister()
        for publisher in (*self.group.values(), *self.single.values(), *self.path.values()):
            publisher.unregister()
