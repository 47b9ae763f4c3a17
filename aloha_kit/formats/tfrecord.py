"""TFRecord files of `tf.train.Example` messages, written and read without TensorFlow and in bounded memory.

A record is its length (8 bytes), the length's checksum, the message and its checksum, each a masked CRC-32C. A message
is a mapping from a name to a list of bytes, of floats or of whole numbers, in the wire format of protocol buffers. An
episode is one message, so images are written from files and read by their place.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
import numpy.typing as npt

from aloha_kit.core import EpisodeError
from aloha_kit.core.errors import reason
from aloha_kit.core.lang import Message

_BLOCK = 1 << 20
_MASK = 0xA282EAD8
_HEAD, _FOOT = 12, 4  # bytes around a message
_BYTES, _FLOATS, _INTS = 1, 2, 3  # fields of a `tf.train.Feature`

Value = npt.NDArray[Any] | list[bytes] | Path
"""Numbers, texts, or a file with the entries of a list as `list_entry` writes them."""
Place = tuple[int, int]
"""Begin and end of bytes in a file."""


class FileBytes:
    """Bytes of a file by their place. Only these are read; threads may share it.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)

    def __getitem__(self, place: slice) -> bytes:
        return os.pread(self._file.fileno(), place.stop - place.start, place.start)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def list_entry(data: bytes) -> bytes:
    """An entry of a list of bytes, as it stands in a message."""
    return _field(1, len(data)) + data


def write_record(path: Path, features: Mapping[str, Value]) -> None:
    """Write a file of one record."""
    parts: list[bytes | Path] = []
    length = 0
    for name, value in sorted(features.items()):
        kind, body, size = _encoded(value)
        key = name.encode()
        feature = _field(kind, size)
        entry = list_entry(key) + _field(2, len(feature) + size) + feature
        head = _field(1, len(entry) + size) + entry
        parts += [head, body]
        length += len(head) + size
    first = _field(1, length)
    stated = struct.pack("<Q", len(first) + length)
    crc = 0
    with path.open("wb") as file:
        file.write(stated + struct.pack("<I", _masked(google_crc32c.value(stated))))
        for part in [first, *parts]:
            for block in _blocks(part):
                crc = google_crc32c.extend(crc, block)
                file.write(block)
        file.write(struct.pack("<I", _masked(crc)))


def records(path: Path) -> list[Place]:
    """Places of the messages of a file.

    Raises:
        EpisodeError: it is cut, or a length is damaged.
    """
    found: list[Place] = []
    size = path.stat().st_size
    with path.open("rb") as file:
        at = 0
        while at < size:
            file.seek(at)
            head = file.read(_HEAD)
            sound = len(head) == _HEAD and struct.unpack("<I", head[8:])[0] == _masked(google_crc32c.value(head[:8]))
            end = at + _HEAD + (struct.unpack("<Q", head[:8])[0] if sound else size)
            if end + _FOOT > size:
                what = Message("is cut") if sound else Message("has a damaged length")
                raise EpisodeError(
                    "{path}: record {count} {what}, at byte {at}", path=path, count=len(found), what=what, at=at
                )
            found.append((at + _HEAD, end))
            at = end + _FOOT
    return found


def read_message(data: FileBytes, place: Place, where: str) -> dict[str, npt.NDArray[Any] | list[Place]]:
    """The features of a message: numbers as arrays, lists of bytes as their places.

    Args:
        data: the file.
        where: name of the record in messages.

    Raises:
        EpisodeError: its checksum differs, or it is no `tf.train.Example`.
    """
    begin, end = place
    crc = 0
    for at in range(begin, end, _BLOCK):
        crc = google_crc32c.extend(crc, data[at : min(at + _BLOCK, end)])
    if struct.unpack("<I", data[end : end + _FOOT])[0] != _masked(crc):
        raise EpisodeError("{where} is damaged: its checksum differs", where=where)
    try:
        found = {}
        for _, features in _fields(data, begin, end):
            for _, entry in _fields(data, *features):
                parts = dict(_fields(data, *entry))
                name = data[slice(*parts[1])].decode()
                found[name] = _decoded(data, parts[2]) if 2 in parts else []
        return found
    except (ValueError, LookupError, TypeError, struct.error) as error:
        raise EpisodeError("{where} is no tf.train.Example: {error}", where=where, error=reason(error)) from error


def _encoded(value: Value) -> tuple[int, bytes | Path, int]:
    """Field of a feature, its list, and the list's size in bytes."""
    if isinstance(value, Path):
        return _BYTES, value, value.stat().st_size
    if isinstance(value, list):
        body = b"".join(map(list_entry, value))
        return _BYTES, body, len(body)
    if value.dtype.kind == "f":
        body = list_entry(np.ascontiguousarray(value, "<f4").tobytes())
        return _FLOATS, body, len(body)
    body = list_entry(b"".join(_varint(int(number) & (1 << 64) - 1) for number in value.reshape(-1)))
    return _INTS, body, len(body)


def _decoded(data: FileBytes, place: Place) -> npt.NDArray[Any] | list[Place]:
    ((kind, items),) = list(_fields(data, *place)) or [(_BYTES, (0, 0))]
    entries = [entry for _, entry in _fields(data, *items, numbers=kind != _BYTES)]
    if kind == _BYTES:
        return entries
    packed = b"".join(data[begin:end] for begin, end in entries)
    if kind == _FLOATS:
        return np.frombuffer(packed, "<f4")
    found, at = [], 0
    while at < len(packed):
        number, at = _read_varint(packed, at)
        found.append(number - (1 << 64) if number >> 63 else number)
    return np.array(found, np.int64)


def _fields(data: FileBytes, begin: int, end: int, *, numbers: bool = False) -> Iterator[tuple[int, Place]]:
    """{field: its place} of a message; with `numbers` also fields of single numbers, which are not packed."""
    while begin < end:
        tag, begin = _read_varint(data, begin)
        kind, size = tag & 7, 4
        if kind == 2:
            size, begin = _read_varint(data, begin)
        elif numbers and kind == 0:
            size = _read_varint(data, begin)[1] - begin
        elif not numbers or kind != 5:
            raise ValueError(f"a field of type {kind} at byte {begin}")
        if begin + size > end:
            raise ValueError(f"a field of {size} bytes at byte {begin}")
        yield tag >> 3, (begin, begin + size)
        begin += size


def _field(number: int, length: int) -> bytes:
    return bytes([number << 3 | 2]) + _varint(length)


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def _read_varint(data: FileBytes | bytes, at: int) -> tuple[int, int]:
    """A number of up to ten bytes, and the place behind it."""
    number = 0
    for i, byte in enumerate(data[at : at + 10]):
        number |= (byte & 127) << 7 * i
        if byte < 128:
            return number, at + i + 1
    raise ValueError(f"no number at byte {at}")


def _masked(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def _blocks(part: bytes | Path) -> Iterator[bytes]:
    if isinstance(part, bytes):
        yield part
        return
    with part.open("rb") as file:
        yield from iter(lambda: file.read(_BLOCK), b"")


def append(path: Path, target: BinaryIO) -> int:
    """Append a file to an open one; returns its size."""
    size = 0
    for block in _blocks(path):
        size += target.write(block)
    return size
