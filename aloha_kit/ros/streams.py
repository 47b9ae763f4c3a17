"""A rig's topics as streams: one subscriber a topic, whose callback only stores the message."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import genpy.message
import message_filters

from aloha_kit.config.rig import RigConfig
from aloha_kit.core import Clock
from aloha_kit.ros.competing_publishers import PublisherMonitor, sender
from aloha_kit.sync.sensors import Fields, rig_sensors
from aloha_kit.sync.soft_sync import SoftSync
from aloha_kit.sync.topics import rig_topics, stream_specs, Topic


class Streams:
    """Subscriptions to a rig's topics; samples hold the ROS messages unchanged.

    Streams as of `rig_topics`. The node must be started.

    Args:
        rig: its followers, base, sensors and the named `cameras` (with depth where they have it).
        leaders: the leaders' joint states too.
        clock: the clock of stamps, `node.start`.

    Attributes:
        sync: the soft sync that stores them; `topics`: {stream: topic}.

    Raises:
        ConfigError: a camera that the rig lacks, leaders of a rig without any, or a sensor that cannot be read.
    """

    def __init__(self, rig: RigConfig, cameras: Iterable[str], *, leaders: bool, clock: Clock) -> None:
        rig_sensors(rig, installed_fields)  # unknown types raise here
        topics = dict(rig_topics(rig, cameras, leaders=leaders))
        self.topics = {stream: topic.name for stream, topic in topics.items()}
        self.sync = SoftSync(stream_specs(topics, rig.sync), clock, clock_offset_s=rig.sync.clock_offset_s)
        self._publishers = {stream: PublisherMonitor() for stream in topics}
        self._subscribers = [self._subscribe(stream, topic) for stream, topic in topics.items()]

    def published_twice(self) -> dict[str, str]:
        """Competing publishers {topic: names of the two nodes}; empty where each topic has one."""
        return {self.topics[stream]: both for stream, each in self._publishers.items() if (both := each.competing())}

    def close(self) -> None:
        """Unsubscribe and free all messages."""
        for subscriber in self._subscribers:
            subscriber.unregister()
        self.sync.close()

    def _subscribe(self, stream: str, topic: Topic) -> message_filters.Subscriber:
        # A queue of a second: rospy delivers the data of one read of the socket, and drops all beyond the queue.
        queue = max(5, math.ceil(topic.rate_hz))
        subscriber = message_filters.Subscriber(
            topic.name, genpy.message.get_message_class(topic.type), queue_size=queue, tcp_nodelay=True
        )
        subscriber.registerCallback(self._store, stream)
        return subscriber

    def _store(self, message: Any, stream: str) -> None:
        self._publishers[stream].note(sender(message))
        header = getattr(message, "header", None)  # plain arrays have none: they count as captured when they arrive
        stamp_ns = 0 if header is None else header.stamp.secs * 1_000_000_000 + header.stamp.nsecs
        self.sync.add(stream, stamp_ns, message, (header.seq or None) if header else None)


def installed_fields(kind: str) -> Fields | None:
    """Fields of an installed message type; None where it is not installed. For `rig_sensors`."""
    message = genpy.message.get_message_class(kind)
    return None if message is None else _fields(message())


def _fields(message: Any) -> Fields:
    values = {name: getattr(message, name) for name in message.__slots__}
    return {
        name: _fields(value) if hasattr(value, "__slots__") else {} if isinstance(value, (list, tuple, bytes)) else None
        for name, value in values.items()
    }
