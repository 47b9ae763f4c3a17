"""Readings of arms from their topics."""

from __future__ import annotations

from typing import Any

import rospy
from sensor_msgs.msg import JointState

from aloha_kit.ros.node import RosError
from aloha_kit.sync.readings import joint_values, require_finite, require_reading

__all__ = ["TIMEOUT_S", "joint_values", "next_reading", "require_finite", "require_reading"]  # for own drivers too

TIMEOUT_S = 5.0
"""Timeout of a driver to appear, to answer, and to publish a valid reading."""


def next_reading(topic: str, who: str, timeout_s: float = TIMEOUT_S) -> Any:
    """Wait for the next sensor_msgs/JointState on `topic`.

    Raises:
        RosError: none within the timeout.
    """
    try:
        return rospy.wait_for_message(topic, JointState, timeout=timeout_s)
    except rospy.ROSException as error:
        raise RosError(
            "{who}: nothing on {topic} for {timeout_s:g} s; is its driver running?",
            who=who,
            topic=topic,
            timeout_s=timeout_s,
        ) from error
