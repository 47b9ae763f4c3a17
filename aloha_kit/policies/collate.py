"""Observations to a network's batch: layout and transfer to the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy.typing as npt
import torch
from torch import Tensor

from aloha_kit.core.features import DEPTHS, IMAGES
from aloha_kit.data.batch import Batch


class Collator:
    """Makes a batch on a device of arrays with a leading batch dimension, `{feature: (B, …)}` as `core.inputs.read`
    gives them.

    To a GPU they go by way of memory that it reads by itself, so that transfers overlap. That memory may be filled
    anew once the chunk is here, since by then everything before it is done.
    """

    def __init__(self, device: str | torch.device) -> None:
        self._device = torch.device(device)
        self._pinned: dict[tuple[str, torch.Size], Tensor] = {}

    def __call__(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Batch:
        return assembled({name: self._moved(name, torch.from_numpy(array)) for name, array in arrays.items()})

    def _moved(self, name: str, tensor: Tensor) -> Tensor:
        if self._device.type != "cuda":
            return tensor.to(self._device)
        key = name, tensor.shape
        if key not in self._pinned:
            self._pinned[key] = torch.empty_like(tensor, pin_memory=True)
        return self._pinned[key].copy_(tensor).to(self._device, non_blocking=True)


def assembled(tensors: Mapping[str, Tensor]) -> Batch:
    """A batch of {feature: (B, …)}; images (B, …, H, W, 3) as bytes, a quarter of what floats would be, and depth
    (B, …, H, W)."""
    batch: dict[str, Any] = {"images": {}}
    for name, tensor in tensors.items():
        if name.startswith(IMAGES):
            batch["images"][name.removeprefix(IMAGES)] = tensor.movedim(-1, -3)
        elif name.startswith(DEPTHS):
            batch.setdefault("images_depth", {})[name.removeprefix(DEPTHS)] = tensor.unsqueeze(-3)
        else:
            batch[name] = tensor
    return cast(Batch, batch)


def disassembled(batch: Batch) -> dict[str, Tensor]:
    """Inverse of `assembled`, always in the same order: vectors, then images (B, …, H, W, 3) by name, then depth."""
    values: dict[str, Any] = dict(batch)
    images, depth = values.pop("images"), values.pop("images_depth", {})
    return {
        **{name: values[name] for name in sorted(values)},
        **{f"{IMAGES}{name}": images[name].movedim(-3, -1) for name in sorted(images)},
        **{f"{DEPTHS}{name}": depth[name].squeeze(-3) for name in sorted(depth)},
    }


def on_device(arrays: Mapping[str, npt.NDArray[Any]], device: str | torch.device) -> Batch:
    """A batch of inference tensors, like those of an inference: torch.compile distinguishes them from others."""
    with torch.inference_mode():
        return Collator(device)(arrays)
