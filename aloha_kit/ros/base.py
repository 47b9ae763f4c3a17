"""A mobile base: its velocity read, and commanded only while a policy drives."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import rospy
from geometry_msgs.msg import Twist

from aloha_kit.config.rig import BaseConfig
from aloha_kit.core import Clock
from aloha_kit.ros.arms import finite, Vector

ACTION_NAMES = ("base_linear", "base_angular")
_STOP_REPEATS = 3
_STOP_PAUSE_S = 0.02


class Base:
    """nav_msgs/Odometry in, geometry_msgs/Twist out; linear x in m/s, angular z in rad/s."""

    def __init__(self, config: BaseConfig, clock: Clock) -> None:
        self._clock = clock
        self._commands = rospy.Publisher(config.command_topic, Twist, queue_size=1)
        self._driven = False

    def read(self, message: Any) -> Vector:
        """(2,) velocity in a nav_msgs/Odometry. Raises ReadingError where it is not finite."""
        twist = message.twist.twist
        values = np.array([twist.linear.x, twist.angular.z], np.float64)
        finite("base", "velocity", ACTION_NAMES, values)
        return values.astype(np.float32)

    def drive(self, velocity: npt.ArrayLike) -> None:
        """Command (2,) a velocity; it holds until the next one or the base's own watchdog."""
        linear, angular = np.asarray(velocity, float)
        message = Twist()
        message.linear.x, message.angular.z = linear, angular
        self._commands.publish(message)
        self._driven = True

    def stop(self) -> None:
        """Stand still, if we ever drove; said more than once, as nobody answers."""
        if self._driven:
            for _ in range(_STOP_REPEATS):
                self.drive((0.0, 0.0))
                self._clock.sleep_until(self._clock.now_ns() + int(_STOP_PAUSE_S * 1e9))
            self._driven = False

    def close(self) -> None:
        """Stop and leave ROS."""
        self.stop()
        self._commands.unregister()
