"""Configuration that the families share which read images as keypoints and are trained from scratch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from aloha_kit.config.policies import PolicyConfig
from aloha_kit.core.value_checks import at_least


@dataclass(frozen=True)
class KeypointConfig(PolicyConfig):
    """Base of `bc`, `ibc`, `diffusion`, `flow` and `mip`."""

    normalisation: Literal["mean_std", "min_max_01", "min_max_11"] = "min_max_11"
    """States and actions stretched to [-1, 1] by their extremes, the bounds within which actions are predicted."""
    backbone_norm: Literal["frozen", "batch", "group"] = "group"
    """Normalisation in the ResNet; group norm suits training from scratch and averaged weights."""
    pretrained_backbone: bool = False
    """Start from torchvision's ImageNet weights (44 MB, fetched once)."""
    keypoints: int = 32
    """Keypoints of the spatial softmax, for each camera and step of observation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, keypoints=self.keypoints)
