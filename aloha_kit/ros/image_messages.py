"""Image messages of arrays, to publish them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import CompressedImage
from sensor_msgs.msg import Image as ImageMessage

from aloha_kit.sync.images import encode, Image


def to_image(array: npt.NDArray[Any], encoding: str, stamp_ns: int, frame_id: str = "") -> Any:
    """Make a sensor_msgs/Image of an array in the layout of `encoding`: (H, W, C) uint8, or (H, W) with one channel."""
    order = "<" if array.dtype.byteorder in "=|" else array.dtype.byteorder
    data = np.ascontiguousarray(array, array.dtype.newbyteorder(order))
    message = ImageMessage(height=array.shape[0], width=array.shape[1], encoding=encoding, is_bigendian=order == ">")
    message.step = data.nbytes // max(1, message.height)
    message.data = data.tobytes()
    return _stamped(message, stamp_ns, frame_id)


def to_compressed(image: Image | bytes, stamp_ns: int, quality: int = 95, frame_id: str = "") -> Any:
    """Make a sensor_msgs/CompressedImage of an RGB image, or of bytes that are a JPEG already."""
    data = image if isinstance(image, bytes) else encode(image, quality)
    return _stamped(CompressedImage(format="rgb8; jpeg compressed bgr8", data=data), stamp_ns, frame_id)


def _stamped(message: Any, stamp_ns: int, frame_id: str) -> Any:
    message.header.stamp.secs, message.header.stamp.nsecs = divmod(stamp_ns, 1_000_000_000)
    message.header.frame_id = frame_id
    return message
