"""ROS 1: the only room that imports rospy. Streams and their soft sync, arms, the rig as an environment,
and a simulated rig that serves the same topics and services as the real drivers."""
