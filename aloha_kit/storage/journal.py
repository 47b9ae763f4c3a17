"""Append-only journal of a recording, valid after every write.

    preamble (16 bytes)   record   record   record …
    record: kind (4 bytes) · sequence number u32 · payload length u32 · CRC-32 u32 · payload

The CRC covers the other header fields and the payload. Kinds: `AKRh` header (JSON, first), `AKRs` one row
(the fixed record, a u32 length for each image, the images), `AKRe` how the episode ended (JSON).
A reader takes the longest prefix of intact records; an incomplete or damaged one ends it, and so does an end record
that contradicts the rows before it. An HDF5 file does not offer this: after a kill between flushes it is unreadable,
and padded JPEG needs lengths that are known only at the end.
"""

from __future__ import annotations

import json
import math
import os
import struct
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.core import Contract, ContractError, EpisodeError
from aloha_kit.core.errors import reason
from aloha_kit.core.versions import JOURNAL
from aloha_kit.storage.rows import RowLayout

_NAME = b"aloha_kit jrnl"
PREAMBLE = _NAME + JOURNAL + b"\n"
HEADER, STEP, END = b"AKRh", b"AKRs", b"AKRe"
_KINDS = (HEADER, STEP, END)
_MARK = b"AKR"  # with which all of them begin
_SEARCHED = 1 << 20  # bytes looked through at a time
_HEAD = struct.Struct("<4sIII")
_HEADER_KEYS = {"task", "rig", "sim", "instruction", "describe", "quality", "created", "software", "id"}
_DAMAGE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)  # of JSON
_MAX_FIXED = 1 << 26  # bytes of a row without its images
_MAX_RECORD = 1 << 30  # a length beyond this is damage, not a row

_END_KINDS: dict[str, Any] = {
    "success": (bool, NoneType), "reason": str, "error": bool, "final_reward": (int, float), "max_reward": (int, float),
    "stalls": int, "describe": dict,
}  # fmt: skip

Bytes = bytes | memoryview | npt.NDArray[Any]


