"""Formats of stored images, and their conversion to (H, W, 3) uint8 RGB.

The format follows from the data (type, shape, values, the first bytes of a row), not from attributes. What can be
converted without a guess is converted and described in `ImageFormat.conversion`; everything else is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import h5py
import numpy as np
import numpy.typing as npt

from aloha_kit.core import EpisodeError
from aloha_kit.storage.codec import conversion_of, Depth, Image, image_kind

_CHANNELS = (1, 3, 4)
_SAMPLES = 8  # frames that are examined for the value range of a data set
_ROUNDING = 1e-6  # how far a float may be outside its range

Scale = Literal[1, 255]


@dataclass(frozen=True)
class ImageFormat:
    """Format of one camera's stored images.

    Attributes:
        encoded: every row is an encoded image (JPEG, PNG, WebP).
        channels_first: raw images are (channels, H, W).
        scale: factor of raw values: 255 for floats from 0 to 1.
        size: (height, width) of raw images; None for encoded ones, whose headers contain it.
        conversion: description of the conversion to (H, W, 3) uint8 RGB; empty where none is needed. Of encoded
            images it is taken from the first one.
        plain: stored as in our own files and the ALOHA family's: (H, W, 3) uint8, or padded JPEG rows.
    """

    encoded: bool
    channels_first: bool = False
    scale: Scale = 1
    size: tuple[int, int] | None = None
    conversion: str = ""
    plain: bool = False

    def to_rgb(self, frame: npt.NDArray[Any]) -> Image:
        """A raw frame as (H, W, 3) uint8 RGB.

        Raises:
            EpisodeError: values that cannot be converted without a loss; names them.
        """
        if not self.conversion:
            return np.asarray(frame, np.uint8)
        if frame.ndim == 2:
            frame = frame[..., None]
        elif self.channels_first:
            frame = np.moveaxis(frame, 0, -1)
        frame = as_bytes(frame, self.scale)
        return np.ascontiguousarray(np.repeat(frame, 3, axis=2) if frame.shape[2] == 1 else frame[..., :3])


def image_format(data: Any) -> ImageFormat:
    """Format of the images in the rows of an HDF5 data set.

    Rules, in this order: byte strings, opaque rows, rows of variable length and rows of rank 1 are encoded images.
    Raw images are (H, W), or have 1, 3 or 4 channels on the first or the last axis, whichever of the two it is.
    Integers are values from 0 to 255. Floats are from 0 to 1 and are multiplied by 255 and rounded (exact for k/255),
    or whole numbers from 0 to 255. Which of the two is decided by frames spread over the file; every frame is checked
    again when it is read. One channel is repeated three times, a fourth one (alpha) is dropped.

    Raises:
        EpisodeError: anything else; names type, shape and what was expected.
    """
    if is_encoded(data):
        row = encoded_row(data, 0) if len(data) else b""
        plain = data.dtype == np.uint8 and len(data.shape) == 2 and image_kind(row) == "jpeg"
        return ImageFormat(encoded=True, conversion=conversion_of(row), plain=plain)
    shape = tuple(data.shape)
    what = described(data)
    if 0 in shape[1:]:
        raise EpisodeError("images are {what}, without a pixel", what=what)
    if data.dtype.kind not in "uif":
        raise EpisodeError(
            "images are {what}, expected numbers from 0 to 255 or from 0 to 1, or encoded rows", what=what
        )
    if len(shape) not in (3, 4):
        raise EpisodeError("images are {what}, expected (frames, height, width, 3) or encoded rows", what=what)
    first, last = (len(shape) == 4 and axis in _CHANNELS for axis in (shape[1], shape[-1]))
    if first and last:
        raise EpisodeError(
            "images are {what}: either axis may be that of the channels, expected 1, 3 or 4 on one", what=what
        )
    if len(shape) == 4 and not (first or last):
        raise EpisodeError("images are {what}, expected 1, 3 or 4 channels on the first or the last axis", what=what)
    channels = 1 if len(shape) == 3 else shape[1] if first else shape[-1]
    scale, value_words = _values(data)
    words = [
        *(["channel axis moved to the end"] if first else []),
        *value_words,
        *({1: ["grey repeated in three channels"], 4: ["fourth channel dropped"]}.get(channels, [])),
    ]
    size = shape[2:4] if first else shape[1:3]
    conversion = f"{what} read as uint8 RGB: {', '.join(words)}" if words else ""
    return ImageFormat(False, first, scale, (int(size[0]), int(size[1])), conversion, plain=not words)


def described(data: Any) -> str:
    """Type and shape of a data set of frames, the number of frames left out."""
    return f"{data.dtype} (frames{''.join(f', {size}' for size in data.shape[1:])})"


def is_encoded(data: Any) -> bool:
    """Whether the rows of a data set are encoded images rather than pixels."""
    if data.dtype.kind in "SO" or (data.dtype.kind == "V" and data.dtype.names is None):
        return all(size == 1 for size in data.shape[1:])
    if data.dtype.itemsize != 1 or data.dtype.kind not in "ui":
        return False
    if len(data.shape) == 3 and 1 in data.shape[1:]:  # rows as older OpenCV gives them: (bytes, 1)
        return len(data) > 0 and image_kind(np.asarray(data[0]).tobytes()) is not None
    return len(data.shape) == 2


def encoded_row(data: Any, i: int) -> bytes:
    """Row i of a data set of encoded images, with the padding that it has there.

    Raises:
        EpisodeError: the row is text or numbers of more than a byte.
    """
    if data.dtype.kind == "S":  # read without conversion: HDF5 ends a C string at the first zero byte
        row = np.zeros(1, f"V{data.dtype.itemsize}")
        space = data.id.get_space()
        space.select_hyperslab((i, *(0,) * (len(data.shape) - 1)), (1,) * len(data.shape))
        data.id.read(h5py.h5s.create_simple((1,)), space, row, mtype=data.id.get_type())
        return row.tobytes()
    item = data[i : i + 1]
    if data.dtype.kind == "O":
        item = item.reshape(-1)[0]
        item = np.frombuffer(item, np.uint8) if isinstance(item, bytes) else item
        if not isinstance(item, np.ndarray) or item.dtype.itemsize != 1:
            raise EpisodeError(
                "rows are {kind}, expected bytes of encoded images", kind=getattr(item, "dtype", type(item).__name__)
            )
    return bytes(item.tobytes())


def as_bytes(values: npt.NDArray[Any], scale: Scale) -> Image:
    """Numbers as uint8: times `scale`, which must give whole numbers from 0 to 255 (floats from 0 to 1 are rounded).

    Raises:
        EpisodeError: values outside the range, or not whole, or not finite.
    """
    if values.dtype == np.uint8:
        return np.asarray(values, np.uint8)
    low, high = values.min(initial=0), values.max(initial=0)
    limit = 255 // scale
    if not (low >= -_ROUNDING and high <= limit + _ROUNDING):  # a NaN is not
        colour = ": 16-bit colour" if values.dtype == np.uint16 else ""
        raise EpisodeError(
            "{dtype} values from {low:g} to {high:g}{colour}, expected 0 to {limit}",
            dtype=values.dtype,
            low=low,
            high=high,
            colour=colour,
            limit=limit,
        )
    whole = np.rint(values.astype(np.float32) * scale) if values.dtype.kind == "f" else values
    if scale == 1 and values.dtype.kind == "f" and not np.allclose(whole, values, rtol=0, atol=1e-3):
        raise EpisodeError(
            "{dtype} values up to {high:g} that are not whole, expected 0 to 1, or whole ones",
            dtype=values.dtype,
            high=high,
        )
    return np.clip(whole, 0, 255).astype(np.uint8)


def depth_format(data: Any) -> str:
    """Description of the conversion of a data set's depth to uint16 mm; empty where none is needed.

    Raises:
        EpisodeError: neither numbers (H, W) or (H, W, 1), nor encoded rows.
    """
    if is_encoded(data):
        return f"{described(data)} read as 16-bit PNG of depth in mm"
    if data.dtype.kind not in "uif" or not (len(data.shape) == 3 or (len(data.shape) == 4 and data.shape[3] == 1)):
        raise EpisodeError("depth is {given}, expected uint16 (frames, height, width) in mm", given=described(data))
    return "" if data.dtype == np.uint16 else f"{described(data)} read as uint16 mm"


def as_depth(values: npt.NDArray[Any], *, rounded: bool) -> Depth:
    """Numbers as (H, W) uint16 mm; floats have to be whole, unless they may be `rounded` in this layout.

    Raises:
        EpisodeError: values that uint16 mm cannot hold.
    """
    values = values.reshape(values.shape[:2])
    if values.dtype == np.uint16:
        return np.asarray(values, np.uint16)
    low, high = values.min(initial=0), values.max(initial=0)
    if not (low >= 0 and high <= 65535):
        raise EpisodeError(
            "depth has {dtype} values from {low:g} to {high:g}, expected 0 to 65535 mm",
            dtype=values.dtype,
            low=low,
            high=high,
        )
    whole = np.rint(values)
    if not rounded and not (whole == values).all():
        raise EpisodeError(
            "depth has {dtype} values that are not whole, up to {high:g}: expected mm, not m",
            dtype=values.dtype,
            high=high,
        )
    return np.asarray(whole, np.uint16)


def _values(data: Any) -> tuple[Scale, list[str]]:
    """The scale of a raw data set's values, and a description of their conversion."""
    if data.dtype == np.uint8:
        return 1, []
    if data.dtype.kind != "f":
        for frame in _samples(data):
            as_bytes(frame, 1)
        return 1, ["values from 0 to 255 kept"]
    scale: Scale = 1 if any(frame.max(initial=0) > 1 + _ROUNDING for frame in _samples(data)) else 255
    exact = True
    for frame in _samples(data):
        levels = as_bytes(frame, scale)
        exact &= bool(np.allclose(levels / scale, frame, rtol=0, atol=1e-3))
    if scale == 1:
        return 1, ["values from 0 to 255 kept"]
    return 255, [f"values times 255{'' if exact else ', rounded'}"]


def _samples(data: Any) -> Iterator[npt.NDArray[Any]]:
    rows = len(data)
    for i in np.unique(np.linspace(0, max(rows - 1, 0), min(_SAMPLES, rows)).round().astype(int)).tolist():
        yield np.asarray(data[i])
