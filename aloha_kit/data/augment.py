"""Image augmentation of a whole batch on its device, drawn separately for every image.

What the field does (ACT++): a random crop of 95 % resized back, rotation by up to 5°, brightness 0.3, contrast 0.4,
saturation 0.5. torchvision's v2 transforms draw once a call, hence once a batch, and looping them over the samples
costs a dozen small operations each; crop, resize, shift and rotation are one affine map, so one `grid_sample` does
all of them for all samples, and interpolates once rather than twice. The colour arithmetic is that of torchvision
(tested against its v2 kernels), in the fixed order brightness, contrast, saturation. Every camera of a sample is drawn
separately; its depth is moved like its image, each pixel to the nearest one, and keeps its values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from aloha_kit.data.batch import Batch


@dataclass(frozen=True)
class Augment:
    """Amounts; 0 (for `crop`: 1) leaves that aspect alone."""

    crop: float = 0.95  # side of the crop relative to the image
    shift: float = 0.0  # largest move of the image to each side, relative to it
    rotate_deg: float = 5.0
    brightness: float = 0.3
    contrast: float = 0.4
    saturation: float = 0.5
    seed: int = 0

    def __call__(self, batch: Batch, step: int, *, part: int = 0, parts: int = 1) -> Batch:
        """The batch with augmented images: (B, 3, H, W) float in [0, 1], depth float in mm.

        The draws depend on seed and step alone, so a resumed run draws what the uninterrupted one would have. Where
        this is only one of the equal `parts` of a batch, it gets the draws that are its own in the whole.
        """
        generator = torch.Generator().manual_seed(hash((self.seed, step)) & 0x7FFF_FFFF_FFFF_FFFF)
        changed = batch.copy()
        images, depth = batch["images"], batch.get("images_depth", {})
        draws = {name: self._draws(image, generator, part, parts) for name, image in images.items()}
        changed["images"] = {name: self._images(image, draws[name]) for name, image in images.items()}
        if depth:
            changed["images_depth"] = {name: self._depth(values, draws[name]) for name, values in depth.items()}
        return changed

    def images(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """(B, 3, H, W) uint8, or float in [0, 1], to float in [0, 1]; of (B, n_obs_steps, 3, H, W) a sample's steps
        alike."""
        return self._images(images, self._draws(images, generator))

    def _draws(self, images: Tensor, generator: torch.Generator, part: int = 0, parts: int = 1) -> Tensor:
        """(B, 6) in [-1, 1], or (B · n_obs_steps, 6)."""
        drawn = torch.rand(parts, len(images), 6, generator=generator)[part]
        # like any copy here that waited, this would have the host wait for the GPU's step before
        draws = drawn.mul_(2).sub_(1).to(images.device, non_blocking=True)
        steps = images.shape[1:-3]
        return draws.repeat_interleave(steps[0], dim=0) if steps else draws

    def _images(self, images: Tensor, draws: Tensor) -> Tensor:
        moved = images.float() / 255 if images.dtype == torch.uint8 else images
        moved = self._recolour(self._move(moved.reshape(-1, *images.shape[-3:]), draws[:, :3]), draws[:, 3:])
        return moved.reshape(images.shape)

    def _depth(self, depth: Tensor, draws: Tensor) -> Tensor:
        moved = self._move(depth.float().reshape(-1, *depth.shape[-3:]), draws[:, :3], mode="nearest")
        return moved.reshape(depth.shape)

    def _move(self, images: Tensor, draws: Tensor, mode: str = "bilinear") -> Tensor:
        if self.crop >= 1 and not self.rotate_deg and not self.shift:
            return images
        height, width = images.shape[-2:]
        angle = draws[:, 0] * math.radians(self.rotate_deg)
        cos, sin = torch.cos(angle), torch.sin(angle)
        # output to input coordinates, each side scaled to [-1, 1]: hence the aspect ratio in the off-diagonals
        affine = torch.empty(len(images), 2, 3, device=images.device)
        affine[:, 0, 0] = affine[:, 1, 1] = self.crop * cos
        affine[:, 0, 1] = -self.crop * sin * height / width
        affine[:, 1, 0] = self.crop * sin * width / height
        affine[:, :, 2] = draws[:, 1:3] * (1 - self.crop + 2 * self.shift)
        grid = F.affine_grid(affine, list(images.shape), align_corners=False)
        # the rim repeats what is next to it: black corners would be a feature that deployment never shows
        return F.grid_sample(images, grid, mode=mode, padding_mode="border", align_corners=False)

    def _recolour(self, images: Tensor, draws: Tensor) -> Tensor:
        amounts = (self.brightness, self.contrast, self.saturation)
        brightness, contrast, saturation = (
            1 + draw[:, None, None, None] * amount for draw, amount in zip(draws.unbind(1), amounts, strict=True)
        )
        if self.brightness:
            images = (images * brightness).clamp(0, 1)
        if self.contrast:
            mean = _grey(images).mean((-3, -2, -1), keepdim=True)
            images = torch.lerp(mean, images, contrast).clamp(0, 1)
        if self.saturation:
            images = torch.lerp(_grey(images), images, saturation).clamp(0, 1)
        return images


def _grey(images: Tensor) -> Tensor:
    """(B, 1, H, W) luma, ITU-R 601."""
    red, green, blue = images.unbind(1)
    return (0.2989 * red).add_(green, alpha=0.587).add_(blue, alpha=0.114)[:, None]
