"""Configuration: YAML files to frozen dataclasses; an error about an unknown key names the nearest known one."""

from aloha_kit.config.load import find, from_mapping, key_errors, load, names, to_mapping
from aloha_kit.config.rig import ArmConfig, BaseConfig, CameraConfig, EStopConfig, RigConfig, SyncConfig, ViewConfig
from aloha_kit.config.task import TaskConfig

__all__ = [
    "ArmConfig",
    "BaseConfig",
    "CameraConfig",
    "EStopConfig",
    "RigConfig",
    "SyncConfig",
    "TaskConfig",
    "ViewConfig",
    "find",
    "from_mapping",
    "key_errors",
    "load",
    "names",
    "to_mapping",
]
