"""A rig of kind `ros`, if ROS is installed here."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, TYPE_CHECKING

from aloha_kit.config import RigConfig, TaskConfig
from aloha_kit.core import ConfigError

if TYPE_CHECKING:
    from aloha_kit.ros.ros_env import RosEnv


def connect(
    task: TaskConfig,
    rig: RigConfig,
    *,
    realtime: bool = False,
    leaders: bool = False,
    start_sequence: Callable[[Any], None] | None = None,
) -> RosEnv:
    """A `RosEnv`; raises as it does. Its time is always real.

    Raises:
        ConfigError: Python has no rospy here.
    """
    if importlib.util.find_spec("rospy") is None:
        raise ConfigError(
            f"rig '{rig.name}' is behind ROS 1, but Python has no rospy here. `make install` puts it there"
        )
    from aloha_kit.ros.ros_env import RosEnv

    return RosEnv(task, rig, leaders=leaders, start_sequence=start_sequence)
