"""From a rig's stamped messages to observations, without ROS: soft sync, readings of arms, base, sensors and images.

Live messages come from `ros`, recorded ones from a bag (`formats.rosbag`).
"""
