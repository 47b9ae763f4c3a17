"""ROS 1: soft sync of streams, arms, the rig as an environment, and a simulated rig with the real drivers' interfaces.

The only package that imports rospy. `connect` is its entry in the table of environments.
"""

from __future__ import annotations

import importlib.util
from typing import Any, TYPE_CHECKING

from aloha_kit.config import RigConfig, TaskConfig
from aloha_kit.core import ConfigError

if TYPE_CHECKING:
    from aloha_kit.ros.ros_env import RosEnv


def connect(task: TaskConfig, rig: RigConfig, *, realtime: bool = False, **with_leaders: Any) -> RosEnv:
    """Connect to a rig: a `RosEnv`, always in real time. Raises as `RosEnv` does.

    Raises:
        ConfigError: Python has no rospy here.
    """
    if importlib.util.find_spec("rospy") is None:
        raise ConfigError(
            "rig '{rig}' is behind ROS 1, but Python has no rospy here. `make install` puts it there", rig=rig.name
        )
    from aloha_kit.ros.ros_env import RosEnv

    return RosEnv(task, rig, **with_leaders)


connect.needs_ros = True  # type: ignore[attr-defined]  # read by `envs.needs_ros`
