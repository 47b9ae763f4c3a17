"""Arms with sensor_msgs/JointState for both states and commands, as Cobot Magic's Piper."""

from __future__ import annotations

import contextlib

import numpy.typing as npt
import rospy
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool

from aloha_kit.core import SafetyError
from aloha_kit.ros import node
from aloha_kit.ros.arm import (
    Arm,
    ArmSetup,
    check_target,
    Part,
    wait_for_subscribers,
)
from aloha_kit.ros.command_publisher import CommandPublisher
from aloha_kit.ros.drivers import ArmDriver
from aloha_kit.ros.topic_arm import TopicArm
from aloha_kit.sync.arm_readers import JointStateDescription, JointStateReader

ENABLE_TOPIC = "/enable_flag"
"""std_msgs/Bool: Piper's drivers switch the motors of all followers on or off; leaders have no switch."""


class JointStateDriver(JointStateDescription, ArmDriver):
    """Driver with sensor_msgs/JointState on `state_topic` and `command_topic`; arms of any model."""

    def connect(self, setup: ArmSetup) -> Arm:
        return JointStateArm(setup)


class JointStateArm(TopicArm, JointStateReader):
    """Arm with sensor_msgs/JointState for its states and on its first command topic; an `Arm`.

    Commands name the entries joint0, joint1, ...
    Nothing is sent before the first command, since another sender (a leader) may be driving the arm.
    """

    def __init__(self, setup: ArmSetup) -> None:
        self._names = [f"joint{i}" for i in range(setup.model.size)]
        self._publisher: CommandPublisher | None = None
        super().__init__(setup)

    def command(self, target: npt.ArrayLike) -> None:
        goal = check_target(self.name, self.model, target)
        publisher = self._connected()
        goal = self._commands.limit(goal)
        if publisher.get_num_connections() == 0:
            self.forget()
            self._not_subscribed(publisher.resolved_name)
        dof = self.model.dof
        position = self.model.vector(goal[:dof], self.model.finger.unnormalise(goal[dof:]))
        message = JointState(name=self._names, position=position.tolist())
        with self.setup.estop.sending():
            message.header.stamp = rospy.Time.now()
            publisher.publish(message)
            self._commands.sent(goal)

    def prepare_follower(self, gripper_current_limit: int = 0) -> None:
        """Switch the torque on; modes and the gripper's force are fixed in the driver."""
        self.setup.estop.require_released()
        self.set_torque(True)
        self._connected()

    def prepare_leader(self) -> None:
        """Do nothing: the operator can move the leader at all times."""

    def set_torque(self, on: bool, part: Part = "all") -> None:
        """Switch the torque of all followers on the driver's topic; parts of an arm have no switch."""
        if self.setup.role == "leader" or part != "all" or not _has_subscriber(ENABLE_TOPIC):
            return
        switch = CommandPublisher(ENABLE_TOPIC, Bool)
        wait_for_subscribers([switch], self.setup, self.setup.timeout_s)  # not longer: it is on the way out too
        with contextlib.nullcontext() if on else self.setup.estop.sending():  # a press during the wait counts as well
            switch.publish(Bool(data=on))
        if not on:
            self.forget()

    def torque_state(self) -> None:
        """None: the driver does not report the torque of its motors."""

    def reboot_gripper(self) -> None:
        """Do nothing: the driver clears its gripper's errors itself."""

    def close(self) -> None:
        if self._publisher is not None:
            self._publisher.unregister()

    def _connected(self) -> CommandPublisher:
        if self._publisher is None:
            if not self.setup.command_topics:
                raise SafetyError("{name} cannot be moved: its configuration has no command_topic", name=self.name)
            self._publisher = CommandPublisher(self.setup.command_topics[0], JointState)
            wait_for_subscribers([self._publisher], self.setup)
        return self._publisher


def _has_subscriber(topic: str) -> bool:
    subscribers = node.master().getSystemState()[1]
    return any(name == topic for name, _ in subscribers)
