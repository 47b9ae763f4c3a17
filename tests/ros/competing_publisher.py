"""A second publisher for tests: a node that publishes on a topic from "send" on its input until "stop".

python -m tests.ros.competing publisher NODE states|group|path|joints|base|stop TOPIC
"""

from __future__ import annotations

import subprocess
import sys
import threading
from types import TracebackType
from typing import Any

import rospy
from geometry_msgs.msg import Twist
from sensor_msgs.msg import JointState

from aloha_kit.core import START_ARM_POSE
from aloha_kit.ros import interbotix_messages
from tests.ros.master import ROOT, Ros

NAMES = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper")


def message(kind: str) -> Any:
    """What it publishes: an arm at the start pose, or a base that drives."""
    pose = START_ARM_POSE.tolist()
    if kind == "group":
        return interbotix_messages.JointGroupCommand(name="arm", cmd=pose)
    if kind == "path":
        return interbotix_messages.JointTrajectoryCommand(cmd_type="group", name="arm")
    if kind in ("base", "stop"):
        velocity = Twist()
        velocity.linear.x = 0.1 if kind == "base" else 0.0
        return velocity
    finger = [] if kind == "joints" else [0.03, -0.03]
    names = [*NAMES, "left_finger", "right_finger"][: 7 + len(finger)]
    state = JointState(name=names, position=[*pose, 0.0, *finger])
    state.velocity = state.effort = [0.0] * len(names)
    state.header.stamp = rospy.Time.now()
    return state


def main(node: str, kind: str, topic: str) -> None:
    rospy.init_node(node)
    publisher = rospy.Publisher(topic, type(message(kind)), queue_size=5)
    sending = threading.Event()

    def send() -> None:
        while sending.wait():
            publisher.publish(message(kind))
            rospy.sleep(0.02)

    threading.Thread(target=send, daemon=True).start()
    print("there", flush=True)
    for line in sys.stdin:
        (sending.set if line.strip() == "send" else sending.clear)()


class CompetingPublisher:
    """The node as a process, silent until `send`."""

    def __init__(self, ros: Ros, node: str, kind: str, topic: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.ros.competing_publisher", node, kind, topic],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ros.environment, cwd=ROOT,
        )  # fmt: skip
        assert self._process.stdout
        assert self._process.stdout.readline() == "there\n"

    def send(self) -> None:
        self._write("send")

    def stop(self) -> None:
        self._write("stop")

    def _write(self, word: str) -> None:
        assert self._process.stdin
        print(word, file=self._process.stdin, flush=True)

    def __enter__(self) -> CompetingPublisher:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()


if __name__ == "__main__":
    main(*sys.argv[1:4])
