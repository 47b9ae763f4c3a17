"""A mobile base: its velocity read, and commanded only while a policy drives."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import rospy
from geometry_msgs.msg import Twist

from aloha_kit.config.rig import BaseConfig
from aloha_kit.ros.arms import finite, Vector

ACTION_NAMES = ("base_linear", "base_angular")
DEAD_MAN_S = 0.25
"""A velocity holds no longer than this: when an episode ends between two commands, the base must not go on."""


class Base:
    """nav_msgs/Odometry in, geometry_msgs/Twist out; linear x in m/s, angular z in rad/s."""

    def __init__(self, config: BaseConfig) -> None:
        self._commands = rospy.Publisher(config.command_topic, Twist, queue_size=1)
        self._lock = threading.Lock()
        self._driven_until: float | None = None  # on the monotonic clock; None while it stands still
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="base dead man", daemon=True).start()

    def read(self, message: Any) -> Vector:
        """(2,) velocity in a nav_msgs/Odometry. Raises ReadingError where it is not finite."""
        twist = message.twist.twist
        values = np.array([twist.linear.x, twist.angular.z], np.float64)
        finite("base", "velocity", ACTION_NAMES, values)
        return values.astype(np.float32)

    def drive(self, velocity: npt.ArrayLike) -> None:
        """Command (2,) a velocity, for `DEAD_MAN_S` at most."""
        with self._lock:
            self._publish(*np.asarray(velocity, float))
            self._driven_until = time.monotonic() + DEAD_MAN_S

    def stop(self) -> None:
        """Stand still; says nothing if we never drove, since a person may be pushing."""
        with self._lock:
            if self._driven_until is not None:
                self._publish(0.0, 0.0)
                self._driven_until = None

    def close(self) -> None:
        """Stop and leave ROS."""
        driven = self._driven_until is not None
        self._closed.set()
        self.stop()
        if driven:
            time.sleep(0.05)  # rospy sends in the background, and drops what is left when a publisher goes
        self._commands.unregister()

    def _publish(self, linear: float, angular: float) -> None:
        message = Twist()
        message.linear.x, message.angular.z = linear, angular
        self._commands.publish(message)

    def _watch(self) -> None:
        while not self._closed.wait(DEAD_MAN_S / 5):
            until = self._driven_until
            if until is not None and time.monotonic() > until:
                self.stop()
