"""The emergency stop as a topic: a button, a foot switch or `rostopic pub` says true, everything here stops sending."""

from __future__ import annotations

import contextlib
from typing import Any

import rospy
from std_msgs.msg import Bool

TOPIC = "/aloha_kit/estop"
_FIRST_S = 1.0
"""How long a publisher that is there may take to say what it latched."""


class EStop:
    """Pressed while the newest message on the topic is true; a `SafetyGuard`'s `estop`.

    Publishers latch: that it was pressed before is known when this is made. It stops commands, not
    motors, so it is no substitute for the switch that takes the power away.
    """

    def __init__(self, topic: str = TOPIC) -> None:
        self._pressed = False
        if topic in dict(rospy.get_published_topics()):
            with contextlib.suppress(rospy.ROSException):  # it does not latch, or is long gone
                self._heard(rospy.wait_for_message(topic, Bool, timeout=_FIRST_S))
        self._subscriber = rospy.Subscriber(topic, Bool, self._heard, queue_size=1)

    def __call__(self) -> bool:
        return self._pressed

    def close(self) -> None:
        """Stop listening."""
        self._subscriber.unregister()

    def _heard(self, message: Any) -> None:
        self._pressed = bool(message.data)
