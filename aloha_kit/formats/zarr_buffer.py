"""Replay buffers of Diffusion Policy (Zarr, version 2): arrays with the rows of all episodes, read chunk by chunk."""

from __future__ import annotations

import functools
import itertools
import json
import threading
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.storage import ZipStore

from aloha_kit.core import EpisodeError
from aloha_kit.core.errors import reason
from aloha_kit.core.source import Depth, Image
from aloha_kit.formats.missing_rows import no_depth, no_image

ENDS = "meta/episode_ends"


class ReplayBuffer:
    """Arrays of a replay buffer by name (`data/action`), a folder or a .zip of one. It can be pickled.

    Attributes:
        ends: (episodes,) row behind the last one of each episode.

    Raises:
        EpisodeError: no such place, another layout, or a damaged one.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        if not place.exists():
            raise EpisodeError(
                "no folder '{place}'; expected a replay buffer such as pusht_cchi_v7_replay.zarr", place=place
            )
        if self.text("zarr.json"):
            raise EpisodeError(
                "{place} is of Zarr's version 3; replay buffers of Diffusion Policy are of version 2", place=place
            )
        missing = [name for name in (ENDS, "data/action") if not self.text(f"{name}/.zarray")]
        if missing and self.text(".zgroup"):
            raise EpisodeError(
                "{place} is no replay buffer: it lacks {missing}", place=place, missing=" and ".join(missing)
            )
        self.ends = self._ends()

    def __getstate__(self) -> dict[str, Any]:
        """Values without open files."""
        return {"place": self.place, "ends": self.ends}

    def names(self) -> dict[str, tuple[int, ...]]:
        """{array of `data`: its shape}."""
        try:
            return {name: tuple(array.shape) for name, array in sorted(self.group["data"].arrays())}
        except Exception as error:  # zarr 2 and 3 raise different ones
            raise EpisodeError(
                "{place}: an array of data cannot be opened: {error}", place=self.place, error=reason(error)
            ) from error

    def array(self, name: str) -> Any:
        """The zarr array of a name."""
        return self.group[name]

    @functools.cached_property
    def group(self) -> Any:
        """The zarr group."""
        try:
            if self._zip is None:
                return zarr.open_group(str(self.place), mode="r")
            return zarr.open_group(ZipStore(str(self.place), mode="r"), path=self._prefix.rstrip("/"), mode="r")
        except Exception as error:  # zarr 2 and 3 raise different ones
            raise EpisodeError("{place} is no zarr group: {error}", place=self.place, error=reason(error)) from error

    def text(self, name: str) -> str:
        """A file of the buffer; empty where there is none."""
        if self._zip is not None:
            there = f"{self._prefix}{name}" in self._entries
            return self._zip.read(f"{self._prefix}{name}").decode() if there else ""
        file = self.place / name
        return file.read_text(encoding="utf-8") if file.is_file() else ""

    def span(self, number: int) -> tuple[int, int]:
        """Rows of an episode: the first one, and the one behind the last."""
        return int(self.ends[number - 1]) if number else 0, int(self.ends[number])

    def rows(self, name: str) -> Rows:
        """Reader of an array that is kept with the buffer."""
        return self._readers.setdefault(name, Rows(self, name))

    def state(self, key: str) -> tuple[int, int] | None:
        """What changes once a file of the buffer does; None where there is none."""
        if self._zip is not None:
            entry = self._entries.get(f"{self._prefix}{key}")
            return None if entry is None else (entry.file_size, entry.CRC)
        try:
            status = (self.place / key).stat()
        except OSError:
            return None
        return status.st_size, status.st_mtime_ns

    def require_lengths(self, names: Collection[str]) -> None:
        """Raise `EpisodeError` where arrays have another number of rows than the episodes."""
        shapes = self.names()
        if any(shapes[name][0] != self.ends[-1] for name in names):
            lengths = ", ".join(f"{name} {shapes[name][0]}" for name in names)
            raise EpisodeError(
                "{place}: the last episode ends at row {row}, and the arrays have rows: {lengths}",
                place=self.place,
                row=self.ends[-1],
                lengths=lengths,
            )

    @functools.cached_property
    def _readers(self) -> dict[str, Rows]:
        return {}

    @functools.cached_property
    def _zip(self) -> zipfile.ZipFile | None:
        if self.place.is_dir():
            return None
        try:
            return zipfile.ZipFile(self.place)
        except (OSError, zipfile.BadZipFile) as error:
            raise EpisodeError(
                "{place} is neither a folder nor a sound .zip: {error}", place=self.place, error=reason(error)
            ) from error

    @functools.cached_property
    def _entries(self) -> Mapping[str, zipfile.ZipInfo]:
        return {} if self._zip is None else {entry.filename: entry for entry in self._zip.infolist()}

    @functools.cached_property
    def _prefix(self) -> str:
        """Folder in the .zip that the buffer is in."""
        ends = f"{ENDS}/.zarray"
        found = [name.removesuffix(ends) for name in self._entries if name.endswith(ends)]
        return min(found, key=len, default="")

    def _ends(self) -> npt.NDArray[np.int64]:
        array = self.array(ENDS)
        if array.dtype.kind not in "iu" or len(array.shape) != 1:
            given = f"{tuple(array.shape)} {array.dtype}"
            raise EpisodeError(
                "{place}: {array} must be a row of whole numbers, given {given}",
                place=self.place,
                array=ENDS,
                given=given,
            )
        ends = Rows(self, ENDS).read(0, array.shape[0]).astype(np.int64)
        if not len(ends) or ends[0] < 1 or (np.diff(ends) < 1).any():
            raise EpisodeError(
                "{place}: {array} must be ascending row numbers, given {given}",
                place=self.place,
                array=ENDS,
                given=ends.tolist()[:5],
            )
        return ends


class Rows:
    """Rows of an array. It is read by chunks, of which the newest is kept; threads may share it."""

    def __init__(self, buffer: ReplayBuffer, name: str) -> None:
        self._buffer, self._name, self._array = buffer, name, buffer.array(name)
        self._lock, self._at = threading.Lock(), -1
        self._held: npt.NDArray[Any] = np.zeros(0)

    def read(self, begin: int, end: int) -> npt.NDArray[Any]:
        """Rows from `begin` to before `end`.

        Raises:
            EpisodeError: a chunk is missing or damaged.
        """
        size = int(self._array.chunks[0])
        parts = [self._chunk(c)[max(begin - c * size, 0) : end - c * size] for c in self._chunks(begin, end)]
        return np.concatenate(parts) if parts else self._held[:0]

    def states(self, begin: int, end: int) -> list[Any]:
        """What changes once the chunks of some rows do."""
        return [self._buffer.state(key) for c in self._chunks(begin, end) for key in self._keys(c)]

    def _chunks(self, begin: int, end: int) -> range:
        size = int(self._array.chunks[0])
        return range(begin // size, -(-end // size))

    def _chunk(self, number: int) -> npt.NDArray[Any]:
        with self._lock:
            if number != self._at:
                for key in self._keys(number):
                    self._require_whole(key)
                size = int(self._array.chunks[0])
                try:
                    self._held = np.asarray(self._array[number * size : (number + 1) * size])
                except Exception as error:  # of zarr and of the codec
                    name = f"{self._buffer.place}: chunk {self._keys(number)[0]}"
                    raise EpisodeError("{name} is damaged: {error}", name=name, error=reason(error)) from error
                self._at = number
            return self._held

    def _require_whole(self, key: str) -> None:
        """Raise `EpisodeError` where a chunk is missing, which zarr takes for zeros, or cut: Blosc reads beyond it."""
        state = self._buffer.state(key)
        if state is None:
            raise EpisodeError("{place} is incomplete: it lacks the chunk {key}", place=self._buffer.place, key=key)
        codec = self._about.get("compressor") or {}
        if codec.get("id") == "blosc" and self._buffer.place.is_dir():  # a .zip has checksums
            with (self._buffer.place / key).open("rb") as file:
                length = int.from_bytes(file.read(16)[12:], "little")
            if length != state[0]:
                raise EpisodeError(
                    "{place}: chunk {key} is damaged: {found} bytes of {length}",
                    place=self._buffer.place,
                    key=key,
                    found=state[0],
                    length=length,
                )

    def _keys(self, number: int) -> list[str]:
        """Files of a chunk of rows; several where rows are divided."""
        shape, chunks = self._array.shape[1:], self._array.chunks[1:]
        counts = [range(-(-length // size)) for length, size in zip(shape, chunks, strict=True)]
        separator = self._about.get("dimension_separator") or "."
        return [f"{self._name}/{separator.join(map(str, (number, *place)))}" for place in itertools.product(*counts)]

    @functools.cached_property
    def _about(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = json.loads(self._buffer.text(f"{self._name}/.zarray"))
        return found


class BufferImages:
    """Images of an episode by camera and row.

    Args:
        cameras: {camera: array}.
        where: name of the episode in messages.
    """

    def __init__(self, buffer: ReplayBuffer, cameras: Mapping[str, str], span: tuple[int, int], where: str) -> None:
        self._rows = {camera: Rows(buffer, f"data/{name}") for camera, name in cameras.items()}
        self._begin, self._count, self._where = span[0], span[1] - span[0], where

    def __call__(self, camera: str, i: int, at_least: tuple[int, int] | None) -> Image:
        if camera not in self._rows or not 0 <= i < self._count:
            raise no_image(self._where, camera, i, self._rows)
        stored = self._rows[camera].read(self._begin + i, self._begin + i + 1)[0]
        image = stored if stored.shape[-1] == 3 else np.ascontiguousarray(np.moveaxis(stored, 0, -1))
        if image.dtype == np.uint8:
            return image
        if 0 < image.max(initial=0) <= 1 and (image != np.rint(image)).any():
            raise EpisodeError(
                "{where}: image {i} of {camera} has values from 0 to 1, expected 0 to 255",
                where=self._where,
                i=i,
                camera=camera,
            )
        return np.asarray(np.clip(np.rint(image), 0, 255), np.uint8)


class BufferDepth:
    """Depth of an episode by camera and row, (H, W) uint16 mm.

    Args:
        cameras: {camera: array}.
        where: name of the episode in messages.
    """

    def __init__(self, buffer: ReplayBuffer, cameras: Mapping[str, str], span: tuple[int, int], where: str) -> None:
        self._rows = {camera: Rows(buffer, f"data/{name}") for camera, name in cameras.items()}
        self._begin, self._count, self._where = span[0], span[1] - span[0], where

    def __call__(self, camera: str, i: int) -> Depth:
        if camera not in self._rows or not 0 <= i < self._count:
            raise no_depth(self._where, camera, i, self._rows)
        return np.asarray(self._rows[camera].read(self._begin + i, self._begin + i + 1)[0], np.uint16)