class Journal:
    """Appends records to an open, empty file; one thread at a time."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._end = 0
        self._sequence = 0
        self._write([PREAMBLE])

    def append(self, kind: bytes, parts: Sequence[Bytes]) -> int:
        """Add one record; return where it begins.

        Raises:
            OSError: it could not be written; the file ends after the record before.
        """
        views = [view for view in map(_view, parts) if len(view)]
        length = sum(len(view) for view in views)
        crc = zlib.crc32(_HEAD.pack(kind, self._sequence, length, 0))
        for view in views:
            crc = zlib.crc32(view, crc)
        begin = self._end
        self._write([_HEAD.pack(kind, self._sequence, length, crc), *views])
        self._sequence += 1
        return begin

    def append_json(self, kind: bytes, value: Any) -> int:
        """Add one record of JSON."""
        return self.append(kind, [json.dumps(value).encode()])

    def sync(self) -> None:
        """Write everything appended so far to the disk, so that it survives a power cut."""
        os.fdatasync(self._fd)

    def _write(self, parts: Sequence[bytes | memoryview]) -> None:
        left = [memoryview(part) for part in parts]
        try:
            while left:
                written = os.writev(self._fd, left[:512])
                while left and written >= len(left[0]):
                    written -= len(left.pop(0))
                if written:
                    left[0] = left[0][written:]
        except OSError:
            os.ftruncate(self._fd, self._end)
            os.lseek(self._fd, self._end, os.SEEK_SET)
            raise
        self._end += sum(len(part) for part in parts)


@dataclass
class Contents:
    """Contents of a journal: offsets of its rows and the longest image of each camera."""

    header: dict[str, Any]
    layout: RowLayout
    rows: array[int] = field(default_factory=lambda: array("Q"))  # offset of each row's record
    longest: list[int] = field(default_factory=list)  # bytes of the longest image a camera, depth after colour
    end: dict[str, Any] | None = None
    cut: int = 0  # rows that its end left out
    good_bytes: int = 0
    total_bytes: int = 0
    problem: str = ""  # why reading stopped before the end of the file
    torn: bool = True  # after the intact bytes there is at most one record that was never finished

    def __post_init__(self) -> None:
        self.longest = self.longest or [0] * (len(self.layout.cameras) + len(self.layout.depth))

    def add_row(self, offset: int, lengths: Sequence[int]) -> None:
        """Add a row that begins at `offset` with images of these lengths in bytes."""
        self.rows.append(offset)
        self.longest = [max(a, b) for a, b in zip(self.longest, lengths, strict=True)]

    def close(self, end: dict[str, Any]) -> None:
        """Set how the episode ended; its last `end["cut"]` rows are not part of it.

        Raises:
            ValueError: `end` contradicts the rows; nothing is changed then.
        """
        cut = end.get("cut", 0)
        if type(cut) is not int or not 0 <= cut <= max(0, len(self.rows) - 2):
            raise ValueError(f"cuts {cut!r} of {len(self.rows)} rows")
        for key, kinds in _END_KINDS.items():
            if key in end and not isinstance(end[key], kinds):
                raise ValueError(f"has {key} {end[key]!r}")
        if unknown := sorted(end.keys() - _END_KINDS.keys() - {"cut"}):
            raise ValueError(f"has unknown entries: {', '.join(unknown)}")
        self.end, self.cut = end, cut
        del self.rows[len(self.rows) - cut :]


def scan(fd: int, path: Path) -> Contents | None:
    """Find every intact row of a journal; None when it was cut off before its header was complete.

    Raises:
        EpisodeError: not a journal, or its header is damaged.
    """
    total = os.fstat(fd).st_size
    start = os.pread(fd, len(PREAMBLE), 0)
    if start != PREAMBLE[: len(start)]:
        if start.startswith(_NAME):
            version = start.removeprefix(_NAME).strip().decode(errors="replace")
            raise EpisodeError(
                "{path} is a journal of version '{version}', this version reads '{known}'; left as it is",
                path=path,
                version=version,
                known=JOURNAL.decode(),
            )
        raise EpisodeError("{path} is not an episode journal: it begins {start!r}", path=path, start=start)
    offset, sequence, contents, problem = len(PREAMBLE), 0, None, ""
    while offset < total and not problem:
        kind, payload, problem = _read(fd, offset, total, sequence)
        if problem:
            break
        if contents is None:
            contents = _begin(kind, payload, path)
        elif contents.end is not None:
            problem = f"damaged at byte {offset}: a record after the end"
        elif kind == STEP:
            problem = _row(contents, payload, offset)
        elif kind == END:
            problem = _end(contents, payload, offset)
        if not problem:
            offset, sequence = offset + _HEAD.size + len(payload), sequence + 1
    torn = _torn(fd, offset, total, sequence)
    if contents is None:
        if problem.startswith("damaged") or not torn:
            raise EpisodeError(
                "the header of {path} is {problem}; its rows cannot be read without it", path=path, problem=problem
            )
        return None
    contents.good_bytes, contents.total_bytes, contents.problem, contents.torn = offset, total, problem, torn
    return contents


def read_row(fd: int, contents: Contents, row: int) -> tuple[npt.NDArray[np.void], list[memoryview]]:
    """Row `row`: its fixed record, then its images' bytes (cameras, then depth), as views."""
    layout = contents.layout
    offset = contents.rows[row]
    _, _, length, _ = _HEAD.unpack(os.pread(fd, _HEAD.size, offset))
    payload = memoryview(os.pread(fd, length, offset + _HEAD.size))
    fixed, lengths = layout.dtype.itemsize, _lengths(layout, payload)
    record = np.frombuffer(payload[:fixed], layout.dtype)[0]
    images, at = [], fixed + 4 * len(lengths)
    for size in lengths:
        images.append(payload[at : at + size])
        at += size
    return record, images


def row_parts(record: npt.NDArray[np.void], images: Sequence[Bytes]) -> tuple[list[Bytes], list[int]]:
    """The payload of a row's record and its images' lengths."""
    lengths = [len(_view(image)) for image in images]
    return [record.tobytes(), struct.pack(f"<{len(lengths)}I", *lengths), *images], lengths


def _view(part: Bytes) -> memoryview:
    return memoryview(part).cast("B")  # type: ignore[arg-type]  # arrays have the buffer protocol


def _lengths(layout: RowLayout, payload: bytes | memoryview) -> tuple[int, ...]:
    count = len(layout.cameras) + len(layout.depth)
    return struct.unpack_from(f"<{count}I", payload, layout.dtype.itemsize)


def _read(fd: int, offset: int, total: int, sequence: int) -> tuple[bytes, bytes, str]:
    head = os.pread(fd, _HEAD.size, offset)
    if len(head) < _HEAD.size:
        return b"", b"", f"cut off at byte {total}"
    kind, number, length, crc = _HEAD.unpack(head)
    if kind not in _KINDS or number != sequence or length > _MAX_RECORD:
        return b"", b"", f"damaged at byte {offset}"
    payload = os.pread(fd, length, offset + _HEAD.size)
    if len(payload) < length:
        return b"", b"", f"cut off at byte {total}"
    if zlib.crc32(payload, zlib.crc32(_HEAD.pack(kind, number, length, 0))) != crc:
        return b"", b"", f"damaged at byte {offset} (checksum)"
    return kind, payload, ""


