"""The emergency stop as a topic: a button, a foot switch or `rostopic pub` says true, everything here stops sending."""

from __future__ import annotations

from typing import Any

import rospy
from std_msgs.msg import Bool

TOPIC = "/aloha_kit/estop"


class EStop:
    """Pressed while the newest message on the topic is true; a `SafetyGuard`'s `estop`.

    Publishers latch, so a node that starts while it is pressed learns of it. It stops commands, not
    motors: it is no substitute for the switch that takes the power away.
    """

    def __init__(self, topic: str = TOPIC) -> None:
        self._pressed = False
        self._subscriber = rospy.Subscriber(topic, Bool, self._heard, queue_size=1)

    def __call__(self) -> bool:
        return self._pressed

    def close(self) -> None:
        """Stop listening."""
        self._subscriber.unregister()

    def _heard(self, message: Any) -> None:
        self._pressed = bool(message.data)
