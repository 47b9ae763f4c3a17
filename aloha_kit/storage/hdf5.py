"""Opening of HDF5 files for reading and writing, and checks of data sets before they are read.

While writing, a disk error is raised once and never reaches the HDF5 library: when the disk is full while the library
closes a file, the file stays half open and the process ends with a segmentation fault. The library therefore writes
through a Python object that stores the first error and reports every later write as successful.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from aloha_kit.core import EpisodeError
from aloha_kit.core.errors import reason
from aloha_kit.core.files import special_file
from aloha_kit.storage.external_data import require_own_data

DAMAGE = (
    ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError
)  # fmt: skip
"""Exceptions of h5py and numpy on damaged files."""

_DEPTH = 8
_ROW = 1 << 29  # bytes of a row or a chunk
_FREE, _RATIO = 1 << 26, 1100  # bytes of a table: deflate makes at most 1032 of one


def reading(path: Path) -> Any:
    """Open an `h5py.File` for reading; the caller closes it.

    Raises:
        OSError: there is no such file, or it is not HDF5.
        EpisodeError: a FIFO or device instead of a file, or data stored outside of it (see `external_data`).
    """
    if special := special_file(path):
        raise EpisodeError("'{path}' is {special}; expected an episode", path=path, special=special)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if "lock" not in str(error):
            raise
        file = h5py.File(path, "r", locking=False)  # NFS often cannot lock, and committed files never change
    try:
        require_own_data(file, path)
    except BaseException:
        file.close()
        raise
    return file


@contextlib.contextmanager
def writing(path: Path, mode: Literal["w", "r+"] = "w") -> Iterator[Any]:
    """Open an `h5py.File` for writing: "w" creates or empties the file, "r+" changes it.

    Raises:
        OSError: a write failed; the contents of the file are then invalid.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_TRUNC if mode == "w" else 0)
    sink = _Sink(os.open(path, flags, 0o644))
    try:
        with h5py.File(sink, mode) as file:
            yield file
    except Exception:
        if sink.error is None:  # else this only repeats it: what was not written cannot be read back
            raise
    finally:
        os.close(sink.fd)
    if sink.error is not None:
        raise sink.error


@contextlib.contextmanager
def damage_reported(path: Path | str) -> Iterator[None]:
    """Convert exceptions from reading a damaged file into an `EpisodeError` that names the file."""
    try:
        yield
    except DAMAGE as error:
        raise EpisodeError("{path} is damaged: {error}", path=path, error=reason(error)) from error


def datasets(group: Any) -> Iterator[tuple[str, Any]]:
    """(name, data set) of all data sets in a group and its sub-groups, each object once.

    `visititems` of h5py takes seconds for a thousand nested groups, which no episode has.

    Raises:
        EpisodeError: groups nested deeper than any episode's.
    """
    seen, groups = set(), [("", group)]
    while groups:
        prefix, members = groups.pop(0)
        for key in members:
            name = f"{prefix}{key}"
            if not isinstance(members.get(key, getlink=True), h5py.HardLink):
                continue
            item = members[key]
            if isinstance(item, h5py.Dataset):
                yield name, item
            elif isinstance(item, h5py.Group) and (address := h5py.h5o.get_info(item.id).addr) not in seen:
                if name.count("/") >= _DEPTH:
                    raise EpisodeError("/{name} lies in more than {depth} groups", name=name, depth=_DEPTH)
                seen.add(address)
                groups.append((f"{name}/", item))


def require_table(data: Any, name: str, dimensions: tuple[int, ...] = ()) -> None:
    """Check type, rank and size of a data set before memory is allocated; `dimensions` are the ranks allowed.

    Raises:
        EpisodeError: not numbers, or more of them than its file can hold.
    """
    shape = getattr(data, "shape", None)
    if shape is None:
        if isinstance(data, h5py.Group):
            raise EpisodeError("/{name} is a group", name=name)
        raise EpisodeError("/{name} is no data set with values", name=name)
    if data.dtype.kind not in "biuf":
        raise EpisodeError("/{name} holds {dtype}, expected numbers", name=name, dtype=data.dtype)
    if dimensions and len(shape) not in dimensions:
        raise EpisodeError(
            "/{name} has shape {shape}, expected {dimensions} dimensions",
            name=name,
            shape=shape,
            dimensions=" or ".join(map(str, dimensions)),
        )
    size, limit = math.prod(shape) * data.dtype.itemsize, _FREE + _RATIO * data.file.id.get_filesize()
    if size > limit:
        raise EpisodeError(
            "/{name} has shape {shape} in its header, {size:.1f} GB: more than its file can hold",
            name=name,
            shape=shape,
            size=size / 1000000000.0,
        )


def require_rows(data: Any, name: str) -> None:
    """Check the size of one row of a data set before it is read.

    Raises:
        EpisodeError: there are no rows, or one is larger than any image.
    """
    shape = getattr(data, "shape", None)
    if not shape:
        raise EpisodeError("/{name} is no table of rows", name=name)
    for what, part in (("rows", shape[1:]), ("chunks", data.chunks or ())):
        size = math.prod(part) * data.dtype.itemsize
        if size > _ROW:
            raise EpisodeError(
                "/{name} has {what} of {size:.1f} GB, shape {shape}: no image is that large",
                name=name,
                what=what,
                size=size / 1000000000.0,
                shape=shape,
            )


def set_attribute(file: Any, key: str, value: Any) -> None:
    """Set an attribute; text has a fixed length, since HDF5 crashes on a damaged heap of variable ones."""
    if isinstance(value, (str, bytes)):
        coded = [_coded(value)]
    elif isinstance(value, list) and value and isinstance(value[0], (str, bytes)):
        coded = [_coded(item) for item in value]
    else:
        file.attrs[key] = value
        return
    dtype = h5py.string_dtype("utf-8", max([1, *map(len, coded)]))
    file.attrs[key] = np.array(coded if isinstance(value, list) else coded[0], dtype)


def _coded(text: str | bytes) -> bytes:
    """UTF-8 without NUL and lone surrogates, which HDF5 refuses."""
    return text if isinstance(text, bytes) else text.replace("\0", " ").encode(errors="replace")


class _Sink:
    """File object for h5py's `fileobj` driver."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.error: OSError | None = None
        self._at, self._size = 0, os.fstat(fd).st_size  # the size that the library assumes

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        view[:] = self.read(len(view))
        return len(view)

    def read(self, size: int) -> bytes:
        data = os.pread(self.fd, size, self._at)  # short where something was not written: zeros, as HDF5 takes it
        self._at += size
        return data.ljust(size, b"\0")

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view) and self.error is None:
            try:
                done += os.pwrite(self.fd, view[done:], self._at + done)
            except OSError as error:
                self.error = error
        self._at += len(view)
        self._size = max(self._size, self._at)
        return len(view)

    def truncate(self, size: int) -> int:
        self._size = size
        if self.error is None:
            try:
                os.ftruncate(self.fd, size)
            except OSError as error:
                self.error = error
        return size

    def flush(self) -> None:
        """Do nothing: nothing is buffered here."""
