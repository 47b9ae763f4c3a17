"""Our side of `shards.py`, and beside it Lance and WebDataset's own reader, with the same decoding."""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import torch
import webdataset
from pace import Pace

from aloha_kit.convert.__main__ import main as convert
from aloha_kit.core.prefetch import prefetch
from aloha_kit.data.cache import cached_frames, folder_for
from aloha_kit.data.camera_frames import decoded, DirectFrames, frame
from aloha_kit.data.index import EpisodeTable, read_table
from aloha_kit.data.loader import Loader
from aloha_kit.data.sampler import Sampler
from aloha_kit.formats import open_source
from aloha_kit.storage.codec import decode_image, encoded_size
from aloha_kit.train.device import keep_freed_memory

WORKERS, ROUNDS = 2, 3
SIZES = ((120, 160), (240, 320), (480, 640))


def written(folder: Path, quality: int | None) -> tuple[Path, Path]:
    """The episodes as shards and as a Lance data set, as recorded or of another JPEG quality; made once."""
    shards, columns = (shards_of(folder, quality, name) for name in ("shards", "lance"))
    if not shards.is_dir():
        given = [] if quality is None else ["--quality", str(quality)]
        convert([str(folder), str(shards), "--format", "shards", *given])
    if not (columns / "complete").is_file():
        shutil.rmtree(columns, ignore_errors=True)
        source = open_source(shards)
        images: dict[str, list[bytes]] = {camera: [] for camera in source.open(0).cameras}
        for number in range(len(source)):
            episode: Any = source.open(number)
            for camera, rows in images.items():
                rows += [episode.jpeg(camera, i) for i in range(episode.length)]
        arrays = {camera: pa.array(rows, pa.large_binary()) for camera, rows in images.items()}
        lance.write_dataset(pa.table(arrays), str(columns), data_storage_version="2.0")
        (columns / "complete").touch()
    return shards, columns


def shards_of(folder: Path, quality: int | None, name: str = "shards") -> Path:
    """The folder in which the shards of a folder of episodes are."""
    return folder.with_name(folder.name.replace("ours", name if quality is None else f"{name}_of_quality_{quality}"))


class LanceFrames:
    """Frames from a Lance data set, decoded as `DirectFrames` does."""

    def __init__(self, folder: Path, cameras: Sequence[str], size: tuple[int, int] | None) -> None:
        self._data, self._cameras, self._size = lance.dataset(str(folder)), list(cameras), size
        self._pool = ThreadPoolExecutor(WORKERS)

    def gather(self, rows: Any, *, pin: bool = False) -> dict[str, Any]:
        found = self._data.take(rows.tolist(), columns=self._cameras)
        codes = {camera: found[camera].to_pylist() for camera in self._cameras}
        size = self._size
        if size is None:
            return codes
        images = {camera: np.empty((len(rows), *size, 3), np.uint8) for camera in self._cameras}
        jobs = itertools.product(self._cameras, range(len(rows)))

        def decode(_: int) -> None:
            for camera, i in jobs:
                shrunk(codes[camera][i], size, images[camera][i])

        for _ in self._pool.map(decode, range(WORKERS)):
            pass
        return {camera: torch.from_numpy(pixels).permute(0, 3, 1, 2) for camera, pixels in images.items()}


class Bytes:
    """The JPEG of shards, not decoded."""

    def __init__(self, table: EpisodeTable) -> None:
        self._table = table
        self._open: list[Any] = [table.open(number) for number in range(len(table.names))]

    def gather(self, rows: Any, *, pin: bool = False) -> dict[str, Any]:
        of = self._table.episode_of(rows)
        steps = (rows - self._table.starts[of]).tolist()
        places = list(zip(of.tolist(), steps, strict=True))
        return {camera: [self._open[e].jpeg(camera, i) for e, i in places] for camera in self._table.cameras}


