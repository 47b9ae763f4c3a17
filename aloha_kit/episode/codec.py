"""Pictures to bytes and back: JPEG for colour, a lossless form for depth."""

from __future__ import annotations

import zlib
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from aloha_kit.core import EpisodeError
from aloha_kit.core.jpeg import jpeg_size

Image = npt.NDArray[np.uint8]
Depth = npt.NDArray[np.uint16]

_REDUCED = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}
DEPTH_LEVEL = 1  # deflate level: higher ones cost several times the CPU for a few per cent


JpegOrder = Literal["mobile_aloha", "standard"]
"""Which channels a file's JPEGs hold where an encoder expects blue, green, red.

"mobile_aloha": red, green, blue. Its recorder gives the encoder RGB, so `cv2.imdecode` gives RGB back,
which all readers of its files rely on; an ordinary viewer shows them with red and blue swapped.
"standard": JPEG as cameras and viewers know it, for pictures that are kept as the camera sent them.
"""


def encode_jpeg(image: Image, quality: int, order: JpegOrder = "mobile_aloha") -> Image:
    """JPEG bytes (N,) of an (H, W, 3) RGB picture. OpenCV releases the GIL while it encodes."""
    pixels = image if order == "mobile_aloha" else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    ok, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise EpisodeError(f"JPEG refused a picture of shape {image.shape}, {image.dtype}")
    return np.asarray(data, np.uint8).reshape(-1)


def decode_jpeg(
    data: Image | bytes, order: JpegOrder = "mobile_aloha", at_least: tuple[int, int] | None = None
) -> Image:
    """The (H, W, 3) RGB picture of a JPEG; zero padding is ignored.

    Given a size `at_least` (height, width), the decoder may halve the picture up to three times, as long as it stays
    that big and both sides divide evenly: it then transforms less and makes fewer pixels.

    Raises:
        EpisodeError: not a JPEG.
    """
    buffer = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
    flag = cv2.IMREAD_COLOR if at_least is None else _reduction(buffer, at_least)
    image = cv2.imdecode(buffer, flag) if buffer.size else None
    if image is None:
        raise EpisodeError(f"not a JPEG: {buffer.size} bytes beginning {bytes(buffer[:8]).hex(' ')}")
    return np.asarray(image if order == "mobile_aloha" else cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def _reduction(buffer: Image, at_least: tuple[int, int]) -> int:
    try:
        size = jpeg_size(buffer.tobytes())
    except ValueError:
        return cv2.IMREAD_COLOR  # damaged: the decoder will say so
    for factor, flag in _REDUCED.items():
        if all(have % factor == 0 and have // factor >= want for have, want in zip(size, at_least, strict=True)):
            return flag
    return cv2.IMREAD_COLOR


def encode_depth(depth: Depth) -> bytes:
    """Byte-shuffled and deflated: exactly the chunk that HDF5's shuffle and gzip filters would make,
    so the finished file takes it over without recompressing."""
    planes = np.ascontiguousarray(depth, "<u2").view(np.uint8).reshape(-1, 2).T
    return zlib.compress(planes.tobytes(), DEPTH_LEVEL)
