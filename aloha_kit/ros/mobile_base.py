"""Mobile base: read its velocity, and command it only while a policy drives."""

from __future__ import annotations

import threading
import time

import numpy as np
import numpy.typing as npt
import rospy
from geometry_msgs.msg import Twist
from std_msgs.msg import Bool

from aloha_kit.config.rig import BaseConfig
from aloha_kit.core import Clock, CommandLimiter, SafetyError, WallClock
from aloha_kit.core.motion import BASE_ACCELERATION
from aloha_kit.ros.command_publisher import CommandPublisher

DEAD_MAN_S = 0.25
"""Longest validity (s) of a velocity command: the base must stop when an episode ends between two commands."""


HEARTBEAT_TOPIC = "/aloha_kit/base/heartbeat"
"""std_msgs/Bool for the watchdog (`ros.base_watchdog`): true, repeated, while driving; false once stopped."""
SILENCE_S = 0.25
"""A driving program without a heartbeat for this long (s) is suspended or dead."""
_BEAT_S = 0.05


class MobileBase:
    """Mobile base with nav_msgs/Odometry in and geometry_msgs/Twist out; linear x in m/s, angular z in rad/s.

    Args:
        rate_hz: of the commands; limits the step between two of them. Zero is always allowed.
        clock: of the command deadlines; a simulated rig's may run slower or faster than the wall clock, or jump.
    """

    def __init__(self, config: BaseConfig, *, rate_hz: float = 50.0, clock: Clock | None = None) -> None:
        self._clock = clock or WallClock()
        self._limiter = CommandLimiter(np.array(BASE_ACCELERATION) / rate_hz, rate_hz)
        self._limiter.begin(np.zeros(2))
        self._commands = CommandPublisher(config.command_topic, Twist)
        self._heartbeats = CommandPublisher(HEARTBEAT_TOPIC, Bool)
        self._lock = threading.Lock()
        self._driven_ns: int | None = None  # when it was last commanded to move; None while it stands still
        self._ticked = (0, 0.0)  # last reading of the clock, and since when, on the monotonic clock
        self._beaten = 0.0  # when the newest heartbeat was sent
        self._gap = 0.0  # s without a heartbeat while driving, long enough for the watchdog to have stopped the base
        self._used = self._warned = False
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="base dead man", daemon=True).start()

    def drive(self, velocity: npt.ArrayLike) -> None:
        """Command a velocity (2,), limited to the base's acceleration and valid for `DEAD_MAN_S` at most.

        Raises:
            SafetyError: this process was suspended while driving, so the base was stopped; `stop` clears this.
        """
        with self._lock:
            self._look_back()
            if self._gap:
                raise SafetyError(
                    "this process stood still for {gap:.2f} s while it drove the base (stopped, or the machine was "
                    "overloaded); the base was stopped",
                    gap=self._gap,
                )
            now_ns = self._clock.now_ns()
            command = self._limiter.limit(velocity, now_ns)
            moving = bool(np.any(command))
            self._publish(*command.tolist())
            self._limiter.sent(command, now_ns)
            self._used = True
            if moving != (self._driven_ns is not None):
                self._beat(moving)
            self._driven_ns = now_ns if moving else None
            self._ticked = (now_ns, time.monotonic())
        unwatched = moving and self._heartbeats.get_num_connections() == 0
        if unwatched and not self._warned:
            rospy.logwarn(
                "no base watchdog runs: if this process is killed the base keeps its last command, unless its driver "
                "stops by itself. Start one: roslaunch aloha_kit base_watchdog.launch"
            )
        self._warned = unwatched if moving else self._warned  # a watchdog that ends later is reported as well

    def stop(self) -> None:
        """Stop the base; sends nothing if it was never driven from here, since an operator may be pushing it."""
        with self._lock:
            self._halt()
            self._gap = 0.0

    def close(self) -> None:
        """Stop and leave ROS."""
        self._closed.set()
        self.stop()
        if self._used:
            time.sleep(0.05)  # a subscriber drops unread messages when this publisher unregisters
        self._commands.unregister()
        self._heartbeats.unregister()

    def _publish(self, linear: float, angular: float) -> None:
        message = Twist()
        message.linear.x, message.angular.z = linear, angular
        self._commands.publish(message)

    def _beat(self, driving: bool) -> None:
        self._heartbeats.publish(Bool(data=driving))
        self._beaten = time.monotonic()

    def _halt(self) -> None:
        self._limiter.begin(np.zeros(2))
        if self._driven_ns is not None:
            self._publish(0.0, 0.0)
            self._beat(False)
            self._driven_ns = None

    def _look_back(self) -> None:
        """Record a gap in the heartbeat while driving, from either thread."""
        gap = time.monotonic() - self._beaten
        if self._driven_ns is not None and gap > SILENCE_S:
            self._gap = gap
            self._halt()

    def _watch(self) -> None:
        while not self._closed.wait(_BEAT_S):
            with self._lock:
                self._look_back()
                if self._driven_ns is not None:
                    if self._overdue(self._driven_ns):
                        self._halt()
                    else:
                        self._beat(True)

    def _overdue(self, driven_ns: int) -> bool:
        """Whether the next command is overdue; a clock that went back or stands still is ignored."""
        now_ns, now = self._clock.now_ns(), time.monotonic()
        if now_ns != self._ticked[0]:
            self._ticked = (now_ns, now)
        return not 0 <= now_ns - driven_ns <= DEAD_MAN_S * 1e9 or now - self._ticked[1] > DEAD_MAN_S
