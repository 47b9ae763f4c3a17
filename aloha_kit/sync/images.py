"""Conversion of ROS image messages to arrays. Not cv_bridge: Debian's breaks on a newer numpy.

Messages are taken by their fields, so reading them needs no ROS.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from aloha_kit.core import did_you_mean, jpeg, ReadingError, StreamError
from aloha_kit.core.jpeg import is_jpeg, jpeg_size
from aloha_kit.core.lang import Message

Image = npt.NDArray[np.uint8]
Depth = npt.NDArray[np.uint16]

# {encoding: (bytes a pixel, OpenCV's conversion to RGB)}; "yuv422" is what ROS calls UYVY
COLOURS: dict[str, tuple[int, int | None]] = {
    "rgb8": (3, None),
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, cv2.COLOR_GRAY2RGB),
    "yuyv": (2, cv2.COLOR_YUV2RGB_YUYV),
    "yuv422_yuy2": (2, cv2.COLOR_YUV2RGB_YUYV),
    "uyvy": (2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422": (2, cv2.COLOR_YUV2RGB_UYVY),
}
DEPTHS = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4"}  # mm, mm, m


def decode(message: Any) -> Image:
    """Decode a sensor_msgs Image or CompressedImage to a new (H, W, 3) uint8 RGB array.

    Raises:
        ReadingError: a JPEG that was cut off; the next one may be whole.
        StreamError: an unknown encoding (lists the known ones), or data that do not fit it.
    """
    if not _compressed(message):
        size, conversion = _known(message.encoding, COLOURS)
        pixels = _rows(message, size)
        return np.array(pixels) if conversion is None else np.asarray(cv2.cvtColor(pixels, conversion), np.uint8)
    _require_whole(message.data)
    image = jpeg.decode_rgb(bytes(message.data), exchanged=_swapped(message))
    if image is None:
        raise StreamError(_undecodable(message))
    return image


def decode_depth(message: Any) -> Depth:
    """Decode depth to (H, W) uint16 mm from an Image of 16UC1 (mm) or 32FC1 (m), or a 16-bit PNG; 0 means unknown.

    Raises:
        StreamError: another encoding, or data that do not fit it.
    """
    if _compressed(message):
        _require_whole(message.data)
        start = max(0, bytes(message.data[:64]).find(b"\x89PNG"))  # compressedDepth puts 12 bytes before it
        image = jpeg.decode(message.data[start:], cv2.IMREAD_UNCHANGED)
        if image is None or image.dtype != np.uint16 or image.ndim != 2:
            raise StreamError("depth has to be a PNG of 16 bits in mm; {given}", given=_undecodable(message))
        return np.asarray(image, np.uint16)
    kind = np.dtype(_known(message.encoding, DEPTHS)).newbyteorder(">" if message.is_bigendian else "<")
    values = np.ascontiguousarray(_rows(message, kind.itemsize)).view(kind)[..., 0]
    if kind.kind == "f":
        finite = np.where(np.isfinite(values), values, 0.0)
        return np.asarray(np.clip(np.rint(finite * 1000.0), 0, 65535), np.uint16)
    return np.array(values, np.uint16)


def size(message: Any) -> tuple[int, int]:
    """(height, width) of an image without decoding its pixels, where it is an Image or a JPEG."""
    if not _compressed(message):
        return int(message.height), int(message.width)
    if is_jpeg(message.data):
        return _require_whole(message.data)
    height, width = decode(message).shape[:2]
    return height, width


def jpeg_bytes(message: Any) -> bytes | None:
    """JPEG bytes of a message, unchanged; None where it holds no ordinary JPEG."""
    if not _compressed(message) or not is_jpeg(message.data) or _swapped(message):
        return None
    return bytes(message.data)


def jpegs(messages: Mapping[str, Any]) -> dict[str, bytes]:
    """`images_jpeg` of an observation: {camera: JPEG} of the cameras that sent one."""
    found = {name: jpeg_bytes(message) for name, message in messages.items()}
    return {name: data for name, data in found.items() if data is not None}


class LazyImages(Mapping[str, Image]):
    """`images` of an observation: {camera: message} as {camera: (H, W, 3) uint8 RGB}.

    An image is decoded at its first access and cached.
    """

    def __init__(self, messages: Mapping[str, Any]) -> None:
        self._messages = dict(messages)
        self._decoded: dict[str, Image] = {}

    def __getitem__(self, name: str) -> Image:
        if name not in self._decoded:
            try:
                self._decoded[name] = decode(self._messages[name])
            except StreamError as error:
                raise StreamError("camera '{name}': {error}", name=name, error=error) from error
        return self._decoded[name]

    def __contains__(self, name: object) -> bool:  # Mapping's default would decode the image
        return name in self._messages

    def __iter__(self) -> Iterator[str]:
        return iter(self._messages)

    def __len__(self) -> int:
        return len(self._messages)


def encode(image: Image, quality: int = 95) -> bytes:
    """Encode an (H, W, 3) RGB image as an ordinary JPEG. OpenCV releases the GIL meanwhile."""
    return jpeg.encode_jpeg(image, quality).tobytes()


def _compressed(message: Any) -> bool:
    return not hasattr(message, "encoding")


def _swapped(message: Any) -> bool:
    """Whether red and blue were swapped before compression; ordinary images have "bgr8" there, or nothing."""
    return "compressed rgb" in message.format


def _known(encoding: str, known: Mapping[str, Any]) -> Any:
    if encoding not in known:
        raise StreamError(
            "images of encoding '{encoding}' cannot be read. {known}",
            encoding=encoding,
            known=did_you_mean(encoding, known),
        )
    return known[encoding]


def _rows(message: Any, size: int) -> Image:
    """(H, W, size) bytes of the pixels: a view without the padding at the rows' ends."""
    height, width, step = message.height, message.width, message.step
    data = np.frombuffer(message.data, np.uint8)
    if step < width * size or len(data) < step * height or not height or not width:
        raise StreamError(
            "an image of {height} rows, {width} columns, {encoding} and {step} bytes a row cannot have "
            "{count} bytes; expected {expected} and any padding",
            height=height,
            width=width,
            encoding=message.encoding,
            step=step,
            count=len(data),
            expected=height * width * size,
        )
    return data[: step * height].reshape(height, step)[:, : width * size].reshape(height, width, size)


def _require_whole(data: bytes) -> tuple[int, int]:
    """Require a whole JPEG: (height, width), or (0, 0) for other formats. Decoders fill a truncated JPEG with grey."""
    if not data:
        raise ReadingError("the camera sent an empty message")
    if not is_jpeg(data):
        return 0, 0
    try:
        return jpeg_size(data)
    except ValueError as error:
        raise ReadingError("the camera sent {error}", error=error) from None


def _undecodable(message: Any) -> Message:
    return Message(
        "{count} bytes of '{format}' beginning {begin} are none",
        count=len(message.data),
        format=message.format,
        begin=bytes(message.data[:8]).hex(" "),
    )
