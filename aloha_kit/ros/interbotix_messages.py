"""Messages and services of the Interbotix X-Series drivers.

The installed package `interbotix_xs_msgs` where there is one; else the same types built here, when this
module loads, from the definitions below. A type is the same to ROS if its name and the checksum of its
fields are, so both work with the driver and with Interbotix's own Python package.
"""

from __future__ import annotations

from typing import Any

import genmsg
import genmsg.msg_loader
import genmsg.srvs
import genpy.generator
from trajectory_msgs.msg import JointTrajectory

__all__ = [
    "DEFINITIONS",
    "PACKAGE",
    "JointGroupCommand",
    "JointSingleCommand",
    "JointTrajectoryCommand",
    "MotorGains",
    "OperatingModes",
    "Reboot",
    "RegisterValues",
    "RobotInfo",
    "TorqueEnable",
    "build",
]

PACKAGE = "interbotix_xs_msgs"

_TARGET = "string cmd_type\nstring name\n"  # "group" or "single", and which

DEFINITIONS = {
    "JointGroupCommand": "string name\nfloat32[] cmd",
    "JointSingleCommand": "string name\nfloat32 cmd",
    "JointTrajectoryCommand": _TARGET + "trajectory_msgs/JointTrajectory traj",
    "OperatingModes": _TARGET
    + "string mode\nstring profile_type\nint32 profile_velocity\nint32 profile_acceleration\n---\n",
    "TorqueEnable": _TARGET + "bool enable\n---\n",
    "Reboot": _TARGET + "bool enable\nbool smart_reboot\n---\n",
    "MotorGains": _TARGET
    + "int32 kp_pos\nint32 ki_pos\nint32 kd_pos\nint32 k1\nint32 k2\nint32 kp_vel\nint32 ki_vel\n---\n",
    "RegisterValues": _TARGET + "string reg\nint32 value\n---\nint32[] values",
    "RobotInfo": _TARGET + "---\nstring mode\nstring profile_type\nstring[] joint_names\nint16[] joint_ids\n"
    "float32[] joint_lower_limits\nfloat32[] joint_upper_limits\nfloat32[] joint_velocity_limits\n"
    "float32[] joint_sleep_positions\nint16[] joint_state_indices\nint16 num_joints\nstring[] name",
}
"""Definitions {type: text}; the part after `---` is a service's response."""


def build(name: str) -> Any:
    """Generate the class of one of `DEFINITIONS`, as a catkin build would: a message, or a service
    with its `Request` and `Response` (`_request_class`, `_response_class`)."""
    context = genmsg.MsgContext.create_default()
    _register(context, JointTrajectory)
    full_name, text = f"{PACKAGE}/{name}", DEFINITIONS[name]
    if "---" not in text:
        lines = genpy.generator.msg_generator(
            context, genmsg.msg_loader.load_msg_from_string(context, text, full_name), {}
        )
    else:
        lines = genpy.generator.srv_generator(
            context, genmsg.msg_loader.load_srv_from_string(context, text, full_name), {}
        )
    module: dict[str, Any] = {"__name__": f"{__name__}.{name}"}
    exec("\n".join(lines), module)
    return module[name]


def _register(context: genmsg.MsgContext, message: Any) -> None:
    """Register an installed message as a field type, with all its own field types."""
    separator = "=" * 80 + "\nMSG: "
    own, *parts = message._full_text.split(separator)
    for part in reversed([f"{message._type}\n{own}", *parts]):  # a part comes after what needs it
        name, _, text = part.partition("\n")
        genmsg.msg_loader.load_msg_from_string(context, text, name)


try:
    from interbotix_xs_msgs.msg import JointGroupCommand, JointSingleCommand, JointTrajectoryCommand
    from interbotix_xs_msgs.srv import MotorGains, OperatingModes, Reboot, RegisterValues, RobotInfo, TorqueEnable
except ImportError:
    JointGroupCommand, JointSingleCommand = build("JointGroupCommand"), build("JointSingleCommand")
    JointTrajectoryCommand = build("JointTrajectoryCommand")
    OperatingModes, TorqueEnable, Reboot = build("OperatingModes"), build("TorqueEnable"), build("Reboot")
    MotorGains, RegisterValues, RobotInfo = build("MotorGains"), build("RegisterValues"), build("RobotInfo")