def shrunk(code: bytes, size: tuple[int, int], out: Any = None) -> Any:
    pixels = np.empty((*size, 3), np.uint8) if out is None else out
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    read = functools.partial(decode_image, code, out=pixels)
    return decoded(lambda at_least: read(at_least=at_least), encoded_size(code) or size, size, image)


def stream(shards: Path, cameras: Sequence[str], size: tuple[int, int], batch: int) -> Iterator[Any]:
    """Batches of WebDataset's own reader: the files in order, shuffled in its buffer, decoded by two threads."""
    pool = ThreadPoolExecutor(WORKERS)
    files = [str(file) for file in sorted(shards.glob("shard-*.tar"))]
    samples = iter(webdataset.WebDataset(files, shardshuffle=False).repeat().shuffle(500))
    while True:
        taken = [next(samples) for _ in range(batch)]
        codes = [sample[f"{camera}.jpg"] for sample in taken for camera in cameras]
        yield list(pool.map(functools.partial(shrunk, size=size), codes))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("chunk", type=int)
    parser.add_argument("batch", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--only", default="", help="how the names of the rows to measure begin")
    parser.add_argument("--quality", type=int, help="of the JPEG; as recorded when not given")
    args = parser.parse_args()
    keep_freed_memory()  # as training on a CPU does; a GPU's batches are in page-locked memory, which is used again too
    shards, columns = written(args.folder, args.quality)
    tables = {"shards": read_table(open_source(shards)), "HDF5": read_table(open_source(args.folder))}
    table = tables["shards"]
    sampler = Sampler(table, range(len(table.names)), args.batch)
    modes: dict[str, tuple[Callable[[], Iterator[object]], int]] = {}

    def ahead(frames: Any, of: EpisodeTable = table) -> Callable[[], Iterator[object]]:
        loader = Loader(of, frames, args.chunk)
        return lambda: prefetch(map(loader.batch, sampler.batches(0, 10**9)))  # as training takes them

    own = table.contract.cameras["top"]
    for size in (size for size in SIZES if size <= own):
        sizes = dict.fromkeys(table.cameras, size)
        name = f"to {size[0]}x{size[1]}"
        cache = cached_frames(table, sizes, folder_for(table, None), workers=WORKERS)
        ahead_of_cache = ahead(cache)
        for rows in sampler.batches(0, sampler.steps(2)):  # in memory before the clock runs
            cache.gather(rows)
        modes |= {
            f"shards, {name}": (ahead(DirectFrames(table, sizes, WORKERS)), 10),
            f"Lance, {name}": (ahead(LanceFrames(columns, table.cameras, size)), 10),
            f"HDF5, {name}": (ahead(DirectFrames(tables["HDF5"], sizes, WORKERS), tables["HDF5"]), 10),
            f"stream, {name}": (functools.partial(stream, shards, table.cameras, size, args.batch), 10),
            f"cached, {name}": (ahead_of_cache, 20),
        }
    for name, frames in (("shards", Bytes(table)), ("Lance", LanceFrames(columns, table.cameras, None))):
        order = sampler.batches
        modes[f"{name}, bytes"] = (functools.partial(gathered, frames, order), 10)
    stored: Any = table.open(0)
    first = np.asarray(shrunk(stored.jpeg("top", 7), SIZES[0]))
    assert args.quality or np.array_equal(
        first, frame(tables["HDF5"].open(0), "top", 7, SIZES[0], table.contract.cameras["top"])
    )
    modes = {name: mode for name, mode in modes.items() if name.startswith(args.only)}
    paces = {name: Pace() for name in modes}
    for _ in range(ROUNDS):  # in turns, so that whatever else the machine does meets all of them
        for name, (batches, warm_up) in modes.items():
            paces[name].measure(batches, args.batch, args.seconds / ROUNDS, warm_up)
    print(json.dumps({name: pace.result() for name, pace in paces.items()}))


def gathered(frames: Any, order: Callable[[int, int], Iterator[Any]]) -> Iterator[Any]:
    return map(frames.gather, order(0, 10**9))


if __name__ == "__main__":
    main()
