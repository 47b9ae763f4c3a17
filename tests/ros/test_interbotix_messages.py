"""Interbotix's messages without Interbotix's package: same names, same checksums, and they travel."""

from __future__ import annotations

import io

import pytest
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from aloha_kit.ros import interbotix_messages

# Checksums of the package's own catkin build (ROS Noetic), as published with generated code.
MD5 = {
    "JointGroupCommand": "fa54c229b7238fc905e59a51a526f379",
    "JointSingleCommand": "79b74399c9cdcc4c0be32d540424ed2e",
    "JointTrajectoryCommand": "039c1a8f9200d555267cf39243b5e969",
    "OperatingModes": "cb68bef3d517c840b0a5cc0f73d64e36",
    "TorqueEnable": "023452ade9f3d4979c75bd4e0d60f0c9",
    "Reboot": "229067e7bfb48bf403b702d5f7f1ee93",
    "MotorGains": "7c362297bf8bae149936ba71305f3900",
    "RegisterValues": "27940ff80d633a7a6df113cf798c0f70",
    "RobotInfo": "873f2223b25122251d4d3641d8411cf6",
}


@pytest.mark.parametrize("name", MD5)
def test_a_built_type_is_the_packages_own_to_ros(name: str) -> None:
    built = interbotix_messages.build(name)
    assert (built._type, built._md5sum) == (f"interbotix_xs_msgs/{name}", MD5[name])
    assert getattr(interbotix_messages, name)._md5sum == MD5[name]


def test_there_is_nothing_else() -> None:
    assert set(interbotix_messages.DEFINITIONS) == set(MD5)


def travelled(message: object) -> object:
    buffer = io.BytesIO()
    message.serialize(buffer)
    return type(message)().deserialize(buffer.getvalue())


def test_what_is_sent_arrives() -> None:
    command = interbotix_messages.build("JointGroupCommand")(name="arm", cmd=[0.5, -0.25, 1.0])
    assert travelled(command) == command
    info = interbotix_messages.build("RobotInfo")._response_class(
        mode="position", joint_names=["waist"], joint_ids=[1], joint_lower_limits=[-1.5], num_joints=1, name=["arm"]
    )
    assert travelled(info) == info


def test_a_trajectory_is_the_installed_trajectory_message() -> None:
    path = JointTrajectory(joint_names=["waist"], points=[JointTrajectoryPoint(positions=[0.5])])
    arrived = travelled(interbotix_messages.build("JointTrajectoryCommand")("group", "arm", path))
    assert isinstance(arrived.traj, JointTrajectory)
    assert arrived.traj.points[0].positions == (0.5,)


def test_each_service_has_the_requests_and_responses_of_the_driver() -> None:
    registers = interbotix_messages.build("RegisterValues")
    request = registers._request_class(cmd_type="single", name="gripper", reg="Profile_Velocity", value=131)
    assert travelled(request) == request
    assert list(travelled(registers._response_class(values=[1, -2])).values) == [1, -2]
    assert interbotix_messages.build("TorqueEnable")._response_class.__slots__ == []
