"""Messages between robot and policy server: msgpack maps; an array is its dtype, its shape and its bytes, all checked.

```
client                                     server
{kind: hello, protocol, token}        ->
                                      <-   {kind: welcome, contract, chunk_size, about}  or  {kind: refused, why}
{kind: reset}                         ->
{kind: predict, id, observation,      ->
 seed [rollout, inference]}
                                      <-   {kind: chunk, id, actions (K, A), took_ms}    or  {kind: failed, id, why}
```
"""

from __future__ import annotations

import math
from typing import Any

import msgpack
import numpy as np

from aloha_kit.core import AlohaKitError

MAX_TOKEN = 1024  # bytes: a hello is small

_DTYPES = ("|b1", "|u1", "<u2", "<i4", "<i8", "<f4", "<f8")
_ARRAY, _JPEG = 1, 2  # msgpack's extension types
_MAX_DIMENSIONS = 4
# a byte of msgpack can become an object of 60 bytes, so that what a message's size allows is far too much
_MAX_DEPTH = 8
_MAX_OBJECTS = 500  # maps, lists and arrays of one message
_MAX_LENGTHS = {"max_array_len": 256, "max_map_len": 128, "max_str_len": 1 << 16, "max_bin_len": 1 << 16}
_MAX_ARRAY_LENGTHS = {"max_array_len": _MAX_DIMENSIONS, "max_map_len": 0, "max_str_len": 8, "max_ext_len": 0}


class RemoteError(AlohaKitError):
    """The other side refused, failed, or does not follow the protocol."""


class ConnectionLostError(RemoteError, ConnectionError):
    """The other side is not there, or does not answer in time; it may be back later."""


class Jpeg(bytes):
    """An image that travels compressed."""


def pack(message: dict[str, Any]) -> bytes:
    """One message as bytes; arrays of the usual types of numbers, `Jpeg`s and plain values may be nested in it."""
    return bytes(msgpack.packb(message, default=_plain, strict_types=True))


def unpack(data: Any) -> dict[str, Any]:
    """Inverse of `pack`; a `Jpeg` comes back as one. Whatever the bytes are, no code runs.

    Raises:
        RemoteError: text, damaged bytes, no map with a `kind`, an array whose size is not its shape's, or more
            nesting, more objects or longer ones than a message has.
    """
    if not isinstance(data, bytes):
        raise RemoteError("a message must be binary, given text")
    count = 0

    def counted(value: Any) -> Any:
        nonlocal count
        count += 1
        if count > _MAX_OBJECTS:
            raise RemoteError("a message of more than {most} maps, lists and arrays", most=_MAX_OBJECTS)
        return value

    try:
        message = msgpack.unpackb(
            data, ext_hook=lambda code, content: counted(_extension(code, content)), object_hook=counted,
            list_hook=counted, strict_map_key=True, **_MAX_LENGTHS,
        )  # fmt: skip
    except RemoteError:
        raise
    except Exception as error:  # msgpack's many, and UnicodeDecodeError
        raise RemoteError(
            "a message of {count} bytes cannot be read: {type}: {error}",
            count=len(data),
            type=type(error).__name__,
            error=quoted(error),
        ) from error
    if not isinstance(message, dict) or not isinstance(message.get("kind"), str):
        raise RemoteError("a message must be a map with a kind, given {type}", type=type(message).__name__)
    _require_plain(message, _MAX_DEPTH)
    return message


def quoted(words: object, limit: int = 100) -> str:
    """At most `limit` characters of what the other side wrote, without characters that control a terminal or a log."""
    text = str(words)
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:limit])
    return safe if len(safe) <= limit and len(text) <= limit else f"{safe[: limit - 1]}…"


def _plain(value: Any) -> Any:
    if isinstance(value, Jpeg):
        return msgpack.ExtType(_JPEG, bytes(value))
    if isinstance(value, np.ndarray):
        array = np.ascontiguousarray(value)
        if array.dtype.str not in _DTYPES or array.ndim > _MAX_DIMENSIONS:
            raise RemoteError(
                "an array of {dtype} with {ndim} dimensions cannot be sent", dtype=array.dtype, ndim=array.ndim
            )
        return msgpack.ExtType(_ARRAY, msgpack.packb([array.dtype.str, list(value.shape), array.tobytes()]))
    if isinstance(value, (np.integer, np.floating)):
        return value.item()
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, str):  # a version that is more than its text
        return str(value)
    raise RemoteError("a {type} cannot be sent", type=type(value).__name__)


def _extension(code: int, data: bytes) -> Any:
    if code == _JPEG:
        return Jpeg(data)
    if code != _ARRAY:
        raise RemoteError("a value of unknown type {type}", type=code)
    try:
        dtype, shape, content = msgpack.unpackb(data, **_MAX_ARRAY_LENGTHS)
    except Exception as error:  # as above
        raise RemoteError("an array is dtype, shape and bytes: {error}", error=quoted(error)) from error
    if dtype not in _DTYPES:
        raise RemoteError(
            "an array of dtype {dtype}; known: {known}", dtype=quoted(repr(dtype)), known=", ".join(_DTYPES)
        )
    if not isinstance(shape, list) or len(shape) > _MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in shape):
        raise RemoteError(
            "an array of shape {shape}; expected up to {most} whole numbers",
            shape=quoted(repr(shape)),
            most=_MAX_DIMENSIONS,
        )
    expected = math.prod(shape) * np.dtype(dtype).itemsize
    if not isinstance(content, bytes) or len(content) != expected:
        given = f"{len(content)} bytes" if isinstance(content, bytes) else type(content).__name__
        raise RemoteError(
            "an array of {dtype} {shape} has {expected} bytes, given {given}",
            dtype=dtype,
            shape=tuple(shape),
            expected=expected,
            given=given,
        )
    return np.frombuffer(content, dtype).reshape(shape).copy()  # the bytes themselves cannot be written to


def _require_plain(value: Any, depth: int) -> None:
    if isinstance(value, dict | list):
        if not depth:
            raise RemoteError("a message nested more than {most} deep", most=_MAX_DEPTH)
        for item in value.values() if isinstance(value, dict) else value:
            _require_plain(item, depth - 1)
    elif not isinstance(value, np.ndarray | bytes | str | int | float | None):
        raise RemoteError("a value of type {type}", type=type(value).__name__)
