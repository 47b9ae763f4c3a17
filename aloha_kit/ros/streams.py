"""A rig's topics as streams: one subscriber a topic, whose callback only stores the message."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import message_filters
from nav_msgs.msg import Odometry
from sensor_msgs.msg import CompressedImage, Image, JointState

from aloha_kit.config.rig import RigConfig, SyncConfig
from aloha_kit.core import Clock, ConfigError
from aloha_kit.core.lang import Message
from aloha_kit.ros.competing_publishers import PublisherMonitor, sender
from aloha_kit.ros.drivers import arm_driver
from aloha_kit.ros.sensors import rig_sensors
from aloha_kit.ros.soft_sync import SoftSync, StreamSpec


@dataclass(frozen=True)
class Topic:
    """Source of a stream: its topic, message class and configured rate."""

    name: str
    message: type
    rate_hz: float


class Streams:
    """Subscriptions to a rig's topics; samples hold the ROS messages unchanged.

    Streams: "qpos_<arm>" and "leader_<arm>" (joint states), "images/<camera>", "images_depth/<camera>", "base_vel",
    "sensors/<sensor>".
    The node must be started.

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
        topics = dict(rig_topics(rig, cameras, leaders=leaders))
        specs = [stream_spec(stream, topic, rig.sync) for stream, topic in topics.items()]
        self.topics = {stream: topic.name for stream, topic in topics.items()}
        self.sync = SoftSync(specs, clock, clock_offset_s=rig.sync.clock_offset_s)
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
        subscriber = message_filters.Subscriber(topic.name, topic.message, queue_size=queue, tcp_nodelay=True)
        subscriber.registerCallback(self._store, stream)
        return subscriber

    def _store(self, message: Any, stream: str) -> None:
        self._publishers[stream].note(sender(message))
        header = getattr(message, "header", None)  # plain arrays have none: they count as captured when they arrive
        stamp_ns = 0 if header is None else header.stamp.secs * 1_000_000_000 + header.stamp.nsecs
        self.sync.add(stream, stamp_ns, message, (header.seq or None) if header else None)


def rig_topics(rig: RigConfig, cameras: Iterable[str], *, leaders: bool) -> Iterator[tuple[str, Topic]]:
    """Topics of a rig as (stream, topic): followers, leaders, base, sensors, cameras; errors as `Streams`."""
    for name, arm in rig.followers.items():
        yield f"qpos_{name}", Topic(arm_driver(arm).state_topic, JointState, arm.rate_hz)
    if leaders and not rig.leaders:
        raise ConfigError(
            Message("rig '{rig}' has no leaders; leader arms are listed under `leaders` in its file", rig=rig.name)
        )
    for name, arm in rig.leaders.items() if leaders else ():
        yield f"leader_{name}", Topic(arm_driver(arm).state_topic, JointState, arm.rate_hz)
    if rig.base is not None:
        yield "base_vel", Topic(rig.base.odom_topic, Odometry, rig.base.rate_hz)
    for name, sensor in rig_sensors(rig).items():
        yield f"sensors/{name}", Topic(rig.sensors[name].topic, sensor.message, rig.sensors[name].rate_hz)
    for name in cameras:
        camera = rig.camera(name)
        kind = CompressedImage if camera.topic.endswith("/compressed") else Image
        yield f"images/{name}", Topic(camera.topic, kind, camera.rate_hz)
        if camera.depth_topic:
            yield f"images_depth/{name}", Topic(camera.depth_topic, Image, camera.rate_hz)


def stream_spec(stream: str, topic: Topic, sync: SyncConfig) -> StreamSpec:
    """Stream specification with its bounds: a number of its periods, and at least a number of seconds."""
    skew_s = max(sync.max_skew_periods / topic.rate_hz, sync.max_skew_s)
    age_s = max(sync.max_age_periods / topic.rate_hz, sync.max_age_s)
    return StreamSpec(stream, topic.rate_hz, round(skew_s * 1e9), round(age_s * 1e9), source=topic.name)
