"""Sensors as a node of its own: IMU, force sensor, touch sensors and a hand's joints, whose values tell their stamps.

Words on its standard input change what it sends: "nan" (one lost value), "lost" (all from now on), "short", "silent".
"""

from __future__ import annotations

import sys
import threading

import numpy as np
import rospy
from geometry_msgs.msg import WrenchStamped
from sensor_msgs.msg import Imu, JointState
from std_msgs.msg import Float32MultiArray


def second(stamp: rospy.Time) -> float:
    """The stamp's fraction of a second, which 32 bits can hold."""
    return stamp.nsecs / 1e9


def main() -> None:
    rospy.init_node("sensors", disable_signals=True)
    reported: set[str] = set()
    threading.Thread(target=lambda: [reported.add(line.strip()) for line in sys.stdin], daemon=True).start()
    topics = {"/imu": Imu, "/wrench": WrenchStamped, "/touch": Float32MultiArray, "/hand": JointState}
    publishers = {topic: rospy.Publisher(topic, kind, queue_size=5) for topic, kind in topics.items()}
    print("up", flush=True)
    count = 0
    while True:
        rospy.rostime.wallsleep(0.01)
        now, count = rospy.Time.now(), count + 1
        imu, wrench, hand = Imu(), WrenchStamped(), JointState(name=["thumb", "index"])
        for message in (imu, wrench, hand):
            message.header.stamp = now
        imu.orientation.w, imu.angular_velocity.x, imu.linear_acceleration.z = 1.0, second(now), 9.81
        wrench.wrench.force.x, wrench.wrench.torque.z = 10 * second(now), -second(now)
        hand.position, hand.effort = [0.5, second(now)], [1.0, 2.0]
        touch = Float32MultiArray(data=np.arange(24) + float(count))
        if reported & {"lost", "nan"}:
            imu.linear_acceleration.z = float("nan")
            reported.discard("nan")
        if "short" in reported:
            touch.data = touch.data[:23]
        for topic, message in (("/imu", imu), ("/wrench", wrench), ("/touch", touch), ("/hand", hand)):
            if not (topic == "/wrench" and "silent" in reported):
                publishers[topic].publish(message)


if __name__ == "__main__":
    main()
