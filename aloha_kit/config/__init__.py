"""YAML in, frozen dataclasses out; a wrong key is answered with the nearest right one."""

from aloha_kit.config.load import find, from_mapping, load, names, to_mapping
from aloha_kit.config.task import CameraConfig, RigConfig, TaskConfig

__all__ = [
    "CameraConfig",
    "RigConfig",
    "TaskConfig",
    "find",
    "from_mapping",
    "load",
    "names",
    "to_mapping",
]
