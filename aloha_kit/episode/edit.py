"""Copies of episodes for other needs: part of one, the classic row count, raw pixels. Sources stay as they are."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from aloha_kit.core import Contract, EpisodeError
from aloha_kit.episode import checksums, files, hdf5
from aloha_kit.episode.codec import encode_jpeg
from aloha_kit.episode.convert import set_attribute
from aloha_kit.episode.reader import Episode
from aloha_kit.episode.schema import CLASSIC, index_of, partial_path, SCHEMA

_PER_STEP = {"action", "base_action", "reward", "stamps/command"}
_ROWS = 32  # copied at a time
_QUALITY = 95  # of JPEG that has to be encoded anew: beside the camera's own loss it adds little


def export(
    source: Path,
    folder: Path,
    *,
    start: int = 0,
    stop: int | None = None,
    classic: bool = False,
    raw: bool = False,
    mobile_aloha: bool = False,
    contract: Contract | None = None,
) -> Path:
    """Copy an episode into `folder` under the same index (or the lowest free one where the name has none).

    Args:
        start, stop: keep the actions [start, stop) and the observations around them.
        classic: drop the last observation, so that all data sets have T rows, for readers that need that.
        raw: decode JPEG, for readers that know raw pixels only (ACT's).
        mobile_aloha: encode JPEG that cameras sent anew in Mobile ALOHA's channel order, for its readers.
        contract: as in `Episode.open`; what describes a file that does not say it is written into its copy.

    Raises:
        EpisodeError: a damaged source, an empty or impossible range, an index that `folder` has already.
    """
    with Episode.open(source, contract) as episode:
        stop = episode.length if stop is None else stop
        if not 0 <= start < stop <= episode.length:
            raise EpisodeError(
                f"{source} has steps 0 to {episode.length - 1}; cannot keep [{start}, {stop}): "
                f"expected 0 <= start < stop <= {episode.length}"
            )
        extra = 0 if classic or episode.frames == episode.length else 1
        path, reservation = files.reserve(folder, index_of(source))
        temporary = files.temporary_path(path)
        try:
            temporary.unlink(missing_ok=True)
            with hdf5.writing(temporary) as target, hdf5.reading(source) as old:
                _copy(old, target, episode, (start, stop), (start, stop + extra), raw, mobile_aloha)
                if episode.attrs.get("schema") == SCHEMA and not extra:
                    set_attribute(target, "schema", CLASSIC)
                if "contract" not in old.attrs and not episode.assumption:
                    set_attribute(target, "contract", episode.contract.to_json())
                edited = {"source": str(source), "start": start, "stop": stop, "classic": classic, "raw": raw}
                set_attribute(target, "edited", json.dumps(edited))
                checksums.reserve(target)
            checksums.seal(temporary)
            files.commit(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
            partial_path(path).unlink(missing_ok=True)
            os.close(reservation)
    return path


def label(path: Path, *, success: bool) -> None:
    """Write a person's verdict into a committed episode, which is whole at every instant: a copy takes its place.

    Raises:
        EpisodeError: no such episode, damaged, or no room for the copy.
    """
    with Episode.open(path):
        pass
    checksums.require_sound(path)  # or the new ones would vouch for the damage
    temporary = files.temporary_path(path)
    try:
        temporary.unlink(missing_ok=True)  # one left by a kill may be a second name of the episode itself
        shutil.copyfile(path, temporary)
        with hdf5.writing(temporary, "r+") as file:
            file.attrs["success"] = success
            checksums.reserve(file)
        checksums.seal(temporary)
        files.replace(temporary, path)
    except OSError as error:
        raise EpisodeError(f"{path} could not be labelled, it is as it was: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _copy(
    old: Any,
    target: Any,
    episode: Episode,
    steps: tuple[int, int],
    frames: tuple[int, int],
    raw: bool,
    mobile_aloha: bool,
) -> None:
    decode = raw and episode.compressed
    swap = mobile_aloha and not raw and episode.jpeg_order == "standard"
    for key, value in old.attrs.items():
        if key != checksums.NAME and not ((decode or swap) and key in ("jpeg_quality", "jpeg_order")):
            set_attribute(target, key, value.tolist() if isinstance(value, np.ndarray) else value)
    if decode:
        target.attrs["compress"] = False
    if swap:
        _swap(target, episode, frames)

    def visit(name: str, data: Any) -> None:
        if not isinstance(data, h5py.Dataset) or name == checksums.NAME:
            return
        if swap and (name == "compress_len" or name.startswith("observations/images/")):
            return
        if name == "compress_len":
            if not decode:
                target[name] = data[:, slice(*frames)]
        elif decode and name.startswith("observations/images/"):
            _decode(target, name, episode, frames)
        elif data.shape and data.shape[0] in (episode.length, episode.frames):
            _rows(target, name, data, steps if name in _PER_STEP else frames)
        else:
            old.copy(data, target, name)

    old.visititems(visit)


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
    for at in range(begin, end, _ROWS):
        new[at - begin : min(at + _ROWS, end) - begin] = data[at : min(at + _ROWS, end)]


def _decode(target: Any, name: str, episode: Episode, span: tuple[int, int]) -> None:
    camera = name.rsplit("/", 1)[1]
    begin, end = span
    new = target.create_dataset(name, (end - begin, *episode.image_size(camera), 3), np.uint8)
    for i in range(begin, end):
        new[i - begin] = episode.image(camera, i)


def _swap(target: Any, episode: Episode, span: tuple[int, int]) -> None:
    """All pictures as JPEG in Mobile ALOHA's channel order: there is no way from the standard one but encoding."""
    lengths = np.zeros((len(episode.cameras), span[1] - span[0]), np.float32)
    for row, camera in zip(lengths, episode.cameras, strict=True):
        pictures = [encode_jpeg(episode.image(camera, i), _QUALITY) for i in range(*span)]
        row[:] = [len(picture) for picture in pictures]
        new = target.create_dataset(f"observations/images/{camera}", (len(pictures), int(row.max())), np.uint8)
        for i, picture in enumerate(pictures):
            new[i, : len(picture)] = picture
    target["compress_len"] = lengths
    set_attribute(target, "jpeg_order", "mobile_aloha")
    target.attrs["jpeg_quality"] = _QUALITY
