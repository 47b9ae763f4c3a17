"""Bags of a session on a rig of one leader, one follower and a camera, written by rosbags from numbers made here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import get_typestore, Stores

from aloha_kit.core import jpeg

START, MS = 1_700_000_000_000_000_000, 1_000_000
SIZE = (24, 32)
STATE, LEADER, CAMERA, ODOM = "/puppet/joint_left", "/master/joint_left", "/top/image_raw/compressed", "/odom"
DEPTH, WRENCH, COMMAND = "/top/depth", "/wrench", "/command/joint_left"
KINDS = {
    STATE: "sensor_msgs/msg/JointState",
    LEADER: "sensor_msgs/msg/JointState",
    COMMAND: "sensor_msgs/msg/JointState",
    CAMERA: "sensor_msgs/msg/CompressedImage",
    ODOM: "nav_msgs/msg/Odometry",
    DEPTH: "sensor_msgs/msg/Image",
    WRENCH: "geometry_msgs/msg/WrenchStamped",
}
Recorded = tuple[int, str, Any]
"""Arrival in ns, topic, and the message as {field: value} or an object of the type store."""

STORES = {1: get_typestore(Stores.ROS1_NOETIC), 2: get_typestore(Stores.ROS2_HUMBLE)}


def write_task(folder: Path, **rig: Any) -> Path:
    """The task file of the rig."""
    values = {
        "name": "one_arm",
        "kind": "ros",
        "followers": {
            "left": {"driver": "joint_state", "model": "piper", "state_topic": STATE, "command_topic": COMMAND}
        },
        "leaders": {"left": {"driver": "joint_state", "model": "piper", "state_topic": LEADER}},
        "cameras": {"top": {"topic": CAMERA, "height": SIZE[0], "width": SIZE[1], "depth_topic": DEPTH}},
        "base": {"odom_topic": ODOM},
        "sensors": {"wrist": {"topic": WRENCH, "type": "geometry_msgs/WrenchStamped"}},
        **rig,
    }
    (folder / "rig.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    task = {
        "name": "bagged", "instruction": "Do it.", "rig": str(folder / "rig.yaml"), "rate_hz": 25, "cameras": ["top"]
    }  # fmt: skip
    (folder / "task.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    return folder / "task.yaml"


def joints(t: float) -> np.ndarray:
    """(7,) rad, and metres of the gripper, of the follower; the leader is 0.01 rad ahead."""
    return np.array([0.2 * np.sin(3 * t), 0.5 + 0.1 * t, -0.4, 0.1, 0.2, 0.3, 0.03 + 0.02 * np.sin(t)])


def picture(i: int) -> bytes:
    """The JPEG of the camera's image i."""
    image = np.zeros((*SIZE, 3), np.uint8)
    image[..., 0], image[..., 1], image[:, : i % SIZE[1], 2] = 200, 40 + i, 250
    return jpeg.encode_jpeg(image, 95).tobytes()


def session(seconds: float = 3.0, ros: int = 1, *, delay_ns: int = 2 * MS) -> list[Recorded]:
    """A session's messages: arms at 100 Hz, camera at 30, base at 50, wrench at 100; each arrives `delay_ns` late."""
    types = STORES[ros].types

    def header(ns: int, seq: int) -> Any:
        stamp = types["builtin_interfaces/msg/Time"](*divmod(ns, 1_000_000_000))
        count = {"seq": seq} if ros == 1 else {}
        return types["std_msgs/msg/Header"](**count, stamp=stamp, frame_id="")

    def vector(*xyz: float) -> Any:
        return types["geometry_msgs/msg/Vector3"](*xyz)

    found: list[Recorded] = []

    def add(topic: str, ns: int, seq: int, **values: Any) -> None:
        found.append((ns + delay_ns, topic, types[KINDS[topic]](header=header(ns, seq), **values)))

    def joint_state(topic: str, ns: int, seq: int, position: np.ndarray) -> None:
        names = [f"j{i}" for i in range(len(position))]
        add(topic, ns, seq, name=names, position=position, velocity=0.1 * position, effort=2 * position)

    for k in range(int(seconds * 100)):
        t, ns = k / 100, START + k * 10 * MS
        joint_state(STATE, ns, k + 1, joints(t))
        joint_state(LEADER, ns + MS, k + 1, joints(t) + [*(0.01,) * 6, 0.001])
        wrench = types["geometry_msgs/msg/Wrench"](force=vector(t, 1, 2), torque=vector(3, 4, 5))
        add(WRENCH, ns + 2 * MS, k + 1, wrench=wrench)
        if k % 2 == 0:
            joint_state(COMMAND, ns + 3 * MS, k // 2 + 1, joints(t) + [*(0.02,) * 6, 0.002])
            point, turn = types["geometry_msgs/msg/Point"](0, 0, 0), types["geometry_msgs/msg/Quaternion"](0, 0, 0, 1)
            pose = types["geometry_msgs/msg/Pose"](point, turn)
            twist = types["geometry_msgs/msg/Twist"](vector(0.1 * t, 0, 0), vector(0, 0, 0.2))
            covariance = np.zeros(36)
            add(
                ODOM, ns, k // 2 + 1, child_frame_id="",
                pose=types["geometry_msgs/msg/PoseWithCovariance"](pose, covariance),
                twist=types["geometry_msgs/msg/TwistWithCovariance"](twist, covariance),
            )  # fmt: skip
    for i in range(int(seconds * 30)):
        ns = START + i * 33_333_333
        add(CAMERA, ns, i + 1, format="jpeg", data=np.frombuffer(picture(i), np.uint8))
        depth = np.full(SIZE, 500 + i, "<u2")
        add(
            DEPTH, ns, i + 1, height=SIZE[0], width=SIZE[1], encoding="16UC1", is_bigendian=0, step=2 * SIZE[1],
            data=np.frombuffer(depth.tobytes(), np.uint8),
        )  # fmt: skip
    return sorted(found, key=lambda each: each[0])


def write_ros1(path: Path, recorded: Iterable[Recorded], kinds: Mapping[str, str] = KINDS) -> Path:
    """A ROS 1 bag."""
    store = STORES[1]
    with Writer1(path) as writer:
        connections: dict[str, Any] = {}
        for arrival_ns, topic, message in recorded:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kinds[topic], typestore=store)
            writer.write(connections[topic], arrival_ns, store.serialize_ros1(message, kinds[topic]))
    return path


def write_ros2(path: Path, recorded: Iterable[Recorded], storage: str, kinds: Mapping[str, str] = KINDS) -> Path:
    """A rosbag2 folder; `storage` is sqlite3 or mcap."""
    store = STORES[2]
    with Writer2(path, version=9, storage_plugin=StoragePlugin[storage.upper()]) as writer:
        connections: dict[str, Any] = {}
        for arrival_ns, topic, message in recorded:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kinds[topic], typestore=store)
            writer.write(connections[topic], arrival_ns, store.serialize_cdr(message, kinds[topic]))
    return path
