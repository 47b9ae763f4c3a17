"""Base of arms whose driver publishes sensor_msgs/JointState: readings, and commands in sequence."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from aloha_kit.core import StreamError
from aloha_kit.ros import node
from aloha_kit.ros.arm import Arm, ArmSetup, check_target, move_together
from aloha_kit.ros.arm_commands import ArmCommands
from aloha_kit.ros.readings import next_reading
from aloha_kit.sync.readings import retry_read, Vector


class TopicArm(Arm):
    """The part of an `Arm` that does not depend on how commands are sent.

    Attributes:
        setup: which it was connected with.

    Raises:
        RosError: no joint states are published.
    """

    def __init__(self, setup: ArmSetup) -> None:
        self.setup, self.name, self.model = setup, setup.name, setup.model
        self._commands = ArmCommands(setup, self.leader_action, self.reading)
        self._next_message()

    def reading(self) -> Vector:
        return retry_read(lambda: self.leader_action(self._next_message()), self.setup.clock, self.setup.timeout_s)

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
        move_together({self: target}, seconds, self.setup.clock)

    def _next_message(self) -> Any:
        return next_reading(self.setup.state_topic, self.name, self.setup.timeout_s)

    def _not_subscribed(self, topic: str) -> NoReturn:
        """Raise StreamError for a command topic that the driver has left, RosError where this node was shut down."""
        node.require_running()
        raise StreamError("{name}: its driver no longer subscribes to {topic}", name=self.name, topic=topic)
