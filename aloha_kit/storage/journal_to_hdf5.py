"""Conversion of a journal to HDF5, at the end of a recording and in a recovery. Nothing is re-encoded."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.core import EpisodeError, plural
from aloha_kit.core.errors import command, reason
from aloha_kit.core.lang import Message
from aloha_kit.core.versions import SCHEMA
from aloha_kit.storage import checksums, hdf5, transaction
from aloha_kit.storage.codec import DEPTH_LEVEL
from aloha_kit.storage.hdf5 import set_attribute
from aloha_kit.storage.journal import Contents, read_row

_BLOCK_BYTES = 4 << 20  # rows are copied in blocks of about this size: memory stays bounded


def finish(fd: int, contents: Contents, path: Path, journal: Path) -> None:
    """Build the HDF5 file of a journal and commit it as `path`, after every row was read back and compared.

    The journal stays; the caller removes it. At every instant either it or the committed file is complete on the disk.

    Raises:
        EpisodeError: the disk is full or fails, or `path` exists.
    """
    temporary = transaction.temporary_path(path)
    try:
        # The folder may have been removed meanwhile; the open journal still has every row.
        path.parent.mkdir(parents=True, exist_ok=True)
        # A file left behind by a kill may be a second name of a committed file: never write into it.
        temporary.unlink(missing_ok=True)
        _require_room(contents, path.parent)
        write_hdf5(fd, contents, temporary)
        _require_same(fd, contents, temporary)
        transaction.commit(temporary, path)
    except hdf5.DAMAGE as error:
        raise EpisodeError(
            "{name} could not be finished: {error}. {safe}; make room, then run: {command}",
            name=path.name,
            error=reason(error),
            safe=where_safe(fd, len(contents.rows) - 1, journal),
            command=command("episode", "recover", journal.parent),
        ) from error
    finally:
        with contextlib.suppress(OSError):  # it is in the message above
            temporary.unlink(missing_ok=True)


def where_safe(fd: int, steps: int, journal: Path) -> Message:
    """Description of how many steps of an open journal are on the disk; syncs the journal."""
    rows = plural(steps, "step")
    if not os.fstat(fd).st_nlink:
        return Message(
            "{journal} was removed, so its {steps} are lost when this process ends", journal=journal, steps=rows
        )
    try:
        os.fdatasync(fd)
    except OSError as error:
        return Message(
            "{steps} are written to {journal}, but the disk does not confirm them ({error})",
            steps=rows,
            journal=journal,
            error=error,
        )
    return Message("{steps} are safe in {path}", steps=rows, path=journal)


def write_hdf5(fd: int, contents: Contents, target: Path) -> None:
    """Write the rows of a journal as one HDF5 file in schema `aloha_kit/1`, with checksums; the caller commits it.

    Image data lie contiguously (depth: one compressed chunk a frame), so a training process reads
    one frame with one seek.
    """
    with hdf5.writing(target) as file:
        _write_attributes(file, contents)
        _create(file, contents)
        for name, where, values in _pieces(fd, contents):
            if isinstance(values, bytes):
                file[name].id.write_direct_chunk(where, values)
            else:
                file[name][where] = values
        checksums.reserve(file)
    checksums.seal(target)


def _create(file: Any, contents: Contents) -> None:
    """Every data set, empty."""
    rows, layout = len(contents.rows), contents.layout
    for name, shape in layout.fields:
        file.create_dataset(_place(name), (rows - 1 if name in _AT_ROOT else rows, *shape), "<f4")
    for name in layout.streams:
        file.create_dataset(f"stamps/{name}", (rows - 1 if name == "command" else rows,), "<i8")
    raw = contents.header["images"] == "raw"
    for (name, height, width), longest in zip(layout.cameras, contents.longest, strict=False):
        file.create_dataset(f"observations/images/{name}", (rows, height, width, 3) if raw else (rows, longest), "u1")
    for name, height, width in layout.depth:
        file.create_dataset(
            f"observations/images_depth/{name}",
            (rows, height, width),
            "<u2",
            chunks=(1, height, width),
            shuffle=True,
            compression="gzip",
            compression_opts=DEPTH_LEVEL,
        )
    if not raw:
        file.create_dataset("compress_len", (len(layout.cameras), rows), "<f4")


_AT_ROOT = ("action", "base_action", "reward")  # one a step: the row of the reset has none


def _place(field: str) -> str:
    return field if field in _AT_ROOT else f"observations/{field}"


def _pieces(fd: int, contents: Contents) -> Iterator[tuple[str, Any, npt.NDArray[Any] | bytes]]:
    """Contents of the finished file, some rows at a time: data set, index, values; bytes are a whole chunk."""
    rows, layout = len(contents.rows), contents.layout
    count = len(layout.cameras)
    raw = contents.header["images"] == "raw"
    block = max(1, min(256, _BLOCK_BYTES // max(1, sum(contents.longest))))
    for begin in range(0, rows, block):
        end = min(rows, begin + block)
        records = np.zeros(end - begin, layout.dtype)
        sizes = np.zeros((count, end - begin), np.float32)
        blocks = [
            np.zeros((end - begin, height, width, 3) if raw else (end - begin, longest), np.uint8)
            for (_, height, width), longest in zip(layout.cameras, contents.longest, strict=False)
        ]
        for row in range(begin, end):
            records[row - begin], images = read_row(fd, contents, row)
            for camera, (target, image) in enumerate(zip(blocks, images, strict=False)):
                target[row - begin].reshape(-1)[: len(image)] = image
                sizes[camera, row - begin] = len(image)
            for (name, _, _), image in zip(layout.depth, images[count:], strict=True):
                yield f"observations/images_depth/{name}", (row, 0, 0), bytes(image)
        for (name, _, _), values in zip(layout.cameras, blocks, strict=True):
            yield f"observations/images/{name}", slice(begin, end), values
        if not raw:
            yield "compress_len", np.s_[:, begin:end], sizes
        for name, _ in layout.fields:
            yield _place(name), *_steps(records[name], begin, name in _AT_ROOT)
        for column, name in enumerate(layout.streams):
            yield f"stamps/{name}", *_steps(records["stamps"][:, column], begin, name == "command")


def _steps(values: npt.NDArray[Any], begin: int, per_step: bool) -> tuple[slice, npt.NDArray[Any]]:
    """Target rows and values of a block; values that belong to steps are one row later in the journal."""
    if per_step:
        values, begin = (values[1:], 0) if begin == 0 else (values, begin - 1)
    return slice(begin, begin + len(values)), values


def _require_same(fd: int, contents: Contents, path: Path) -> None:
    """Read everything back and compare it with the journal, before the file is used."""
    with hdf5.reading(path) as file:
        for name, where, values in _pieces(fd, contents):
            if isinstance(values, bytes):
                same = file[name].id.read_direct_chunk(where)[1] == values
            else:
                same = np.array_equal(_bytes(file[name][where]), _bytes(values))
            if not same:
                raise OSError(Message("/{name} does not read back as it was written, in {path}", name=name, path=path))


def _bytes(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The bytes of an array, so that NaN equals NaN in a comparison."""
    return np.frombuffer(np.ascontiguousarray(values), np.uint8)


