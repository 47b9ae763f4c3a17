"""Read-only inspection of a rig: record every stream, read motors and the ROS graph, command nothing."""

from __future__ import annotations

import dataclasses
import os
import socket
import struct
import time
import urllib.parse
import zlib
from collections.abc import Sequence
from typing import Any, TypeVar

import genpy.message
import numpy as np
import rosgraph
import rospy

from aloha_kit.config import RigConfig
from aloha_kit.core import ARM_MODELS, ArmModel, Clock, StreamError, WallClock
from aloha_kit.ros import node
from aloha_kit.ros.arm import answered
from aloha_kit.ros.drivers import ArmDriver, rig_drivers
from aloha_kit.ros.rig_measurements import (
    ArmMeasurement,
    CameraMeasurement,
    MotorMeasurement,
    NetworkMeasurement,
    Publisher,
    RigMeasurements,
    TopicMeasurement,
)
from aloha_kit.ros.simulation_client import simulated_rig
from aloha_kit.ros.streams import installed_fields
from aloha_kit.sync import images
from aloha_kit.sync.sensors import rig_sensors
from aloha_kit.sync.topics import rig_topics

T = TypeVar("T")

TIMEOUT_S = 3.0
"""Timeout of a node's or a service's answer."""
_HEADER = struct.Struct("<III")  # seq, seconds, nanoseconds: the start of every stamped message
_PRINTED = 16384  # bytes of an image that its checksum covers, spread over it


def inspect(rig: RigConfig, cameras: Sequence[str], *, seconds: float, registers: Sequence[str]) -> RigMeasurements:
    """Measure a rig: record its arms, its base and these cameras for `seconds`.

    Args:
        registers: to read of every motor whose driver gives them (`Hardware_Error_Status`).

    Raises:
        ConfigError: an unknown driver.
        RosError: no master answers.
    """
    drivers = rig_drivers(rig)
    node.require_master()
    if not rospy.core.is_initialized():
        rospy.init_node("aloha_doctor", anonymous=True, disable_signals=True)
    graph, simulation = _Graph(), simulated_rig()
    # /use_sim_time without /clock is a finding, so it must not raise
    clock = node.clock() if graph.publishers("/clock") else WallClock()
    recorders = [_TopicRecorder(topic, kind, clock) for topic, kind in _expected(rig, cameras)]
    counters = {side: _Counter(driver.command_topics[:1]) for side, driver in drivers["follower"].items()}
    step = time.time() - time.monotonic()
    try:
        end = time.monotonic() + seconds
        there = [each for group in drivers.values() for each in group.values() if graph.publishers(each.state_topic)]
        motors = [found for driver in there if (found := _motors(driver, registers))]
        time.sleep(max(0.0, end - time.monotonic()))
    finally:
        for recorder in recorders:
            recorder.close()
        for counter in counters.values():
            counter.close()
    step = time.time() - time.monotonic() - step
    by_stream = {recorder.topic.stream: recorder for recorder in recorders}
    scene = ARM_MODELS.get(str(simulation.get("arm_model"))) if simulation else None
    arms = [
        by_stream[f"{stream}_{side}"].arm(driver.model(scene), counters[side].count if role == "follower" else 0)
        for stream, (role, group) in zip(("qpos", "leader"), drivers.items(), strict=True)
        for side, driver in group.items()
    ]
    return RigMeasurements(
        topics=tuple(recorder.measurement(graph) for recorder in recorders),
        cameras=tuple(by_stream[f"images/{name}"].camera(name) for name in cameras),
        arms=tuple(arms),
        motors=tuple(motors),
        network=_network(graph, step),
        simulated=simulation is not None,
        drivers={name: _driver(by_stream[f"images/{name}"], graph) for name in cameras},
    )


def _expected(rig: RigConfig, cameras: Sequence[str]) -> list[tuple[TopicMeasurement, Any]]:
    """Topics to record, each with its message class. Raises ConfigError for a sensor's type that is not installed."""
    rig_sensors(rig, installed_fields)
    return [
        (TopicMeasurement(stream, topic.name, topic.type, topic.rate_hz), genpy.message.get_message_class(topic.type))
        for stream, topic in rig_topics(rig, cameras, leaders=bool(rig.leaders))
    ]


