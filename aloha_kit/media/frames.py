"""Composition of images and text into one frame."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image as Pil
from PIL import ImageDraw, ImageFont

Image = npt.NDArray[np.uint8]

BACKGROUND = (24, 26, 31)
INK = (232, 234, 238)
FAINT = (150, 156, 166)
GOOD = (96, 200, 120)
BAD = (236, 110, 100)


def fit(image: Image, height: int, width: int | None = None) -> Image:
    """Scale to `height` (and, keeping proportions, at most `width`, centred on background)."""
    scale = height / image.shape[0]
    if width is not None:
        scale = min(scale, width / image.shape[1])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    scaled: Image = image if scale == 1 else np.asarray(cv2.resize(image, size, interpolation=how), np.uint8)
    if width is None:
        return scaled
    frame = np.full((height, width, 3), BACKGROUND, np.uint8)
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    frame[top : top + size[1], left : left + size[0]] = scaled
    return frame


def depth_image(depth: npt.NDArray[np.uint16], farthest_mm: int) -> Image:
    """(H, W) mm as (H, W, 3): near is yellow, `farthest_mm` and beyond blue, black where nothing was measured."""
    near = 255 - np.clip(depth * (255.0 / max(farthest_mm, 1)), 0, 255).astype(np.uint8)
    coloured = cv2.cvtColor(cv2.applyColorMap(near, cv2.COLORMAP_CIVIDIS), cv2.COLOR_BGR2RGB)
    return np.where(depth[..., None] > 0, coloured, 0).astype(np.uint8)


def row(images: Sequence[Image], height: int, *, labels: Sequence[str] = (), gap: int = 4) -> Image:
    """Images side by side at equal height, each with its name in the corner."""
    cells: list[Image] = []
    for index, image in enumerate(images):
        if index:
            cells.append(np.full((height, gap, 3), BACKGROUND, np.uint8))
        cell = fit(image, height)
        cells.append(tag(cell, labels[index]) if index < len(labels) else cell)
    return np.concatenate(cells, axis=1)


def tag(image: Image, text: str) -> Image:
    """A copy with `text` on a dark plate in the upper left corner."""
    label = _label(text, max(12, min(16, image.shape[0] // 16)))
    height, width = min(label.shape[0], image.shape[0]), min(label.shape[1], image.shape[1])
    out = image.copy()
    out[:height, :width] = label[:height, :width]
    return out


@lru_cache(maxsize=64)
def _label(text: str, size: int) -> Image:
    font = _font(size)
    box = font.getbbox(text)
    plate = Pil.new("RGB", (int(box[2]) + size, round(size * 1.7)), BACKGROUND)
    ImageDraw.Draw(plate).text((size // 2, plate.height // 2), text, INK, font, anchor="lm")
    return np.asarray(plate, np.uint8)


@lru_cache(maxsize=64)
def caption(width: int, left: str, right: str = "", *, height: int = 36, colour: tuple[int, int, int] = FAINT) -> Image:
    """A strip (height, width, 3): `left` in white, `right` at the other end in `colour`.

    What does not fit is shortened at the end of `left`.
    """
    font = _font(round(height * 0.46))
    pad = height // 3
    strip = Pil.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(strip)
    width_left = width - 2 * pad - (font.getlength(right) + pad if right else 0)
    if font.getlength(left) > width_left:
        while left and font.getlength(left + "…") > width_left:
            left = left[:-1]
        left += "…"
    draw.text((pad, height // 2), left, INK, font, anchor="lm")
    draw.text((width - pad, height // 2), right, colour, font, anchor="rm")
    return np.asarray(strip, np.uint8)


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # matplotlib's own copy of DejaVu: the same letters on every machine, no font package needed.
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
