"""Arms that speak sensor_msgs/JointState both ways, as Cobot Magic's Piper do."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import numpy.typing as npt
import rospy
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool

from aloha_kit.config.rig import ArmConfig
from aloha_kit.core import ArmModel, Clock, SafetyError, StreamError
from aloha_kit.loop import Latch
from aloha_kit.ros import node
from aloha_kit.ros.arms import (
    Arm,
    ArmState,
    check_target,
    if_given,
    MOVE_HZ,
    move_together,
    Part,
    Role,
    single,
    Vector,
    wait_for_listeners,
)
from aloha_kit.ros.command_publisher import CommandPublisher
from aloha_kit.ros.commands import ArmCommands
from aloha_kit.ros.readings import finite, next_reading, PATIENCE_S, require_reading, until_read

NAMES = tuple(f"joint{i}" for i in range(7))
ENABLE_TOPIC = "/enable_flag"
"""std_msgs/Bool: Piper's drivers switch the motors of all followers on or off; leaders have no switch."""


class JointStateArm:
    """An arm read from `state_topic` and moved by publishing on `command_topic`; an `Arm`.

    Seven values in the order of the joints, whatever they are called; the gripper's is its travel in metres,
    which the driver stops at the ends itself.
    Nothing is sent before the first command, since another sender (a leader) may be driving the arm.
    """

    def __init__(
        self,
        config: ArmConfig,
        model: ArmModel,
        role: Role,
        clock: Clock,
        estop: Latch | None = None,
        *,
        rate_hz: float = MOVE_HZ,
    ) -> None:
        self.name, self.model = config.name or config.state_topic, model
        self._clock, self._state_topic, self._command_topic = clock, config.state_topic, config.command_topic
        self._switched, self._estop = role == "follower", estop or Latch()
        self._topic: CommandPublisher | None = None
        self._commands = ArmCommands(
            self.name, model, config.state_topic, self.leader_action, self.reading, clock,
            rate_hz=rate_hz, patience_s=PATIENCE_S,
        )  # fmt: skip
        next_reading(self._state_topic, self.name)

    def read(self, message: Any) -> ArmState:
        position = self._position(message)
        position[6] = self.model.finger.normalise(position[6])
        velocity, effort = (if_given(NAMES, NAMES, each) for each in (message.velocity, message.effort))
        if velocity is not None:
            velocity[6] = self.model.finger.normalise_velocity(velocity[6])
        return ArmState(position.astype(np.float32), single(velocity), single(effort))

    def leader_action(self, message: Any) -> Vector:
        position = self._position(message)
        position[6] = self.model.finger.normalise(position[6])
        return position.astype(np.float32)

    def _position(self, message: Any) -> npt.NDArray[np.float64]:
        values = np.array(message.position, np.float64)
        if values.shape != (7,):
            raise StreamError(f"{self.name}: its joint states need 7 values of position, they hold {len(values)}")
        finite(self.name, "position", NAMES, values)
        require_reading(self.name, values)
        return values

    def reading(self) -> Vector:
        return until_read(
            lambda: self.leader_action(next_reading(self._state_topic, self.name)), self._clock, PATIENCE_S
        )  # fmt: skip

    def present(self) -> Vector:
        return self._commands.start().astype(np.float32)

    @property
    def last(self) -> npt.NDArray[np.float64] | None:
        return self._commands.last

    def forget(self) -> None:
        self._commands.forget()

    def check(self, target: npt.ArrayLike) -> None:
        check_target(self.name, self.model, target)

    def command(self, target: npt.ArrayLike) -> None:
        goal = check_target(self.name, self.model, target)
        publisher = self._publisher()
        goal = self._commands.limit(goal)
        if publisher.get_num_connections() == 0:
            self.forget()
            raise StreamError(f"{self.name}: its driver no longer listens to {self._command_topic}")
        metres = float(self.model.finger.unnormalise(goal[6]))
        message = JointState(name=list(NAMES), position=[*goal[:6].tolist(), metres])
        with self._estop.sending():
            message.header.stamp = rospy.Time.now()
            publisher.publish(message)
            self._commands.sent(goal)

    def prepare_follower(self, gripper_current_limit: int = 0) -> None:
        """Torque on; the driver keeps modes and the gripper's force to itself."""
        self._estop.require_released()
        self.torque(True)
        self._publisher()

    def prepare_leader(self) -> None:
        """Nothing: the leader is a person's at all times."""

    def torque(self, on: bool, part: Part = "all") -> None:
        """Switch the motors of every follower on the driver's topic; a part of one has no switch."""
        if not self._switched or part != "all" or not _listened_to(ENABLE_TOPIC):
            return
        switch = CommandPublisher(ENABLE_TOPIC, Bool)
        wait_for_listeners([switch], self.name, self._clock)
        with contextlib.nullcontext() if on else self._estop.sending():  # pressed while we waited counts as well
            switch.publish(Bool(data=on))
        if not on:
            self.forget()

    def torque_state(self) -> None:
        """None: the driver does not say whether its motors have torque."""

    def reboot_gripper(self) -> None:
        """Nothing: the driver clears its gripper's errors itself."""

    def move(self, target: npt.ArrayLike, seconds: float) -> None:
        me: Arm = self
        move_together({me: target}, seconds, self._clock)

    def close(self) -> None:
        if self._topic is not None:
            self._topic.unregister()

    def _publisher(self) -> CommandPublisher:
        if self._topic is None:
            if not self._command_topic:
                raise SafetyError(f"{self.name} cannot be moved: its configuration has no command_topic")
            self._topic = CommandPublisher(self._command_topic, JointState)
            wait_for_listeners([self._topic], self.name, self._clock)
        return self._topic


def _listened_to(topic: str) -> bool:
    subscribers = node.master().getSystemState()[1]
    return any(name == topic for name, _ in subscribers)
