"""Arms with sensor_msgs/JointState for both states and commands, as Cobot Magic's Piper."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import numpy.typing as npt
import rospy
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool

from aloha_kit.config.rig import ArmConfig
from aloha_kit.core import ArmModel, ConfigError, SafetyError, StreamError
from aloha_kit.ros import node
from aloha_kit.ros.arm import (
    Arm,
    ArmSetup,
    ArmState,
    check_target,
    if_given,
    Part,
    single,
    Vector,
    wait_for_subscribers,
)
from aloha_kit.ros.command_publisher import CommandPublisher
from aloha_kit.ros.drivers import ArmDriver
from aloha_kit.ros.readings import require_finite, require_reading
from aloha_kit.ros.topic_arm import TopicArm

ENABLE_TOPIC = "/enable_flag"
"""std_msgs/Bool: Piper's drivers switch the motors of all followers on or off; leaders have no switch."""


class JointStateDriver(ArmDriver):
    """Driver with sensor_msgs/JointState on `state_topic` and `command_topic`; arms of any model."""

    def __init__(self, config: ArmConfig) -> None:
        if not config.state_topic:
            raise ConfigError("a joint_state arm needs a state_topic (/puppet/joint_left)")
        super().__init__(config)

    def model(self, scene: ArmModel | None = None) -> ArmModel:
        """Arm model: the scene's where the rig is simulated, since the topics do not identify the arm."""
        return scene or super().model()

    def connect(self, setup: ArmSetup) -> Arm:
        return JointStateArm(setup)


class JointStateArm(TopicArm):
    """Arm with sensor_msgs/JointState for its states and on its first command topic; an `Arm`.

    Messages hold a value for each entry of the model, in its order, under any names; a gripper's is its travel in
    metres, which the driver limits. Commands name them joint0, joint1, ...
    Nothing is sent before the first command, since another sender (a leader) may be driving the arm.
    """

    def __init__(self, setup: ArmSetup) -> None:
        self._names = [f"joint{i}" for i in range(setup.model.size)]
        self._publisher: CommandPublisher | None = None
        super().__init__(setup)

    def read(self, message: Any) -> ArmState:
        dof, position = self.model.dof, self._position(message)
        velocity, effort = (if_given(self._names, self._names, each) for each in (message.velocity, message.effort))
        if velocity is not None:
            velocity[dof:] = self.model.finger.normalise_velocity(velocity[dof:])
        return ArmState(position.astype(np.float32), single(velocity), single(effort))

    def leader_action(self, message: Any) -> Vector:
        return self._position(message).astype(np.float32)

    def _position(self, message: Any) -> npt.NDArray[np.float64]:
        """(size,) rad, grippers normalised by their travel."""
        size, dof, values = self.model.size, self.model.dof, np.array(message.position, np.float64)
        if values.shape != (size,):
            raise StreamError(f"{self.name}: its joint states need {size} values of position, they hold {len(values)}")
        require_finite(self.name, "position", self._names, values)
        require_reading(self.name, values)
        values[dof:] = self.model.finger.normalise(values[dof:])
        return values

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
        wait_for_subscribers([switch], self.setup)
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
                raise SafetyError(f"{self.name} cannot be moved: its configuration has no command_topic")
            self._publisher = CommandPublisher(self.setup.command_topics[0], JointState)
            wait_for_subscribers([self._publisher], self.setup)
        return self._publisher


def _has_subscriber(topic: str) -> bool:
    subscribers = node.master().getSystemState()[1]
    return any(name == topic for name, _ in subscribers)
