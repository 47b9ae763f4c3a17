"""Normalisation of vectors and images for the networks, and its inverse."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn, Tensor

from aloha_kit.config.policies import PolicyConfig
from aloha_kit.core import ContractError
from aloha_kit.data.stats import Array, IMAGENET, Moments, Statistics


class Normaliser(nn.Module):
    """y = (x - offset) / scale for each vector, by the statistics of the data.

    | mode | offset | scale |
    |---|---|---|
    | mean_std | mean | std |
    | min_max_01 | min | max - min |
    | min_max_11 | (min + max) / 2 | (max - min) / 2 |

    Scales are at least `std_floor`. The buffers are not part of the weights: a checkpoint stores the
    statistics themselves, and nothing can disagree with them.

    Raises:
        ContractError: statistics that the mode needs are missing or not finite.
    """

    def __init__(self, config: PolicyConfig, stats: Statistics, keys: tuple[str, ...]) -> None:
        super().__init__()
        for key in keys:
            offset, scale = _affine(config.normalisation, stats[key])
            if not (np.isfinite(offset).all() and np.isfinite(scale).all()):
                raise ContractError(
                    "statistics of '{key}' are not all known, normalisation {normalisation} is out",
                    key=key,
                    normalisation=config.normalisation,
                )
            scale = np.maximum(scale, np.float32(config.std_floor))
            self.register_buffer(f"{key}_offset", torch.from_numpy(offset.copy()), persistent=False)
            self.register_buffer(f"{key}_scale", torch.from_numpy(scale.copy()), persistent=False)

    def forward(self, key: str, value: Tensor) -> Tensor:
        """(…, D) raw to normalised."""
        return (value - self.get_buffer(f"{key}_offset")) / self.get_buffer(f"{key}_scale")

    def undo(self, key: str, value: Tensor) -> Tensor:
        """(…, D) normalised to raw."""
        return value * self.get_buffer(f"{key}_scale") + self.get_buffer(f"{key}_offset")


class ImageNormaliser(nn.Module):
    """uint8 (or float in [0, 1] after augmentation) RGB to ImageNet's zero mean and unit variance, in one pass."""

    def __init__(self) -> None:
        super().__init__()
        mean, std = torch.tensor(IMAGENET["mean"]), torch.tensor(IMAGENET["std"])
        self.register_buffer("gain", (1 / std).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / std).view(3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """(…, 3, H, W) to the same, float."""
        gain, shift = self.get_buffer("gain"), self.get_buffer("shift")
        if image.dtype == torch.uint8:
            gain = gain / 255
        eager = image.device.type == "cpu" and not torch.compiler.is_compiling()  # others are shown the plain form
        if eager and image.ndim == 4 and image.is_contiguous(memory_format=torch.channels_last):
            # whole lines: the same numbers in a third of the time that a CPU takes for the three channels of each pixel
            width = image.shape[-1]
            lines = image.permute(0, 2, 3, 1).flatten(2).to(gain.dtype)
            lines = lines * gain.flatten().repeat(width) + shift.flatten().repeat(width)
            return lines.view(*lines.shape[:2], width, 3).permute(0, 3, 1, 2)
        return image.to(gain.dtype) * gain + shift


def _affine(mode: str, moments: Moments) -> tuple[Array, Array]:
    if mode == "mean_std":
        return moments.mean, moments.std
    if mode == "min_max_01":
        return moments.min, moments.max - moments.min
    half = np.float32(0.5)
    return (moments.min + moments.max) * half, (moments.max - moments.min) * half
