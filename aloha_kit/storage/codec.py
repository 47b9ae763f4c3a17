"""Image codecs: JPEG for colour (PNG and WebP are read too), a lossless form for depth."""

from __future__ import annotations

import zlib
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from aloha_kit.core import EpisodeError, jpeg
from aloha_kit.core.jpeg import is_jpeg, jpeg_header, JpegHeader

Image = npt.NDArray[np.uint8]
Depth = npt.NDArray[np.uint16]

_FRACTIONS = (8, 4, 2)  # of a JPEG's height and width, which the decoder can make at once
_PNG, _PNG_DEPTH = b"\x89PNG\r\n\x1a\n", 24  # its first bytes, and the offset of its bits per channel
_ENDS = {"jpeg": b"\xff\xd9", "png": b"IEND\xaeB`\x82"}
_OTHERS = {
    b"BM": "a BMP",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"GIF8": "a GIF",
    b"P5\n": "a PGM",
    b"P6\n": "a PPM",
    b"v/1\x01": "an OpenEXR",
    b"\0\0\0\x0cjP": "a JPEG 2000",
    b"\x93NUMPY": "a NumPy array",
}  # by their first bytes: named, not read
_RGB_COMMENT = b"XPL-RGB1"  # XPolicyLab's mark of an ordinary JPEG; without it, its files have Mobile ALOHA's order
DEPTH_LEVEL = 1  # deflate level: higher ones cost several times the CPU for a few per cent

ImageKind = Literal["jpeg", "png", "webp"]

JpegOrder = Literal["mobile_aloha", "standard"]
"""Channel order of a file's encoded images: what is stored where an encoder expects blue, green, red.

"mobile_aloha": red, green, blue. Its recorder gives the encoder RGB, so `cv2.imdecode` gives RGB back,
which all readers of its files rely on; an ordinary viewer shows them with red and blue swapped.
"standard": ordinary JPEG as cameras write and viewers read it, for images that are saved as the camera sent them.
"""


def resize(image: Image, size: tuple[int, int]) -> Image:
    """An (H, W, 3) image at another (height, width): by the mean over areas where that is smaller, else bilinear."""
    height, width = size
    smaller = image.shape[0] * image.shape[1] > height * width
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), np.uint8)


def encode_jpeg(image: Image, quality: int, order: JpegOrder = "mobile_aloha") -> Image:
    """JPEG bytes (N,) of an (H, W, 3) RGB image."""
    try:
        return jpeg.encode_jpeg(image, quality, exchanged=order == "mobile_aloha")
    except ValueError as error:
        raise EpisodeError(str(error)) from None


def image_kind(data: bytes) -> ImageKind | None:
    """Kind of encoded image by its first bytes; None for anything else."""
    if is_jpeg(data):
        return "jpeg"
    if data[:8] == _PNG:
        return "png"
    return "webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def conversion_of(data: bytes) -> str:
    """Description of an encoded image's conversion to three RGB channels; empty where none is needed."""
    kind, header = image_kind(data), _jpeg_header(data)
    if header is not None and header.channels == 1:
        return "JPEG of one channel read as RGB: grey repeated in three channels"
    colour = data[_PNG_DEPTH + 1] if kind == "png" and len(data) > _PNG_DEPTH + 1 else 2
    flags = {b"VP8X": (20, 0x10), b"VP8L": (24, 0x10)}  # of a WebP: offset and bit of its transparency flag
    at, bit = flags.get(data[12:16], (0, 0)) if kind == "webp" and len(data) >= 30 else (0, 0)
    alpha = bool(bit and data[at] & bit)
    words = ["grey repeated in three channels"] if colour in (0, 4) else ["palette looked up"] if colour == 3 else []
    words += ["transparency dropped"] if colour in (4, 6) or alpha else []
    return f"{'PNG' if kind == 'png' else 'WebP'} read as RGB: {', '.join(words)}" if words else ""


def unpadded(data: bytes) -> bytes:
    """An encoded image without the zeros behind it. A WebP may itself end in one, and contains its length."""
    if image_kind(data) == "webp":
        length = 8 + int.from_bytes(data[4:8], "little")
        return data[:length].ljust(length, b"\0") if length <= len(data) + 8 else data
    return data.rstrip(b"\0")


def whole(data: bytes) -> bool:
    """Whether an encoded image without padding is complete."""
    kind = image_kind(data)
    return kind == "webp" or (kind is not None and data.endswith(_ENDS[kind]))


def jpeg_order_of(data: bytes) -> JpegOrder | None:
    """Channel order marked in an encoded image by XPolicyLab's comment; None without one."""
    header = _jpeg_header(data)
    return "standard" if header is not None and _RGB_COMMENT in header.comments else None


