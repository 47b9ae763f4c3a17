"""Checksums of an episode: the CRC-32 of every 64 KiB of its file, stored in the data set `/checksums`.

They cover the file and not only its data sets: attributes, names, padding and the table itself. While a checksum is
computed, the table's own bytes count as zeros; entries behind the last block are 0. The attribute `checksums` of the
file records that there is a table, so that a damaged table and a damaged attribute are both detected.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.core import EpisodeError
from aloha_kit.core.lang import Message
from aloha_kit.storage import hdf5

NAME = "checksums"  # of the data set, and of the attribute
BLOCK = 1 << 16
_KIND = f"CRC-32 of every {BLOCK} bytes of the file"
_SPARE = 1 << 16  # bytes that the file may still grow by: the table's own header, an attribute more
_SHOWN = 5  # damaged places that a message lists

_DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError)


def reserve(file: Any) -> None:
    """Reserve space for the table in an open HDF5 file, after everything else was written; `seal` fills it."""
    if NAME in file:
        del file[NAME]
    file.flush()
    size = file.id.get_filesize() + _SPARE
    blocks = (size + 4 * (size // BLOCK + 2)) // BLOCK + 1
    file.create_dataset(NAME, data=np.zeros(blocks, "<u4"))
    file.attrs[NAME] = np.bytes_(_KIND)


def seal(path: Path) -> None:
    """Compute the checksums of a closed file that has a table.

    Raises:
        OSError: it cannot be read or written.
    """
    with hdf5.reading(path) as file:
        begin, count = _table(file)
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        sums = _sums(fd, begin, count)
        if os.pwrite(fd, sums.tobytes(), begin) != sums.nbytes:
            raise OSError(Message("the checksums of {path} could not be written", path=path))
    finally:
        os.close(fd)


def damage(path: Path) -> list[str] | None:
    """Description of the damaged parts of a file; empty when there are none, None when it has no checksums.

    Raises:
        EpisodeError: not readable as HDF5 at all.
    """
    try:
        with hdf5.reading(path) as file:
            if NAME not in file and NAME not in file.attrs:
                return None
            try:
                begin, count = _table(file)
            except _DAMAGE as error:
                return [f"its table of checksums cannot be read: {error}"]
            wrong = _wrong_blocks(path, begin, count)
            return _places(file, wrong)
    except _DAMAGE as error:
        raise EpisodeError("{path} is damaged or not an episode: {error}", path=path, error=error) from error


def require_sound(path: Path) -> None:
    """Refuse a damaged file; one without checksums passes.

    Raises:
        EpisodeError: the file differs from its checksums; lists the damaged parts.
    """
    if found := damage(path):
        raise EpisodeError("{path} is not as it was written: {found}", path=path, found="; ".join(found))


def _table(file: Any) -> tuple[int, int]:
    """First byte and number of entries of the table."""
    data = file[NAME]
    begin, count = data.id.get_offset(), int(data.shape[0])
    if data.dtype != np.dtype("<u4") or data.ndim != 1 or begin is None:
        raise ValueError("it is no plain row of u32")
    return int(begin), count


def _sums(fd: int, begin: int, count: int) -> npt.NDArray[np.uint32]:
    """The table that the file should have: one entry per block, then zeros."""
    size, end = os.fstat(fd).st_size, begin + 4 * count
    blocks = -(-size // BLOCK)
    if end > size or blocks > count:
        raise OSError(
            Message(
                "the file has {size} bytes, its table of checksums is for at most {most}", size=size, most=count * BLOCK
            )
        )
    sums = np.zeros(count, "<u4")
    for i in range(blocks):
        data: bytes | bytearray = os.pread(fd, BLOCK, i * BLOCK)
        low, high = max(begin - i * BLOCK, 0), min(end - i * BLOCK, len(data))
        if low < high:
            data = bytearray(data)
            data[low:high] = bytes(high - low)
        sums[i] = zlib.crc32(data)
    return sums


def _wrong_blocks(path: Path, begin: int, count: int) -> list[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        expected = np.frombuffer(os.pread(fd, 4 * count, begin), "<u4")
        try:
            found = _sums(fd, begin, count)
        except OSError:  # longer or shorter than it was: no block is where it belongs
            return list(range(-(-os.fstat(fd).st_size // BLOCK)))
        return [int(i) for i in np.flatnonzero(found != expected)]
    finally:
        os.close(fd)


def _places(file: Any, wrong: list[int]) -> list[str]:
    """Damaged blocks as data sets and rows, where the file is still readable."""
    if not wrong:
        return []
    try:
        extents = _extents(file)
    except _DAMAGE:
        extents = []
    found: dict[str, None] = {}
    for low in (block * BLOCK for block in wrong):
        inside = [extent.rows(low, low + BLOCK) for extent in extents if extent.meets(low, low + BLOCK)]
        found |= dict.fromkeys(inside or [f"names or attributes (byte {low} on)"])
    shown = [*list(found)[:_SHOWN], *([f"and {len(found) - _SHOWN} more places"] if len(found) > _SHOWN else [])]
    return [f"{len(wrong)} of its blocks of 64 KiB differ, in {', '.join(shown)}"]


@dataclass(frozen=True)
class _Extent:
    """Byte range [begin, end) of the file that holds rows of a data set from `first` on."""

    name: str
    begin: int
    end: int
    first: int
    row_bytes: float

    def meets(self, low: int, high: int) -> bool:
        return self.begin < high and low < self.end

    def rows(self, low: int, high: int) -> str:
        """Description of the rows that have bytes in [low, high)."""
        one = self.first + int((max(low, self.begin) - self.begin) / self.row_bytes)
        other = self.first + int((min(high, self.end) - 1 - self.begin) / self.row_bytes)
        return f"/{self.name} rows {one} to {other}"


def _extents(file: Any) -> list[_Extent]:
    found: list[_Extent] = []

    def note(name: str, data: Any) -> None:
        if not data.shape or not data.shape[0]:
            return
        if data.chunks is None:
            begin, size = data.id.get_offset(), data.id.get_storage_size()
            if begin is not None:
                found.append(_Extent(name, begin, begin + size, 0, size / data.shape[0]))
            return
        for i in range(data.id.get_num_chunks()):
            chunk = data.id.get_chunk_info(i)
            begin, rows = chunk.byte_offset, data.chunks[0]
            found.append(_Extent(name, begin, begin + chunk.size, chunk.chunk_offset[0], chunk.size / rows))

    for name, data in hdf5.datasets(file):
        note(name, data)
    return found
