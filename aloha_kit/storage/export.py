"""Export of episodes: a part of one, the classic row count, raw pixels. Sources are not changed."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from aloha_kit.core import Contract, EpisodeError
from aloha_kit.core.exporter import PER_STEP
from aloha_kit.core.versions import CLASSIC, SCHEMA
from aloha_kit.storage import checksums, exported_images, hdf5, transaction
from aloha_kit.storage.codec import JpegOrder
from aloha_kit.storage.hdf5 import damage_reported, require_rows, require_table, set_attribute
from aloha_kit.storage.layouts import OURS
from aloha_kit.storage.paths import index_of, partial_path
from aloha_kit.storage.reader import Episode
from aloha_kit.storage.vectors import require_consistent

_ROWS, _BYTES = 32, 1 << 26  # copied at a time


class TargetError(EpisodeError):
    """The target folder cannot be written: the disk is full, read-only, or limits the size of files."""


def export(
    source: Path,
    folder: Path,
    *,
    start: int = 0,
    stop: int | None = None,
    classic: bool = False,
    raw: bool = False,
    jpeg: JpegOrder | None = None,
    mobile_aloha: bool = False,
    contract: Contract | None = None,
    jpeg_order: JpegOrder | None = None,
    origin: str = "",
) -> Path:
    """Copy an episode into `folder` under the same index (or the lowest free one where the name has none).

    Args:
        start, stop: copy the actions [start, stop) and the observations around them.
        classic: drop the last observation, so that all data sets have T rows, for readers that need that.
        raw: decode images, for readers that support raw pixels only (ACT's).
        jpeg: write all images as JPEG of this channel order; those that are so already are copied byte for byte.
        mobile_aloha: the same in Mobile ALOHA's order, where the source has encoded images.
        contract, jpeg_order: as in `Episode.open`; written into the copy where the file does not record its own.
        origin: name of the original in the copy's record of its making; by default `source`.

    Images that are neither padded JPEG rows nor (H, W, 3) uint8 are converted without a loss: JPEG rows of another
    form to padded ones, everything else to raw pixels. Files of other layouts are written in the ALOHA family's
    layout, with their contract and rate as attributes.

    Raises:
        EpisodeError: a damaged source, an empty or impossible range, an index that `folder` has already.
        TargetError: `folder` cannot be written.
    """
    with damage_reported(source), Episode.open(source, contract, jpeg_order=jpeg_order) as episode:
        stop = episode.length if stop is None else stop
        if not 0 <= start < stop <= episode.length:
            raise EpisodeError(
                "{source} has steps 0 to {last}; cannot keep [{start}, {stop}): expected 0 <= start < stop <= {length}",
                source=source,
                last=episode.length - 1,
                start=start,
                stop=stop,
                length=episode.length,
            )
        require_consistent(episode)
        description = episode.contract, episode.rate_hz  # raises for a source that cannot be read
        extra = 0 if classic or episode.frames == episode.length else 1
        with _target(folder, index_of(source)) as (path, temporary):
            with hdf5.writing(temporary) as target, damage_reported(source), hdf5.reading(source) as old:
                steps, frames = (start, stop), (start, stop + extra)
                if mobile_aloha and episode.compressed and not raw:
                    jpeg = jpeg or "mobile_aloha"
                anew = exported_images.are_written_anew(episode, raw=raw, jpeg=jpeg)
                _attributes(old, target, episode, anew=anew)
                if episode.moved:
                    _vectors(target, episode, steps, frames)
                else:
                    _copy(old, target, episode, steps, frames, with_images=not anew)
                if anew:
                    exported_images.write(target, episode, frames, raw=raw, jpeg=jpeg)
                if episode.attrs.get("schema") == SCHEMA and not extra:
                    set_attribute(target, "schema", CLASSIC)
                if "contract" not in old.attrs and not episode.assumption:
                    set_attribute(target, "contract", description[0].to_json())
                edited = {"source": origin or str(source), "start": start, "stop": stop, "classic": classic, "raw": raw}
                set_attribute(target, "edited", json.dumps(edited))
                checksums.reserve(target)
            checksums.seal(temporary)
            transaction.commit(temporary, path)
    return path


@contextlib.contextmanager
def _target(folder: Path, index: int | None) -> Iterator[tuple[Path, Path]]:
    """A reserved path in `folder` and a temporary one to build its file; temporary file and reservation are removed.

    Raises:
        TargetError: `folder` cannot be written.
    """
    try:
        transaction.sweep(folder)
        path, reservation = transaction.reserve(folder, index)
        temporary = transaction.temporary_path(path)
        try:
            temporary.unlink(missing_ok=True)
            yield path, temporary
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
                partial_path(path).unlink(missing_ok=True)
            os.close(reservation)
    except OSError as error:
        why = error.strerror or error
        raise TargetError(
            "cannot write to '{folder}': {why}; nothing is left half done", folder=folder, why=why
        ) from error


def _copy(
    old: Any, target: Any, episode: Episode, steps: tuple[int, int], frames: tuple[int, int], *, with_images: bool
) -> None:
    """Copy everything unchanged, without the rows outside of the span."""

    def visit(name: str, data: Any) -> None:
        if name == checksums.NAME:
            return
        if not with_images and (name == "compress_len" or name.startswith("observations/images/")):
            return
        if name == "compress_len":
            require_table(data, name, (2,))
            target[name] = data[:, slice(*frames)]
        elif data.shape and data.shape[0] in (episode.length, episode.frames) and not name.startswith("instruction"):
            _rows(target, name, data, steps if name in PER_STEP else frames)
        else:
            old.copy(data, target, name)

    for name, data in hdf5.datasets(old):
        try:
            visit(name, data)
        except EpisodeError as error:
            raise EpisodeError("{path}: {error}", path=episode.path, error=error) from None


def _vectors(target: Any, episode: Episode, steps: tuple[int, int], frames: tuple[int, int]) -> None:
    """Write the vectors of a file of another layout under the ALOHA family's names."""
    target["action"] = episode.action[slice(*steps)]
    target["observations/qpos"] = episode.qpos[slice(*frames)]
    for camera in episode.depth_cameras:
        first = episode.depth(camera, frames[0])
        shape, place = (frames[1] - frames[0], *first.shape), f"observations/images_depth/{camera}"
        data = target.create_dataset(place, shape, np.uint16, chunks=(1, *first.shape), compression=1, shuffle=True)
        for row, i in enumerate(range(*frames)):
            data[row] = episode.depth(camera, i)
    target.attrs["rate_hz"] = episode.rate_hz
    set_attribute(target, "contract", episode.contract.to_json())
    if instruction := episode.attrs.get("instruction"):
        set_attribute(target, "instruction", str(instruction))


def _attributes(old: Any, target: Any, episode: Episode, *, anew: bool) -> None:
    about_images = ("compress", "jpeg_order", "jpeg_quality") if anew else ()
    for key, value in old.attrs.items():
        if key != checksums.NAME and key not in about_images:
            set_attribute(target, key, value.tolist() if isinstance(value, np.ndarray) else value)
    if episode.layout != OURS:
        set_attribute(target, "layout", episode.layout)  # the copy may lack what it was recognised by
    if not anew and episode.compressed and episode.jpeg_order_source == "given":
        set_attribute(target, "jpeg_order", episode.jpeg_order)


def _rows(target: Any, name: str, data: Any, span: tuple[int, int]) -> None:
    begin, end = span
    new = target.create_dataset(
        name,
        (end - begin, *data.shape[1:]),
        data.dtype,
        chunks=data.chunks
        and tuple(min(a, b) for a, b in zip(data.chunks, (end - begin, *data.shape[1:]), strict=True)),
        compression=data.compression,
        compression_opts=data.compression_opts,
        shuffle=data.shuffle,
    )
    require_rows(data, name)
    rows = max(1, min(_ROWS, _BYTES // max(1, math.prod(data.shape[1:]) * data.dtype.itemsize)))
    for at in range(begin, end, rows):
        new[at - begin : min(at + rows, end) - begin] = data[at : min(at + rows, end)]
