"""Command publisher that sends synchronously, before `publish` returns."""

from __future__ import annotations

import select
import warnings
from typing import Any

import rospy


class CommandPublisher:
    """Publisher that sends in the calling thread, so inside the e-stop's `Latch.sending()`.

    rospy's own queue hands a message to a thread that may send it after a press. Without a queue rospy blocks on a
    subscriber that does not read (a paused `rostopic echo`), so such a subscriber misses messages here instead.
    """

    def __init__(self, topic: str, message_type: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # rospy advises a queue
            self._publisher = rospy.Publisher(topic, message_type, queue_size=None)
        self.resolved_name: str = self._publisher.resolved_name

    def get_num_connections(self) -> int:
        """Number of subscribers."""
        return int(self._publisher.get_num_connections())

    def publish(self, message: Any) -> None:
        """Send `message` to every subscriber whose socket accepts it. Raises rospy.ROSException after `unregister`."""
        implementation = self._publisher.impl
        if implementation is None:
            raise rospy.ROSException(f"publish() to {self.resolved_name}, which was unregistered")
        with implementation.publock:
            for connection in list(implementation.connections):
                if _has_room(connection):
                    implementation.publish(message, connection_override=connection)

    def unregister(self) -> None:
        """Unregister from the topic."""
        self._publisher.unregister()


def _has_room(connection: Any) -> bool:
    stream = connection.socket
    if stream is None or stream.fileno() < 0:  # closed meanwhile
        return False
    poll = select.poll()
    poll.register(stream, select.POLLOUT)
    return bool(poll.poll(0))
