"""A rig's topics as streams, with the bounds of each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypedDict

from aloha_kit.config import RigConfig, SyncConfig
from aloha_kit.core import ConfigError, Contract
from aloha_kit.sync.arm_readers import arm_description
from aloha_kit.sync.ring import StreamSpec

JOINT_STATE, ODOMETRY = "sensor_msgs/JointState", "nav_msgs/Odometry"
IMAGE, COMPRESSED_IMAGE = "sensor_msgs/Image", "sensor_msgs/CompressedImage"


@dataclass(frozen=True)
class Topic:
    """Source of a stream: its topic, type of its messages and configured rate."""

    name: str
    type: str
    rate_hz: float


def rig_topics(rig: RigConfig, cameras: Iterable[str], *, leaders: bool) -> Iterator[tuple[str, Topic]]:
    """Topics of a rig as (stream, topic): followers, leaders, base, sensors, cameras.

    Streams: "qpos_<arm>" and "leader_<arm>" (joint states), "images/<camera>", "images_depth/<camera>", "base_vel",
    "sensors/<sensor>".

    Raises:
        ConfigError: a camera that the rig lacks, or leaders of a rig without any.
    """
    for name, arm in rig.followers.items():
        yield f"qpos_{name}", Topic(arm_description(arm).state_topic, JOINT_STATE, arm.rate_hz)
    if leaders and not rig.leaders:
        raise ConfigError(
            "rig '{rig}' has no leaders; leader arms are listed under `leaders` in its file", rig=rig.name
        )
    for name, arm in rig.leaders.items() if leaders else ():
        yield f"leader_{name}", Topic(arm_description(arm).state_topic, JOINT_STATE, arm.rate_hz)
    if rig.base is not None:
        yield "base_vel", Topic(rig.base.odom_topic, ODOMETRY, rig.base.rate_hz)
    for name, sensor in rig.sensors.items():
        yield f"sensors/{name}", Topic(sensor.topic, sensor.type, sensor.rate_hz)
    for name in cameras:
        camera = rig.camera(name)
        kind = COMPRESSED_IMAGE if camera.topic.endswith("/compressed") else IMAGE
        yield f"images/{name}", Topic(camera.topic, kind, camera.rate_hz)
        if camera.depth_topic:
            yield f"images_depth/{name}", Topic(camera.depth_topic, IMAGE, camera.rate_hz)


def stream_specs(topics: Mapping[str, Topic], sync: SyncConfig) -> list[StreamSpec]:
    """Stream specifications of {stream: topic}, as `stream_spec`."""
    return [stream_spec(stream, topic, sync) for stream, topic in topics.items()]


def stream_spec(stream: str, topic: Topic, sync: SyncConfig) -> StreamSpec:
    """Stream specification with its bounds: a number of its periods, and at least a number of seconds."""
    skew_s = max(sync.max_skew_periods / topic.rate_hz, sync.max_skew_s)
    age_s = max(sync.max_age_periods / topic.rate_hz, sync.max_age_s)
    return StreamSpec(stream, topic.rate_hz, round(skew_s * 1e9), round(age_s * 1e9), source=topic.name)


class GuardBounds(TypedDict):
    """Bounds of a `SafetyGuard` on the age of streams, see there."""

    frozen: int
    stale_s: float


def guard_bounds(rig: RigConfig, contract: Contract) -> GuardBounds:
    """Bounds of the guard: twice the age at which the slowest stream is an error, so that this error comes first."""
    rates = [arm.rate_hz for arm in rig.followers.values()]
    rates += [rig.cameras[name].rate_hz for name in contract.cameras]
    rates += [sensor.rate_hz for sensor in rig.sensors.values()]
    stale_s = 2 * max(rig.sync.max_age_s, rig.sync.max_age_periods / min(rates))
    return {"frozen": max(5, math.ceil(stale_s * contract.rate_hz) + 1), "stale_s": stale_s}
