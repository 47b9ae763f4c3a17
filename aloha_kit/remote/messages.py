"""What goes over the wire: msgpack maps in which an array is its dtype, its shape and its bytes, all checked.

```
client                                     server
{kind: hello, protocol, token}        ->
                                      <-   {kind: welcome, contract, chunk_size, about}  or  {kind: refused, why}
{kind: reset}                         ->
{kind: predict, id, observation}      ->
                                      <-   {kind: chunk, id, actions (K, A), took_ms}    or  {kind: failed, id, why}
```
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import msgpack
import numpy as np
import numpy.typing as npt

from aloha_kit.core import AlohaKitError, Contract, Observation

PROTOCOL = 1
MAX_BYTES = 64 << 20  # of one message: four raw pictures of 1920 x 1080 and room to spare

_DTYPES = ("|b1", "|u1", "<u2", "<i4", "<i8", "<f4", "<f8")
_ARRAY, _JPEG = 1, 2  # msgpack's extension types
_MAX_DIMENSIONS = 4


class RemoteError(AlohaKitError):
    """The other side refused, failed, or does not speak our language."""


class ConnectionLostError(RemoteError, ConnectionError):
    """The other side is not there, or does not answer in time; it may be back later."""


class Jpeg(bytes):
    """A picture that travels compressed."""


def pack(message: dict[str, Any]) -> bytes:
    """One message as bytes; arrays of the usual types of numbers, `Jpeg`s and plain values may be nested in it."""
    return bytes(msgpack.packb(message, default=_plain, strict_types=True))


def unpack(data: Any) -> dict[str, Any]:
    """Inverse of `pack`; a `Jpeg` comes back as one. Whatever the bytes are, no code runs.

    Raises:
        RemoteError: text, damaged bytes, no map with a `kind`, or an array whose size is not its shape's.
    """
    if not isinstance(data, bytes):
        raise RemoteError("a message must be binary, given text")
    try:
        message = msgpack.unpackb(data, ext_hook=_extension, strict_map_key=True)
    except RemoteError:
        raise
    except Exception as error:  # msgpack's many, and UnicodeDecodeError
        raise RemoteError(f"a message of {len(data)} bytes cannot be read: {type(error).__name__}: {error}") from error
    if not isinstance(message, dict) or not isinstance(message.get("kind"), str):
        raise RemoteError(f"a message must be a map with a kind, given {type(message).__name__}")
    return message


def outgoing(observation: Observation, contract: Contract, quality: int | None) -> dict[str, Any]:
    """What a policy of `contract` needs of an observation, pictures as JPEG where the camera sent them so.

    Args:
        quality: of the JPEGs made of other pictures, 1 to 100; None sends them as they are.

    Raises:
        RemoteError: a camera that the policy needs is missing.
    """
    plain: dict[str, Any] = {key: value for key, value in observation.items() if isinstance(value, np.ndarray)}
    sent = observation.get("images_jpeg", {})
    pictures: dict[str, Any] = {}
    for name in contract.cameras:
        if name in sent:
            pictures[name] = Jpeg(sent[name])
        elif name in observation.get("images", {}):
            image = observation["images"][name]
            pictures[name] = image if quality is None else _compressed(image, quality)
        else:
            there = ", ".join(observation.get("images", {})) or "(none)"
            raise RemoteError(f"camera '{name}' is missing; there are: {there}")
    return {**plain, "images": pictures}


def incoming(values: Any) -> Observation:
    """The observation in a message, pictures decoded.

    Raises:
        RemoteError: not an observation, or a damaged picture.
    """
    if not isinstance(values, dict) or not isinstance(values.get("images"), dict):
        raise RemoteError("an observation must be a map with images")
    images = {name: _picture(name, image) for name, image in values["images"].items()}
    vectors = {key: value for key, value in values.items() if isinstance(value, np.ndarray)}
    return Observation(**{**vectors, "images": images, "stamps": {}})  # type: ignore[typeddict-item]


def _plain(value: Any) -> Any:
    if isinstance(value, Jpeg):
        return msgpack.ExtType(_JPEG, bytes(value))
    if isinstance(value, np.ndarray):
        array = np.ascontiguousarray(value)
        if array.dtype.str not in _DTYPES or array.ndim > _MAX_DIMENSIONS:
            raise RemoteError(f"an array of {array.dtype} with {array.ndim} dimensions cannot be sent")
        return msgpack.ExtType(_ARRAY, msgpack.packb([array.dtype.str, list(value.shape), array.tobytes()]))
    if isinstance(value, (np.integer, np.floating)):
        return value.item()
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, str):  # a version that is more than its text
        return str(value)
    raise RemoteError(f"a {type(value).__name__} cannot be sent")


def _extension(code: int, data: bytes) -> Any:
    if code == _JPEG:
        return Jpeg(data)
    if code != _ARRAY:
        raise RemoteError(f"a value of unknown type {code}")
    try:
        dtype, shape, content = msgpack.unpackb(data)
    except (ValueError, TypeError) as error:
        raise RemoteError(f"an array is dtype, shape and bytes: {error}") from error
    if dtype not in _DTYPES:
        raise RemoteError(f"an array of dtype {dtype!r}; known: {', '.join(_DTYPES)}")
    if not isinstance(shape, list) or len(shape) > _MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in shape):
        raise RemoteError(f"an array of shape {shape!r}; expected up to {_MAX_DIMENSIONS} whole numbers")
    expected = math.prod(shape) * np.dtype(dtype).itemsize
    if not isinstance(content, bytes) or len(content) != expected:
        given = f"{len(content)} bytes" if isinstance(content, bytes) else type(content).__name__
        raise RemoteError(f"an array of {dtype} {tuple(shape)} has {expected} bytes, given {given}")
    return np.frombuffer(content, dtype).reshape(shape).copy()  # the bytes themselves cannot be written to


def _compressed(image: npt.NDArray[np.uint8], quality: int) -> Jpeg:
    done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise RemoteError(f"a picture of {image.shape} {image.dtype} cannot become a JPEG")
    return Jpeg(data.tobytes())


def _picture(name: str, image: Any) -> npt.NDArray[np.uint8]:
    if isinstance(image, Jpeg):
        decoded = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR) if image else None
        if decoded is None:
            raise RemoteError(f"camera '{name}': {len(image)} bytes that are no JPEG")
        return np.asarray(decoded[..., ::-1], np.uint8)
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3:
        raise RemoteError(f"camera '{name}': a picture is a JPEG or (H, W, 3) uint8")
    return image
