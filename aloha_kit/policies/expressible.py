"""What the classes of others can express: settings of a network that they have to find as they expect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aloha_kit.config.policies import PolicyConfig

PLAIN: Mapping[str, Any] = {
    "use_images": True,
    "use_environment_state": False,
    "sensors": (),
    "depth_cameras": (),
    "text_encoder": None,
    "n_obs_steps": 1,
    "image_size": None,
    "image_crop": 1.0,
    "backbone_layers": 4,
    "backbone_width": 64,
    "backbone_norm": "frozen",
}
"""{setting: its value}: one observation of joints and whole images, through a whole ResNet with frozen statistics."""


def differences(config: PolicyConfig, wanted: Mapping[str, Any]) -> list[str]:
    """The settings that are not as wanted, a phrase each."""
    return [
        f"{name} is {given}, not {want}" for name, want in wanted.items() if (given := getattr(config, name)) != want
    ]