def _begin(kind: bytes, payload: bytes, path: Path) -> Contents:
    if kind != HEADER:
        raise EpisodeError("{path} does not begin with a header", path=path)
    try:
        header = json.loads(payload)
        layout = RowLayout.from_mapping(header["layout"])
        sides = [side for _, *size in (*layout.cameras, *layout.depth) for side in size]
        if not 0 < layout.dtype.itemsize < _MAX_FIXED or not all(0 < side < 1 << 16 for side in sides):
            raise ValueError("its rows are larger than any")
        return Contents(header, layout)
    except _DAMAGE as error:
        raise EpisodeError(
            "the header of {path} is damaged or of another version: {error}", path=path, error=reason(error)
        ) from error


def require_header(contents: Contents, path: Path) -> None:
    """Raise `EpisodeError` where a header lacks an entry that an episode needs."""
    header = contents.header
    try:
        if header["images"] not in ("raw", "jpeg") or not 0 < float(header["rate_hz"]) < math.inf:
            raise ValueError(f"images are {header['images']!r} at {header['rate_hz']!r} Hz")
        Contract.from_json(json.dumps(header["contract"]))
        if lacking := sorted(_HEADER_KEYS - header.keys()):
            raise ValueError(f"it lacks {', '.join(lacking)}")
    except (ContractError, *_DAMAGE) as error:
        raise EpisodeError(
            "the header of {path} is damaged or of another version: {error}", path=path, error=reason(error)
        ) from error


def _row(contents: Contents, payload: bytes, offset: int) -> str:
    """Add a row whose lengths fit its record; else return the problem."""
    layout = contents.layout
    fixed = layout.dtype.itemsize + 4 * (len(layout.cameras) + len(layout.depth))
    lengths = _lengths(layout, payload) if len(payload) >= fixed else ()
    if fixed + sum(lengths) != len(payload):
        return f"damaged at byte {offset}: a row of {len(payload)} bytes whose parts have {fixed + sum(lengths)}"
    if contents.header.get("images") == "raw":
        sizes = [3 * height * width for _, height, width in layout.cameras]
        if list(lengths[: len(sizes)]) != sizes:
            return f"damaged at byte {offset}: raw images of {lengths[: len(sizes)]} bytes, expected {sizes}"
    contents.add_row(offset, lengths)
    return ""


def _end(contents: Contents, payload: bytes, offset: int) -> str:
    try:
        end = json.loads(payload)
        if not isinstance(end, dict):
            raise ValueError(f"is a {type(end).__name__}")
        contents.close(end)
    except (RecursionError, ValueError) as error:
        return f"damaged at byte {offset}: the end record {reason(error)}"
    return ""


def _torn(fd: int, offset: int, total: int, sequence: int) -> bool:
    """Whether from `offset` on there is no complete record: nothing, or the rest of an interrupted write."""
    if offset >= total:
        return True
    empty = True
    for begin in range(offset, total, _SEARCHED):
        data = os.pread(fd, _SEARCHED + 3, begin)  # a mark may lie across two pieces
        empty = empty and not any(data)
        at = data.find(_MARK)
        while at >= 0:
            if begin + at > offset and _whole(fd, begin + at, total):
                return False
            at = data.find(_MARK, at + 1)
    head = os.pread(fd, _HEAD.size, offset)
    if len(head) < _HEAD.size or empty:
        return True
    kind, number, length, crc = _HEAD.unpack(head)
    unfinished = offset + _HEAD.size + length > total
    if not (kind in _KINDS and number == sequence and length <= _MAX_RECORD and unfinished):
        return False
    rest = total - offset - _HEAD.size  # a whole record whose length was damaged is not torn
    found = zlib.crc32(_HEAD.pack(kind, number, min(rest, _MAX_RECORD), 0))
    for begin in range(offset + _HEAD.size, total, _SEARCHED):
        found = zlib.crc32(os.pread(fd, _SEARCHED, begin), found)
    return rest > _MAX_RECORD or found != crc


def _whole(fd: int, at: int, total: int) -> bool:
    """Whether a complete record begins at byte `at`, with any sequence number."""
    head = os.pread(fd, _HEAD.size, at)
    if len(head) < _HEAD.size or at + _HEAD.size + _HEAD.unpack(head)[2] > total:
        return False
    return not _read(fd, at, total, _HEAD.unpack(head)[1])[2]
