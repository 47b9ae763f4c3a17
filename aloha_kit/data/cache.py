"""Frame cache: images decoded and resized once, then memory-mapped.

One file of pixels per camera, kind (image, depth) and size, (rows, channels, H, W), beside an index of the rows of each
episode (by `EpisodeTable.cache_key`). Episodes are only ever appended, and an episode counts from the moment its rows
are on the disk and the index is renamed into place: a build that was interrupted goes on with the next episode.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Mapping
from concurrent.futures import as_completed, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from aloha_kit.core import ConfigError
from aloha_kit.core.files import locked, user_cache, write_text
from aloha_kit.core.lang import Message
from aloha_kit.core.versions import FRAME_CACHE
from aloha_kit.data.camera_frames import FrameKind, MappedFrames, RGB
from aloha_kit.data.index import EpisodeTable

_LOG = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]

_BLOCK = 64  # frames decoded between writes


def folder_for(table: EpisodeTable, cache_dir: str | None) -> Path:
    """`.cache` in the folder of the episodes, or in `cache_dir` a folder of this data set's own.

    Where nothing can be written beside the episodes (a read-only share), the folder is one of the data set's own in the
    user's cache folder (`core.files.user_cache`), and that is logged. So it is where they lie in no folder.
    """
    data = table.source.place.resolve()
    own = f"{data.name}-{hashlib.sha256(str(data).encode(errors='surrogateescape')).hexdigest()[:12]}"
    if cache_dir is not None:
        return Path(cache_dir) / own
    beside = data / ".cache"
    if not data.is_dir():
        return user_cache() / own
    try:
        beside.mkdir(exist_ok=True)
        with (beside / "lock").open("a"):
            return beside
    except OSError as error:
        folder = user_cache() / own
        _LOG.warning("%s cannot be written (%s); the frame cache is in %s", data, error.strerror, folder)
        return folder


def cached_frames(
    table: EpisodeTable,
    sizes: Mapping[str, tuple[int, int]],
    folder: Path,
    *,
    workers: int,
    progress: bool = True,
    kind: FrameKind = RGB,
) -> MappedFrames:
    """The frames of every row, from the cache in `folder`; what is missing is decoded first, `workers` at a time.

    Raises:
        ConfigError: the disk is too small (reports the missing space and a remedy), or the folder cannot be written.
        EpisodeError: a frame cannot be decoded.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        parts = {camera: _CameraFile(folder, camera, size, kind) for camera, size in sizes.items()}
        with locked(folder / "lock"):
            for part in parts.values():
                part.load(table)
            _require_space(folder, sum(part.missing_bytes(table) for part in parts.values()))
            _fill(table, list(parts.values()), workers, progress)
    except OSError as error:
        raise ConfigError(
            "the frame cache in {folder} cannot be written: {reason}. Give another place with --cache_dir, "
            "or use --cache none",
            folder=folder,
            reason=error.strerror or error,
        ) from error
    rows = {camera: part.rows(table) for camera, part in parts.items()}
    return MappedFrames({camera: part.data for camera, part in parts.items()}, sizes, rows, kind)


