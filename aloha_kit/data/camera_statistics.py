"""Camera statistics: an image as 192 numbers, the mean colours of an 8x8 grid, and their moments in training.

Small enough to save beside the weights, and sufficient to detect a changed light, camera or table later.
Needs numpy alone, so that a robot PC can compare its images with a checkpoint's statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from aloha_kit.core import ContractError
from aloha_kit.core.features import IMAGES
from aloha_kit.data.stats import Accumulator, END, Moments, START, Statistics

if TYPE_CHECKING:
    from aloha_kit.data.camera_frames import Frames
    from aloha_kit.data.index import EpisodeTable

GRID = 8
SIZE = GRID * GRID * 3
SAMPLES = 2000  # frames a camera that training is described by
_BLOCK = 20  # frames held in memory at a time

Floats = npt.NDArray[np.float32]


def describe(images: npt.NDArray[np.uint8]) -> Floats:
    """Mean colour of every cell: (192,) of an RGB image (H, W, 3), (B, 192) of a batch (B, 3, H, W); in [0, 1].

    `.reshape(8, 8, 3)` is the image in small. Cells are areas, so that an image and its reduced copy give the same,
    whatever their sizes.

    Raises:
        ContractError: neither of the two shapes, or no uint8.
    """
    image = np.asarray(images)
    batch = image.transpose(2, 0, 1)[None] if image.ndim == 3 else image
    if image.dtype != np.uint8 or batch.ndim != 4 or batch.shape[1] != 3 or 0 in batch.shape:
        raise ContractError(f"an image must be (H, W, 3) or (B, 3, H, W) uint8, given {image.shape} {image.dtype.name}")
    rows, columns = _shares(batch.shape[2]), _shares(batch.shape[3])
    cells = rows @ (batch.astype(np.float32) @ columns.T)  # (B, 3, 8, 8)
    described: Floats = np.clip(cells.transpose(0, 2, 3, 1).reshape(len(batch), SIZE) / np.float32(255), 0, 1)
    return described[0] if image.ndim == 3 else described


def _shares(pixels: int) -> Floats:
    """(8, pixels): how much of each pixel lies in each cell, rows summing to 1."""
    borders = np.linspace(0, pixels, GRID + 1)
    left, right = borders[:-1, None], borders[1:, None]
    pixel = np.arange(pixels)
    overlap = np.clip(np.minimum(right, pixel + 1) - np.maximum(left, pixel), 0, None)
    return np.asarray(overlap * GRID / pixels, np.float32)


def add_camera_statistics(
    stats: Statistics, table: EpisodeTable, frames: Frames | None, episodes: Sequence[int]
) -> Statistics:
    """Add the start poses, end poses and image statistics of some episodes to `stats`, for later comparison.

    Each camera is described by at most 2000 frames, spread evenly. What `stats` has already stays.
    """
    found: dict[str, Moments] = {}
    starts, lengths = table.starts[list(episodes)], table.lengths[list(episodes)]
    for key, rows in ((START, starts), (END, starts + lengths - 1)):
        if key not in stats:
            found |= Statistics.of(**{key: table.qpos[rows]}).moments
    missing = [camera for camera in table.cameras if f"{IMAGES}{camera}" not in stats]
    if frames is not None and missing:
        rows = table.rows_of(episodes)
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), SAMPLES)).round().astype(np.int64))]
        sums = {camera: Accumulator() for camera in missing}
        for start in range(0, len(rows), _BLOCK):
            images = frames.gather(rows[start : start + _BLOCK])
            for camera, accumulator in sums.items():
                accumulator.add(describe(images[camera].cpu().numpy()))
        found |= {f"{IMAGES}{camera}": accumulator.moments() for camera, accumulator in sums.items()}
    return Statistics({**stats.moments, **found})
