"""Base of arms whose driver publishes sensor_msgs/JointState: readings, and commands in sequence."""

from __future__ import annotations

from typing import NoReturn

import numpy as np
import numpy.typing as npt

from aloha_kit.core import ArmModel, Clock, StreamError
from aloha_kit.ros import node
from aloha_kit.ros.arm import Arm, check_target, move_together, Vector
from aloha_kit.ros.commands import ArmCommands
from aloha_kit.ros.readings import next_reading, retry_read, TIMEOUT_S


class TopicArm(Arm):
    """The part of an `Arm` that does not depend on how commands are sent.

    Args:
        name: in messages.
        topic: of its joint states.
        rate_hz: of the commands; limits the step between two of them.
    """

    def __init__(self, name: str, model: ArmModel, topic: str, clock: Clock, *, rate_hz: float) -> None:
        self.name, self.model = name, model
        self._topic, self._clock = topic, clock
        self._commands = ArmCommands(
            name, model, topic, self.leader_action, self.reading, clock, rate_hz=rate_hz, timeout_s=TIMEOUT_S
        )

    def reading(self) -> Vector:
        return retry_read(lambda: self.leader_action(next_reading(self._topic, self.name)), self._clock, TIMEOUT_S)

    def hold_target(self) -> Vector:
        return self._commands.start().astype(np.float32)

    @property
    def last(self) -> npt.NDArray[np.float64] | None:
        return self._commands.last

    def forget(self) -> None:
        self._commands.forget()

    def check(self, target: npt.ArrayLike) -> None:
        check_target(self.name, self.model, target)

    def move(self, target: npt.ArrayLike, seconds: float) -> None:
        move_together({self: target}, seconds, self._clock)

    def _not_subscribed(self, topic: str) -> NoReturn:
        """Raise StreamError for a command topic that the driver has left, RosError where this node was shut down."""
        node.require_running()
        raise StreamError(f"{self.name}: its driver no longer listens to {topic}")
