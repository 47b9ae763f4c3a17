"""An image as 192 numbers: the mean colours of an 8x8 grid.

Needs numpy alone, so that a robot PC can compare its images with a checkpoint's statistics.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aloha_kit.core.errors import ContractError

GRID = 8
SIZE = GRID * GRID * 3

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
        raise ContractError(
            "an image must be (H, W, 3) or (B, 3, H, W) uint8, given {shape} {dtype}",
            shape=image.shape,
            dtype=image.dtype.name,
        )
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
