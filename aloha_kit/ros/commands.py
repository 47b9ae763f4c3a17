"""Words for a running application, by topic: `rostopic pub -1 /aloha_kit/deploy/command std_msgs/String success`."""

from __future__ import annotations

from collections import deque
from typing import Any

import rospy
from std_msgs.msg import String


class Commands:
    """What was published on `topic` since it was last asked."""

    def __init__(self, topic: str) -> None:
        self._words: deque[str] = deque(maxlen=100)
        self._subscriber = rospy.Subscriber(topic, String, self._heard, queue_size=10)

    def poll(self) -> list[str]:
        """Words since the last call, oldest first; returns at once."""
        words: list[str] = []
        while self._words:
            words.append(self._words.popleft())
        return words

    def close(self) -> None:
        """Stop listening."""
        self._subscriber.unregister()

    def _heard(self, message: Any) -> None:
        self._words.append(str(message.data).strip())
