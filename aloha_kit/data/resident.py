"""Frame cache in the memory of the training device."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aloha_kit.core import ConfigError
from aloha_kit.data.cache import cached_frames
from aloha_kit.data.camera_frames import FrameKind, RGB
from aloha_kit.data.index import EpisodeTable

Ints = npt.NDArray[np.int64]

SHARE = 0.75  # of the memory that is free; weights, gradients and activations need the rest
_BLOCK = 64  # frames a camera copied at a time


class ResidentFrames:
    """Every frame of a table on one device, (N, channels, H, W) a camera in the table's order."""

    def __init__(self, frames: Mapping[str, Tensor]) -> None:
        self._frames = dict(frames)
        self._device = next((values.device for values in frames.values()), torch.device("cpu"))

    def gather(self, rows: Ints, *, pin: bool = False) -> dict[str, Tensor]:
        # a copy that waited would wait for the steps that the GPU has before it
        wanted = torch.from_numpy(rows).to(self._device, non_blocking=True)
        return {camera: frames.index_select(0, wanted) for camera, frames in self._frames.items()}


def resident_frames(
    table: EpisodeTable,
    sizes: Mapping[str, tuple[int, int]],
    folder: Path,
    device: str,
    *,
    workers: int,
    progress: bool = True,
    kind: FrameKind = RGB,
) -> ResidentFrames:
    """The frames of every row on `device`, from the cache in `folder`, which is built first where it has to be.

    Raises:
        ConfigError: the device's memory is too small (reports the missing memory and a remedy, before anything is
            decoded), or the cache cannot be built.
        EpisodeError: a frame cannot be decoded.
    """
    needed = len(table) * sum(map(kind.bytes, sizes.values()))
    free = free_memory(device)
    if needed > SHARE * free:
        raise ConfigError(
            "the frames need {needed:.1f} GB on {device}, where {free:.1f} GB are free and a quarter is left "
            "to the network. Use a smaller --image_size, fewer cameras, or --cache disk",
            needed=needed / 1e9,
            device=device,
            free=free / 1e9,
        )
    source = cached_frames(table, sizes, folder, workers=workers, progress=progress, kind=kind)
    frames = {camera: kind.empty(len(table), size, device=device) for camera, size in sizes.items()}
    pin = device.startswith("cuda")
    for start in range(0, len(table), _BLOCK):
        stop = min(start + _BLOCK, len(table))
        for camera, images in source.gather(np.arange(start, stop), pin=pin).items():
            frames[camera][start:stop].copy_(images, non_blocking=pin)
    return ResidentFrames(frames)


def free_memory(device: str) -> int:
    """Bytes that can still be taken on a device."""
    return _FREE.get(torch.device(device).type, _free_ram)(device)


def _free_cuda(device: str) -> int:
    return torch.cuda.mem_get_info(device)[0]


def _free_mps(device: str) -> int:
    return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()


def _free_ram(device: str) -> int:
    """Bytes available to programs on Linux, reclaimable file cache included; elsewhere half of the installed RAM."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


_FREE = {"cuda": _free_cuda, "mps": _free_mps}
"""{type of a device: its free memory}; of others it is the RAM."""
