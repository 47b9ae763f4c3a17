"""RGB images to JPEG or PNG bytes and back, the properties in a JPEG's header, and the quality of what was encoded."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from aloha_kit.core.lang import Message

PIXELS = 1 << 26
"""Pixels of the largest image, 8192x8192: no camera has more, and a damaged header may."""
_START, _END = b"\xff\xd8\xff", b"\xff\xd9"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers that carry the size; the three are tables
_COMMENT = 0xFE
_APPLICATION, _EXIF = 0xE1, b"Exif\0"
_SCAN = 0xDA  # from here on it is image data
_FRACTIONS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


@dataclass(frozen=True)
class JpegHeader:
    """Size in pixels, number of channels, bits a channel, the comments that stand before the image data, and whether
    Exif does, which may say that the image is to be turned."""

    height: int
    width: int
    channels: int
    bits: int
    comments: tuple[bytes, ...]
    exif: bool


def is_jpeg(data: bytes) -> bool:
    """Whether `data` begins as a JPEG does."""
    return data[:3] == _START


def jpeg_header(data: bytes) -> JpegHeader:
    """The header of a JPEG; what follows it may be cut off.

    Raises:
        ValueError: not a JPEG, or one without a header.
    """
    if not is_jpeg(data):
        raise ValueError(Message("no JPEG: {count} bytes beginning {begin}", count=len(data), begin=data[:8].hex(" ")))
    comments: list[bytes] = []
    exif = False
    size: tuple[int, int, int, int] | None = None
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != _SCAN:
        marker = data[at + 1]
        if marker == 0xFF:  # one FF more than needed may stand before a marker
            at += 1
            continue
        body = data[at + 4 : at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")]
        if marker == _COMMENT:
            comments.append(body)
        elif marker == _APPLICATION:
            exif |= body.startswith(_EXIF)
        elif marker in _FRAMES and len(body) >= 6 and size is None:
            size = (int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big"), body[5], body[0])
        at += 4 + len(body)
    if size is None:
        raise ValueError(Message("a JPEG without a frame header: {count} bytes", count=len(data)))
    return JpegHeader(*size, tuple(comments), exif)


def jpeg_size(data: bytes) -> tuple[int, int]:
    """(height, width) of a whole JPEG.

    Raises:
        ValueError: not a JPEG, or one that was cut off.
    """
    if is_jpeg(data) and not data.rstrip(b"\0").endswith(_END):  # some cameras fill their buffer up with zeros
        raise ValueError(
            Message(
                "a JPEG that was cut off: {count} bytes ending {end}, expected ff d9",
                count=len(data),
                end=data[-4:].hex(" "),
            )
        )
    header = jpeg_header(data)
    return header.height, header.width


def encode_jpeg(image: npt.NDArray[np.uint8], quality: int, *, exchanged: bool = False) -> npt.NDArray[np.uint8]:
    """JPEG bytes (N,) of an (H, W, 3) RGB image. OpenCV releases the GIL while it encodes.

    Args:
        exchanged: give the encoder red for blue, as Mobile ALOHA's recorder does.

    Raises:
        ValueError: no such image.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(
            Message("JPEG takes (height, width, 3) uint8, given {shape} {dtype}", shape=image.shape, dtype=image.dtype)
        )
    pixels = image if exchanged else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(Message("JPEG refused an image of shape {shape}", shape=image.shape))
    return np.asarray(data, np.uint8).reshape(-1)


def encode_png(image: npt.NDArray[np.uint8]) -> bytes:
    """PNG bytes of an (H, W, 3) uint8 RGB image, at the fastest compression.

    Raises:
        ValueError: no such image.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(
            Message("PNG takes (height, width, 3) uint8, given {shape} {dtype}", shape=image.shape, dtype=image.dtype)
        )
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise ValueError(Message("PNG refused an image of shape {shape}", shape=image.shape))
    return bytes(data)


def encode_depth_png(depth: npt.NDArray[np.uint16]) -> bytes:
    """PNG bytes of an (H, W) uint16 depth image, at the fastest compression.

    Raises:
        ValueError: no such image.
    """
    if depth.ndim != 2 or depth.dtype != np.uint16 or not depth.size:
        raise ValueError(
            Message("depth is (height, width) uint16, given {shape} {dtype}", shape=depth.shape, dtype=depth.dtype)
        )
    done, data = cv2.imencode(".png", depth, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise ValueError(Message("PNG refused depth of shape {shape}", shape=depth.shape))
    return bytes(data)


def decode(data: bytes, flag: int = cv2.IMREAD_COLOR) -> npt.NDArray[Any] | None:
    """The pixels of an encoded image, blue first; None where OpenCV refuses it, also a size that no camera has."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error:
        return None


def decode_rgb(
    data: bytes,
    *,
    exchanged: bool = False,
    fraction: int = 1,
    header: JpegHeader | None = None,
    out: npt.NDArray[np.uint8] | None = None,
) -> npt.NDArray[np.uint8] | None:
    """The pixels of an encoded image of 8 bits per channel as (H, W, 3) RGB; None where it is refused.

    JPEG is decoded by a newer libjpeg-turbo than OpenCV's: the same pixels in less time, as benchmarks/jpeg_decoding.py
    shows. OpenCV decodes what that one warns of, what has to be turned, and what is larger than `PIXELS`.

    Args:
        exchanged: red and blue were exchanged before it was encoded.
        fraction: 2, 4 or 8 for a JPEG of which the decoder is to make a half, a quarter or an eighth in height and in
            width, which both have to be multiples of it.
        header: of the JPEG, where it was read before.
        out: (H, W, 3) of one piece, returned with the pixels where the image has its shape; a new array is otherwise.
    """
    if header is None and is_jpeg(data):
        with contextlib.suppress(ValueError):
            header = jpeg_header(data)
    if header is not None and not header.exif and header.height * header.width <= PIXELS:
        size = header.height // fraction, header.width // fraction
        least = {"min_height": size[0], "min_width": size[1]} if fraction > 1 else {}
        into = out if out is not None and out.shape == (*size, 3) else None
        with contextlib.suppress(ValueError, MemoryError):
            pixels = simplejpeg.decode_jpeg(
                data, "BGR" if exchanged else "RGB", min_factor=fraction, buffer=into, **least
            )
            return np.asarray(pixels, np.uint8) if into is None else into
    image = decode(data, _FRACTIONS[fraction])
    if image is None:
        return None
    if not exchanged:
        image = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
    if out is None or image.shape != out.shape:
        return image
    out[...] = image
    return out


def psnr(image: npt.NDArray[np.uint8], decoded: npt.NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of a decoded image, dB; 100 for equal ones."""
    error = float(np.mean((image.astype(np.float32) - decoded) ** 2))
    return 100.0 if error == 0 else min(100.0, 10 * float(np.log10(255**2 / error)))
