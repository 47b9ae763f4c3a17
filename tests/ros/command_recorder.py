"""An independent node for tests of the emergency stop: it presses the button, and keeps when each command arrived.

Lines on its input are orders, each answered by a line of JSON; times are CLOCK_MONOTONIC, which processes share.

    press SECONDS SECONDS_HELD now|moving -> {} at once; so long after the order, or after the next command
    forget                                -> {}; what came before is no part of the next report
    report                                -> {"pressed": when, "arrivals": [[when, topic, whether it is all zeros], …]}
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import rospy
from geometry_msgs.msg import Twist
from std_msgs.msg import Bool

ARMS = ("puppet_left", "puppet_right", "master_left", "master_right")
BASE = "/cmd_vel"


def main() -> None:
    rospy.init_node("command_recorder", disable_signals=True)
    arrivals: list[tuple[float, str, bool]] = []
    pressed: list[float] = []

    def collected(message: Any, topic: str) -> None:
        now = time.monotonic()
        zero = isinstance(message, Twist) and not (message.linear.x or message.angular.z)
        arrivals.append((now, topic, zero))

    button = rospy.Publisher("/aloha_kit/estop", Bool, queue_size=10, tcp_nodelay=True, latch=True)
    button.publish(Bool(False))  # a program waits for a button's state when it starts
    topics = [f"/{arm}/commands/joint_{kind}" for arm in ARMS for kind in ("group", "single", "trajectory")]
    for topic in topics:
        rospy.Subscriber(topic, rospy.AnyMsg, collected, callback_args=topic, tcp_nodelay=True)
    rospy.Subscriber(BASE, Twist, collected, callback_args=BASE, tcp_nodelay=True)

    def press(delay_s: float, held_s: float, moving: bool) -> None:
        while moving and not arrivals:
            time.sleep(0.001)
        time.sleep(delay_s)
        pressed.append(time.monotonic())
        button.publish(Bool(data=True))
        time.sleep(held_s)
        button.publish(Bool(data=False))

    print("{}", flush=True)
    for line in sys.stdin:
        order, *words = line.split()
        if order in ("press", "forget"):
            pressed.clear()
            arrivals.clear()
        if order == "forget":
            print("{}", flush=True)
        elif order == "press":
            seconds = [float(word) for word in words[:2]]
            threading.Thread(target=press, args=(*seconds, words[2] == "moving"), daemon=True).start()
            print("{}", flush=True)
        else:
            print(json.dumps({"pressed": pressed[0] if pressed else None, "arrivals": list(arrivals)}), flush=True)


class CommandRecorder:
    """The node as a process of its own."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        command = [sys.executable, "-m", "tests.ros.command_recorder"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(environment)
        )
        self._answer()

    def press(self, delay_s: float, held_s: float, *, moving: bool = False) -> None:
        """Press so long from now, or from the next command, and let go after `held_s`; returns at once."""
        self._order(f"press {delay_s} {held_s} {'moving' if moving else 'now'}")

    def forget(self) -> None:
        """Report only what comes from now on."""
        self._order("forget")

    def report(self) -> dict[str, Any]:
        """Since the last order to press or forget."""
        return self._order("report")

    def close(self) -> None:
        self._process.communicate(timeout=20)

    def _order(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the recorder ended ({self._process.poll()})"
        return dict(json.loads(line))


if __name__ == "__main__":
    main()
