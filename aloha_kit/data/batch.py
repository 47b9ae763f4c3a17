"""Batches of observations and actions in raw units, as the policies read them.

Each policy normalises its inputs itself, so a batch has the same meaning for every network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor


class _Required(TypedDict):
    qpos: Tensor  # (B, S) float32, rad and gripper opening, ordered like the contract's state_names
    images: dict[
        str, Tensor
    ]  # {camera: (B, 3, H, W)}, or (B, n_obs_steps, 3, H, W); uint8 RGB; or float in [0, 1] once augmented


class Batch(_Required, total=False):
    """B observations, and in training the K actions that follow each of them.

    Actions past an episode's end are zero and marked in `is_pad`. For prediction, `actions` and `is_pad` are absent.
    Cameras may differ in size; depth has its camera's size, or the recorded one. Every other vector that is read,
    privileged state and sensors, is an entry by its feature's name. Where several steps are read, the whole observation
    has an axis of `n_obs_steps` after B, oldest first.
    """

    images_depth: dict[str, Tensor]  # {camera: (B, 1, H, W) uint16 mm, 0 not measured}, or with n_obs_steps; or float
    instruction: Tensor  # (B, W) float32, the vector of the task's instruction (`data.instructions`), one for all steps
    actions: Tensor  # (B, K, A) float32, ordered like the contract's action_names
    is_pad: Tensor  # (B, K) bool, True on the rows that are not there
    valid_rows: Tensor  # () float32, in a piece of a batch: rows of actions that are there, a sample of the whole batch


def mapped(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """The batch with each of its tensors changed."""
    items: dict[str, Any] = dict(batch)
    changed = {
        key: {name: change(image) for name, image in value.items()} if isinstance(value, dict) else change(value)
        for key, value in items.items()
    }
    return cast(Batch, changed)


def to_device(batch: Batch, device: str) -> Batch:
    """Batch on a device; copies overlap with work when the source is pinned memory."""
    return mapped(batch, lambda values: values.to(device, non_blocking=True))


def split(batch: Batch, pieces: int) -> list[Batch]:
    """Pieces of equal size, in order; B is a multiple of their number."""
    size = len(batch["qpos"]) // pieces
    spans = [slice(start, start + size) for start in range(0, pieces * size, size)]
    return [mapped(batch, lambda values, span=span: values[span] if values.ndim else values) for span in spans]  # type: ignore[misc]


def nearest(depth: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, 1, H, W) depth to (B, 1, height, width) float32, each value that of the nearest pixel.

    Interpolation would put surfaces between an object and what is behind it, and mix in pixels without a measurement.
    """
    values = depth.to(torch.float32)  # exact for uint16
    return values if depth.shape[-2:] == tuple(size) else F.interpolate(values, size=list(size), mode="nearest-exact")
