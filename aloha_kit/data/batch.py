"""What passes between the data and the policies: raw units in, raw units out.

A policy normalises by itself, so a batch means the same whichever network reads it.
"""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor


class _Required(TypedDict):
    qpos: Tensor  # (B, S) float32, rad and gripper opening, ordered like the contract's state_names
    images: dict[str, Tensor]  # {camera: (B, 3, H, W)} uint8 RGB; or float in [0, 1] once augmented


class Batch(_Required, total=False):
    """B observations, and in training the K actions that follow each of them.

    Actions past an episode's end are zero and marked in `is_pad`. For prediction, `actions` and
    `is_pad` are absent. Cameras may differ in size.
    """

    environment_state: Tensor  # (B, E) float32, true object poses, simulation only
    actions: Tensor  # (B, K, A) float32, ordered like the contract's action_names
    is_pad: Tensor  # (B, K) bool, True on the rows that are not there


def to_device(batch: Batch, device: str) -> Batch:
    """The same batch on a device; copies overlap with work when the source is pinned memory."""
    moved = Batch(
        qpos=batch["qpos"].to(device, non_blocking=True),
        images={name: image.to(device, non_blocking=True) for name, image in batch["images"].items()},
    )
    if "environment_state" in batch:
        moved["environment_state"] = batch["environment_state"].to(device, non_blocking=True)
    if "actions" in batch:
        moved["actions"] = batch["actions"].to(device, non_blocking=True)
    if "is_pad" in batch:
        moved["is_pad"] = batch["is_pad"].to(device, non_blocking=True)
    return moved