def decode_image(
    data: Image | bytes,
    order: JpegOrder = "mobile_aloha",
    at_least: tuple[int, int] | None = None,
    out: Image | None = None,
) -> Image:
    """Decode a JPEG, PNG or WebP of 8 bits per channel to (H, W, 3) RGB; padding is ignored.

    Grey is repeated in three channels, transparency is dropped. Given a size `at_least` (height, width), a JPEG may be
    halved up to three times, as long as it stays that big and both sides divide evenly: the decoder then transforms
    less and makes fewer pixels. Given `out` (height, width, 3), the image is written there and `out` returned where
    that is its shape.

    Raises:
        EpisodeError: none of these, damaged, of more than 8 bits, or CMYK.
    """
    held = unpadded(data if isinstance(data, bytes) else data.tobytes())
    kind, fraction = image_kind(held), 1
    if kind is None:
        what = next((f" but {name}" for begin, name in _OTHERS.items() if held.startswith(begin)), "")
        raise EpisodeError(
            "not a JPEG, PNG or WebP{what}: {count} bytes beginning {begin}",
            what=what,
            count=len(held),
            begin=held[:8].hex(" "),
        )
    header = _jpeg_header(held)
    if header is not None:  # a damaged one has none; the decoder refuses it below
        if header.bits != 8 or header.channels not in (1, 3):
            raise EpisodeError(
                "a JPEG of {channels} channels of {bits} bits, expected 1 or 3 of 8",
                channels=header.channels,
                bits=header.bits,
            )
        fraction = _fraction((header.height, header.width), at_least)
        order = "standard" if _RGB_COMMENT in header.comments else order
    elif kind == "png" and len(held) > _PNG_DEPTH and held[_PNG_DEPTH] > 8:
        raise EpisodeError("a PNG of {bits} bits a channel, expected 8", bits=held[_PNG_DEPTH])
    _require_possible((header.height, header.width) if header is not None else encoded_size(held))
    image = jpeg.decode_rgb(held, exchanged=order == "mobile_aloha", fraction=fraction, header=header, out=out)
    if image is None:
        raise EpisodeError(
            "not a whole {kind}: {count} bytes beginning {begin}",
            kind=kind.upper(),
            count=len(held),
            begin=held[:8].hex(" "),
        )
    return image


def decode_depth(data: bytes) -> Depth:
    """Decode a depth image from 16-bit PNG to (H, W) uint16.

    Raises:
        EpisodeError: not a 16-bit PNG of one channel, or damaged.
    """
    held = unpadded(data)
    image = None
    if image_kind(held) == "png":
        _require_possible(encoded_size(held))
        image = jpeg.decode(held, cv2.IMREAD_UNCHANGED)
    if image is None:
        raise EpisodeError(
            "depth is no whole PNG: {count} bytes beginning {begin}", count=len(held), begin=held[:8].hex(" ")
        )
    if image.dtype != np.uint16 or image.ndim != 2:
        raise EpisodeError(
            "depth is a PNG of {dtype} {shape}, expected 16 bits and one channel", dtype=image.dtype, shape=image.shape
        )
    return np.asarray(image, np.uint16)


def _require_possible(size: tuple[int, int] | None) -> None:
    """Raise `EpisodeError` where a header gives a (height, width) beyond any camera's, before memory is allocated."""
    if size is not None and size[0] * size[1] > jpeg.PIXELS:
        raise EpisodeError(
            "its header gives {height}x{width} pixels (height x width), expected at most {pixels}",
            height=size[0],
            width=size[1],
            pixels=jpeg.PIXELS,
        )


def encoded_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) in the header of an encoded image; None where it has none."""
    kind = image_kind(data)
    if kind == "jpeg":
        header = _jpeg_header(data)
        return (header.height, header.width) if header else None
    if kind == "png" and len(data) >= 24:
        return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")
    if kind == "webp" and len(data) >= 30:
        form = data[12:16]
        if form == b"VP8X":
            return 1 + int.from_bytes(data[27:30], "little"), 1 + int.from_bytes(data[24:27], "little")
        if form == b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
        if form == b"VP8 ":
            return int.from_bytes(data[28:30], "little") & 0x3FFF, int.from_bytes(data[26:28], "little") & 0x3FFF
    return None


def _jpeg_header(data: bytes) -> JpegHeader | None:
    try:
        return jpeg_header(data)
    except ValueError:
        return None


def _fraction(size: tuple[int, int], at_least: tuple[int, int] | None) -> int:
    """The largest of `_FRACTIONS` that divides (height, width) evenly and leaves `at_least`; 1 where none does."""
    height, width = at_least or size
    for fraction in _FRACTIONS:
        enough = size[0] >= height * fraction and size[1] >= width * fraction
        if enough and size[0] % fraction == 0 and size[1] % fraction == 0:
            return fraction
    return 1


def encode_depth(depth: Depth) -> bytes:
    """Compress a depth image by byte shuffle and deflate: exactly the chunk that HDF5's shuffle and gzip filters
    would make, so the finished file takes it over without recompressing."""
    planes = np.ascontiguousarray(depth, "<u2").view(np.uint8).reshape(-1, 2).T
    return zlib.compress(planes.tobytes(), DEPTH_LEVEL)