class _CameraFile:
    """One camera's images or depth at one size: a file of frames and its index."""

    def __init__(self, folder: Path, camera: str, size: tuple[int, int], kind: FrameKind) -> None:
        self._folder = folder
        self.camera, self.size, self._kind = camera, size, kind
        self.frame_bytes = kind.bytes(size)
        self._name = f"{camera}_{size[0]}x{size[1]}{kind.name}"
        self._index = folder / f"{self._name}.json"
        self._generation = 0
        self._where: dict[str, tuple[int, int]] = {}  # episode key: first row, number of rows
        self._lock = threading.Lock()

    @property
    def data(self) -> Path:
        """The file of frames."""
        return self._folder / f"{self._name}.{self._generation}.frames"

    def load(self, table: EpisodeTable) -> None:
        """Read the index; entries whose bytes are not there do not count."""
        try:
            raw = json.loads(self._index.read_text(encoding="utf-8"))
            if raw["version"] != FRAME_CACHE:
                raise ValueError(Message("version {version}", version=raw["version"]))
            self._generation = int(raw["generation"])
            rows = self.data.stat().st_size // self.frame_bytes
            self._where = {k: (int(a), int(n)) for k, (a, n) in raw["episodes"].items() if int(a) + int(n) <= rows}
        except FileNotFoundError:
            self._where = {}
        except (KeyError, TypeError, ValueError):
            self._start_over()  # the frames of a damaged index are decoded again
        # of the whole data set: this run may use only some of its episodes
        live = {*table.source.identities(), *self._keys(table)}
        used = sum(count for key, (_, count) in self._where.items() if key in live)
        stale = sum(count for key, (_, count) in self._where.items() if key not in live)
        if stale > max(used, len(table)):
            self._start_over()

    def _start_over(self) -> None:
        # a new file rather than reused rows: a training run may still have the old one mapped
        old, self._where = self.data, {}
        self._generation += 1
        old.unlink(missing_ok=True)

    def missing(self, table: EpisodeTable) -> list[int]:
        """Episodes that are not in the file yet."""
        return [
            e for e, key in enumerate(self._keys(table)) if self._where.get(key, (0, -1))[1] != int(table.lengths[e])
        ]

    def missing_bytes(self, table: EpisodeTable) -> int:
        return int(table.lengths[self.missing(table)].sum()) * self.frame_bytes

    def free_row(self) -> int:
        """First row behind all that counts; what an interrupted build left there is written over."""
        return max((first + count for first, count in self._where.values()), default=0)

    def decode(self, table: EpisodeTable, number: int, first: int) -> None:
        """Write the frames of one episode from row `first` on, and make them count."""
        steps, recorded = int(table.lengths[number]), table.contract.cameras.get(self.camera, self.size)
        table.source.fetch(table.numbers[number])
        handle = os.open(self.data, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            with closing(table.open(number)) as episode:
                for start in range(0, steps, _BLOCK):
                    stop = min(start + _BLOCK, steps)
                    block = self._kind.empty(stop - start, self.size)
                    for i in range(start, stop):
                        self._kind.read(episode, self.camera, i, self.size, recorded, block[i - start])
                    # plain writes: a full disk is an error here, and would be a SIGBUS through a mapping
                    _write_at(handle, memoryview(block.numpy().tobytes()), (first + start) * self.frame_bytes)
            os.fsync(handle)
        finally:
            os.close(handle)
        with self._lock:
            self._where[table.cache_key(number)] = (first, steps)
            content = {"version": FRAME_CACHE, "generation": self._generation, "episodes": self._where}
            write_text(self._index, json.dumps(content))

    def rows(self, table: EpisodeTable) -> Ints:
        """(N,) where each row of the table lies."""
        firsts = np.array([self._where[key][0] for key in self._keys(table)], np.int64)
        return np.repeat(firsts - table.starts, table.lengths) + np.arange(len(table))

    @staticmethod
    def _keys(table: EpisodeTable) -> list[str]:
        return [table.cache_key(number) for number in range(len(table.names))]


def _fill(table: EpisodeTable, parts: list[_CameraFile], workers: int, progress: bool) -> None:
    """Decode what is missing. Threads, not processes: OpenCV decodes and resizes without the interpreter's lock, and a
    process would have to load torch first."""
    jobs: list[tuple[_CameraFile, int, int]] = []
    for part in parts:
        row = part.free_row()
        for episode in part.missing(table):
            jobs.append((part, episode, row))
            row += int(table.lengths[episode])
    if not jobs:
        return
    jobs.sort(key=lambda job: job[1])  # all cameras of an episode in a row: a shard is fetched, a bag recorded, once
    frames = sum(int(table.lengths[episode]) for _, episode, _ in jobs)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        # a bar needs a terminal (None: tqdm looks for itself)
        with tqdm(total=frames, desc="Decoding frames", unit="frame", disable=None if progress else True) as bar:
            if progress and bar.disable:
                _LOG.info("Decoding %d frames", frames)
            running = {pool.submit(part.decode, table, e, row): int(table.lengths[e]) for part, e, row in jobs}
            for done in as_completed(running):
                done.result()
                bar.update(running[done])
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _write_at(handle: int, data: memoryview, position: int) -> None:
    while data:
        written = os.pwrite(handle, data, position)
        data, position = data[written:], position + written


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free * 0.95:
        raise ConfigError(
            "the frame cache needs {needed:.1f} GB more in {folder}, where {free:.1f} GB are free. Use a "
            "smaller --image_size, fewer cameras, another disk with --cache_dir, or --cache none",
            needed=needed / 1e9,
            folder=folder,
            free=free / 1e9,
        )