def _write_attributes(file: Any, contents: Contents) -> None:
    header = contents.header
    end = (
        dict(contents.end)
        if contents.end
        else {
            "success": False,
            "reason": f"interrupted: recovered {len(contents.rows) - 1} steps",
            "error": True,
        }
    )
    values: dict[str, Any] = {
        "schema": SCHEMA,
        "sim": bool(header["sim"]),
        "compress": header["images"] == "jpeg",
        "rate_hz": float(header["rate_hz"]),
        **{key: str(header[key]) for key in ("task", "rig", "instruction", "created", "software", "id")},
        "contract": json.dumps(header["contract"], sort_keys=True),
        "describe": json.dumps(end.pop("describe", header["describe"]), sort_keys=True),
        "jpeg_quality": int(header["quality"]) if header["images"] == "jpeg" and not _passed_on(header) else None,
        "jpeg_order": header.get("jpeg_order"),
        "camera_names": [name for name, _, _ in contents.layout.cameras] or None,
        **end,  # success (None when not judged), reason, error, rewards, stalls
    }
    for key, value in values.items():
        if value is not None:
            set_attribute(file, key, value)


def _passed_on(header: dict[str, Any]) -> bool:
    """Whether images are saved as the cameras sent them, in the cameras' own quality."""
    return header.get("jpeg_order") == "standard"


def _require_room(contents: Contents, folder: Path) -> None:
    rows = len(contents.rows)
    needed = rows * (contents.layout.dtype.itemsize + sum(contents.longest)) + (1 << 16)
    space = os.statvfs(folder)
    free = space.f_bavail * space.f_frsize
    if free < needed:
        raise OSError(
            Message(
                "{needed:.1f} MB needed in {folder}, {free:.1f} MB free",
                needed=needed / 1000000.0,
                folder=folder,
                free=free / 1000000.0,
            )
        )
