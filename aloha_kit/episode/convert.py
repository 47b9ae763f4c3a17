"""Journal to HDF5: the last step of a recording and the whole of a recovery. Nothing is re-encoded."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from aloha_kit.core import EpisodeError
from aloha_kit.episode import files
from aloha_kit.episode.codec import DEPTH_LEVEL
from aloha_kit.episode.journal import Contents, read_row
from aloha_kit.episode.schema import partial_path, SCHEMA

_BLOCK_BYTES = 8 << 20  # rows are copied in blocks of about this size: memory stays bounded


def finish(fd: int, contents: Contents, path: Path) -> None:
    """Build the HDF5 file of a journal, commit it as `path` and remove the journal.

    At every instant either the journal or the committed file is whole on the disk.

    Raises:
        EpisodeError: the disk is full or fails, or `path` exists; the journal is kept.
    """
    temporary = files.temporary_path(path)
    try:
        # One left behind by a kill may be a second name of a committed file: never write into it.
        temporary.unlink(missing_ok=True)
        _require_room(contents, path.parent)
        write_hdf5(fd, contents, temporary)
        _check(temporary, contents)
        files.commit(temporary, path)
    except (OSError, RuntimeError) as error:  # h5py reports a failed flush as either
        raise EpisodeError(
            f"{path.name} could not be finished ({error}). {len(contents.rows) - 1} steps are safe in "
            f"{partial_path(path)}; make room, then run: python -m aloha_kit.episode recover {path.parent}"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    partial_path(path).unlink()
    files.sync_folder(path.parent)


def write_hdf5(fd: int, contents: Contents, target: Path) -> None:
    """The rows of a journal as one HDF5 file in schema `aloha_kit/1`; the caller commits it.

    Picture data lie contiguously (depth: one compressed chunk a frame), so a training process reads
    one frame with one seek.
    """
    rows, layout, header = len(contents.rows), contents.layout, contents.header
    raw = header["images"] == "raw"
    with h5py.File(target, "w") as file:
        _write_attributes(file, contents)
        observations = file.create_group("observations")
        vectors = {
            name: (file if name in _AT_ROOT else observations).create_dataset(
                name, (rows - 1 if name in _AT_ROOT else rows, *shape), "<f4"
            )
            for name, shape in layout.fields
        }
        stamps = {
            name: file.create_dataset(f"stamps/{name}", (rows - 1 if name == "command" else rows,), "<i8")
            for name in layout.streams
        }
        images = [
            observations.create_dataset(f"images/{name}", (rows, height, width, 3) if raw else (rows, longest), "u1")
            for (name, height, width), longest in zip(layout.cameras, contents.longest, strict=False)
        ]
        depth = [
            observations.create_dataset(
                f"images_depth/{name}",
                (rows, height, width),
                "<u2",
                chunks=(1, height, width),
                shuffle=True,
                compression="gzip",
                compression_opts=DEPTH_LEVEL,
            )
            for name, height, width in layout.depth
        ]
        lengths = None if raw else file.create_dataset("compress_len", (len(images), rows), "<f4")
        block = max(1, min(256, _BLOCK_BYTES // max(1, sum(contents.longest))))
        for begin in range(0, rows, block):
            end = min(rows, begin + block)
            records, sizes = _copy_pictures(fd, contents, begin, end, images, depth)
            if lengths is not None:
                lengths[:, begin:end] = sizes
            for name, data in vectors.items():
                _put(data, records[name], begin, name in _AT_ROOT)
            for column, (name, data) in enumerate(stamps.items()):
                _put(data, records["stamps"][:, column], begin, name == "command")


_AT_ROOT = ("action", "base_action", "reward")  # one a step: the row of the reset has none


def _put(data: Any, values: npt.NDArray[Any], begin: int, per_step: bool) -> None:
    """Write a block of rows; values that belong to steps sit one row later in the journal."""
    if per_step:
        values, begin = (values[1:], 0) if begin == 0 else (values, begin - 1)
    if len(values):
        data[begin : begin + len(values)] = values


def _copy_pictures(
    fd: int, contents: Contents, begin: int, end: int, images: list[Any], depth: list[Any]
) -> tuple[npt.NDArray[np.void], npt.NDArray[np.float32]]:
    """Copy the pictures of rows [begin, end); return those rows' records and the colour pictures' lengths."""
    records = np.zeros(end - begin, contents.layout.dtype)
    sizes = np.zeros((len(images), end - begin), np.float32)
    blocks = [np.zeros((end - begin, *data.shape[1:]), np.uint8) for data in images]
    for row in range(begin, end):
        record, pictures = read_row(fd, contents, row)
        records[row - begin] = record
        for camera, (target, picture) in enumerate(zip(blocks, pictures, strict=False)):
            target[row - begin].reshape(-1)[: len(picture)] = picture
            sizes[camera, row - begin] = len(picture)
        for data, picture in zip(depth, pictures[len(images) :], strict=True):
            data.id.write_direct_chunk((row, 0, 0), bytes(picture))
    for data, values in zip(images, blocks, strict=True):
        data[begin:end] = values
    return records, sizes


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
        **end,  # success (None when nobody judged), reason, error, rewards, stalls
    }
    for key, value in values.items():
        if value is not None:
            set_attribute(file, key, value)


def _passed_on(header: dict[str, Any]) -> bool:
    """Whether pictures are kept as cameras sent them, in whatever quality those chose."""
    return header.get("jpeg_order") == "standard"


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
    """UTF-8 without NUL and half characters, which HDF5 refuses."""
    return text if isinstance(text, bytes) else text.replace("\0", " ").encode(errors="replace")


def _require_room(contents: Contents, folder: Path) -> None:
    rows = len(contents.rows)
    needed = rows * (contents.layout.dtype.itemsize + sum(contents.longest)) + (1 << 16)
    space = os.statvfs(folder)
    free = space.f_bavail * space.f_frsize
    if free < needed:
        raise OSError(f"{needed / 1e6:.1f} MB needed in {folder}, {free / 1e6:.1f} MB free")


def _check(path: Path, contents: Contents) -> None:
    """Open what was written once more before anything relies on it."""
    with h5py.File(path, "r") as file:
        if file["action"].shape[0] != len(contents.rows) - 1:
            raise OSError(f"{path} does not read back")
