"""Watchdog node of a mobile base: sends zero velocity when the program that drives the base stops its heartbeat.

A base's driver may hold its last command for ever. `MobileBase` stops the base by itself, but not when its
process is killed or stopped (SIGKILL, SIGSTOP, Ctrl-Z), hangs, or can no longer be reached over the network.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import rospy
import tyro
from geometry_msgs.msg import Twist
from std_msgs.msg import Bool

from aloha_kit.config import load, RigConfig, TaskConfig
from aloha_kit.core.cli import command_line
from aloha_kit.ros import node
from aloha_kit.ros.command_publisher import CommandPublisher
from aloha_kit.ros.mobile_base import HEARTBEAT_TOPIC, SILENCE_S
from aloha_kit.ros.node import interrupted_after

STOP_S = 1.0
"""How long zero velocity is repeated: a single message may be lost, or followed by a command sent earlier."""
PERIOD_S = 0.05


class BaseWatchdog:
    """Watchdog: publishes zero velocity on `command_topic` when a driving program sends no heartbeat for `SILENCE_S`.

    Only a program whose newest heartbeat is true (driving) is monitored, so an operator who pushes the base and other
    nodes that drive it are not disturbed.

    Args:
        report: called with the name of the node whose heartbeat stopped.
    """

    def __init__(self, command_topic: str, report: Callable[[str], None]) -> None:
        self._report, self._topic = report, command_topic
        self._lock = threading.Lock()
        self._driving: dict[str, float] = {}  # {node: when its newest heartbeat came}, on the monotonic clock
        self._stop_until = 0.0
        self._commands = CommandPublisher(command_topic, Twist)
        self._heartbeats = rospy.Subscriber(HEARTBEAT_TOPIC, Bool, self._beat, queue_size=10, tcp_nodelay=True)

    def check(self) -> None:
        """Check the heartbeats and send zero velocity where one is overdue; call every `PERIOD_S`."""
        now = time.monotonic()
        with self._lock:
            silent = [name for name, beat in self._driving.items() if now - beat > SILENCE_S]
            for name in silent:
                del self._driving[name]
        for name in silent:
            self._stop_until = now + STOP_S
            self._report(f"{name} drove the base and is silent for {SILENCE_S:g} s: zero velocity on {self._topic}")
        with self._lock:
            if now < self._stop_until and not self._driving:
                self._commands.publish(Twist())

    def close(self) -> None:
        """Leave ROS, with zero velocity where a program still drives, since monitoring ends here.

        roslaunch ends every node at once when a required one is killed, before that one has been silent long enough.
        """
        end = time.monotonic() + SILENCE_S
        while (self._driving or end < self._stop_until) and time.monotonic() < end:
            self._commands.publish(Twist())
            time.sleep(PERIOD_S)
        self._heartbeats.unregister()
        self._commands.unregister()

    def _beat(self, message: Any) -> None:
        name = message._connection_header.get("callerid", "?")
        with self._lock:
            if message.data:
                self._driving[name] = time.monotonic()
            else:
                self._driving.pop(name, None)


@dataclass(frozen=True)
class BaseWatchdogArgs:
    """Stop a mobile base when the program that drives it falls silent."""

    EXAMPLE: ClassVar[str] = "--task mobile_aloha_transfer_cube"
    MAIN_FLAGS: ClassVar[tuple[str, ...]] = ()

    task: Annotated[str, tyro.conf.arg(aliases=["--task_name"])] = "mobile_aloha_transfer_cube"
    """Task name (configs/tasks) or YAML path, for its rig."""
    rig: str | None = None
    """Rig name (configs/rigs) or YAML path; the task's when not given."""
    outlive: str = ""
    """Name of a ROS node: the first SIGINT takes effect only when that node has ended."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the node `base_watchdog_…` until it is shut down; on a rig without a base, return at once.

    Each instance has a unique name: ROS shuts down the first of two nodes with one name, and the first must outlast
    the launch of the second.
    """
    with command_line():
        args = node.node_args(BaseWatchdogArgs, "base_watchdog_node", argv)
        rig = load(RigConfig, "rigs", args.rig or load(TaskConfig, "tasks", args.task).rig)
        if rig.base is None:
            logging.getLogger(__name__).info("rig '%s' has no mobile base to watch", rig.name)
            return
        node.require_master()
        rospy.init_node("base_watchdog", anonymous=True, disable_signals=True, disable_rostime=True)
        watchdog = BaseWatchdog(rig.base.command_topic, rospy.logerr)
        with contextlib.closing(watchdog), interrupted_after(args.outlive, rospy.loginfo):
            rospy.loginfo(f"watching who drives the base on {rig.base.command_topic}")
            while not rospy.is_shutdown():
                watchdog.check()
                time.sleep(PERIOD_S)