class _TopicRecorder:
    """Subscriber that records arrival, stamp and size of each message; of images a checksum and the newest."""

    def __init__(self, topic: TopicMeasurement, kind: Any, clock: Clock) -> None:
        self.topic, self._kind, self._clock = topic, kind, clock
        self._rows: list[tuple[int, int, int, int]] = []
        self._kept: list[bytes] = []
        self._images = topic.stream.startswith("images")
        self._subscriber = rospy.Subscriber(topic.topic, rospy.AnyMsg, self._record, queue_size=100)

    def close(self) -> None:
        self._subscriber.unregister()

    def _record(self, message: rospy.AnyMsg) -> None:
        now, raw = self._clock.now_ns(), message._buff
        _, seconds, nanoseconds = _HEADER.unpack_from(raw) if self._kind._has_header else (0, *divmod(now, 10**9))
        if self._images:
            body = memoryview(raw)[16 + int.from_bytes(raw[12:16], "little") :]
            checksum = zlib.crc32(bytes(body[:: max(1, len(body) // _PRINTED)]))
            self._kept[:] = [raw]
        else:
            checksum = 0
            self._kept.append(raw)
        self._rows.append((seconds * 10**9 + nanoseconds, now, len(raw), checksum))

    def measurement(self, graph: _Graph) -> TopicMeasurement:
        rows = np.array(self._rows, np.int64).reshape(-1, 4).T
        return dataclasses.replace(
            self.topic,
            found_type=graph.types.get(self.topic.topic, ""),
            publishers=graph.publishers(self.topic.topic),
            stamps_ns=rows[0],
            arrivals_ns=rows[1],
            sizes=rows[2],
            prints=rows[3] if self._images else rows[3][:0],
            instead=graph.beside(self.topic.topic),
        )

    def messages(self) -> list[Any]:
        """Stored messages, decoded as the expected class."""
        return [self._kind().deserialize(raw) for raw in self._kept]

    def camera(self, name: str) -> CameraMeasurement:
        try:
            decoded = [images.decode(message) for message in self.messages()]
        except Exception as error:  # ours, or genpy's where the bytes are another message type
            return CameraMeasurement(name, None, str(error))
        return CameraMeasurement(name, decoded[-1] if decoded else None)

    def arm(self, model: ArmModel, commands: int) -> ArmMeasurement:
        nothing = np.zeros((0, model.size))
        measurement = ArmMeasurement(self.topic.stream, model, nothing, np.zeros(0, np.int64), commands=commands)
        try:
            messages = self.messages()
            raw = np.array([_in_order(message, model) for message in messages]).reshape(-1, model.size)
        except Exception as error:
            return dataclasses.replace(measurement, error=str(error))
        stamps = np.array([stamp or arrival for stamp, arrival, *_ in self._rows], np.int64)
        newest = messages[-1] if messages else None
        lengths = (0, 0, 0) if newest is None else (len(newest.position), len(newest.velocity), len(newest.effort))
        return dataclasses.replace(measurement, raw=raw, stamps_ns=stamps, lengths=lengths)


def _in_order(message: Any, model: ArmModel) -> list[float]:
    """(size,) joints and grippers, by the model's names where they are used, else by place."""
    names, position = list(message.name), list(message.position)
    if set(model.names) <= set(names) and len(position) == len(names):
        return [position[names.index(name)] for name in model.names]
    if len(position) < model.size:
        raise StreamError(
            "{count} joints ({names}), expected {size}", count=len(position), names=", ".join(names), size=model.size
        )
    return position[: model.size]


class _Counter:
    """Counts the messages of some topics."""

    def __init__(self, topics: Sequence[str]) -> None:
        self.count = 0
        self._subscribers = [rospy.Subscriber(topic, rospy.AnyMsg, self._add, queue_size=100) for topic in topics]

    def _add(self, message: rospy.AnyMsg) -> None:
        self.count += 1

    def close(self) -> None:
        for subscriber in self._subscribers:
            subscriber.unregister()


class _Graph:
    """ROS graph from the master: publishers of each topic, services, and whether the nodes are alive."""

    def __init__(self) -> None:
        self._master = rosgraph.Master(rospy.get_name())
        published, _, services = self._master.getSystemState()
        self._published = {topic: sorted(nodes) for topic, nodes in published}
        self.services = {service for service, _ in services}
        self.types = {topic: str(kind) for topic, kind in self._master.getTopicTypes()}
        self._nodes: dict[str, Publisher] = {}

    def publishers(self, topic: str) -> tuple[Publisher, ...]:
        return tuple(self._node(name) for name in self._published.get(topic, ()))

    def beside(self, topic: str) -> tuple[str, ...]:
        """Published topics with the same first name: /usb_cam_high/… for /usb_cam_high/image_raw."""
        source = "/".join(topic.split("/")[:2]) + "/"
        return tuple(
            f"{other} ({self.types.get(other, 'unknown')})"
            for other in sorted(self._published)
            if other.startswith(source) and other != topic
        )

    def _node(self, name: str) -> Publisher:
        if name not in self._nodes:
            address = urllib.parse.urlparse(self._master.lookupNode(name))
            host = address.hostname or "?"
            reachable = True
            try:
                socket.create_connection((host, address.port or 0), timeout=TIMEOUT_S).close()
            except OSError:
                reachable = False
            here = reachable and bool(rosgraph.network.is_local_address(host))
            self._nodes[name] = Publisher(name, host, reachable, same_machine=here)
        return self._nodes[name]


def _motors(driver: ArmDriver, registers: Sequence[str]) -> MotorMeasurement | None:
    """Motor registers of one arm; None where the driver has none."""
    try:
        values = answered(lambda: driver.motor_registers(registers), driver.name, TIMEOUT_S)
    except node.RosError as error:
        return MotorMeasurement(driver.name, error=str(error))
    if values is None:
        return None
    return MotorMeasurement(driver.name, driver.model().names, {name: found for name, found in values.items() if found})


def _driver(recorder: _TopicRecorder, graph: _Graph) -> dict[str, Any]:
    """Parameters of the node that publishes a camera (usb_cam: video_device, pixel_format, framerate, …)."""
    for publisher in graph.publishers(recorder.topic.topic):
        found = rospy.get_param(publisher.node, {})
        if isinstance(found, dict):
            return found
    return {}


def _network(graph: _Graph, clock_step_s: float) -> NetworkMeasurement:
    uri = rosgraph.get_master_uri()
    try:
        address = socket.gethostbyname(socket.gethostname())
    except OSError:
        address = ""
    return NetworkMeasurement(
        master_uri=uri,
        master_is_here=bool(rosgraph.network.is_local_address(urllib.parse.urlparse(uri).hostname)),
        ros_ip=os.environ.get("ROS_IP", ""),
        ros_hostname=os.environ.get("ROS_HOSTNAME", ""),
        own_addresses=tuple(rosgraph.network.get_local_addresses()),
        hostname_address=address,
        use_sim_time=bool(rospy.get_param("/use_sim_time", False)),
        clock_published=bool(graph.publishers("/clock")),
        clock_step_s=clock_step_s,
    )
