"""Export to a replay buffer as Diffusion Policy reads it: Zarr of version 2, one array a stream, a chunk an image."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import numpy.typing as npt

from aloha_kit.core import ConfigError
from aloha_kit.core.exporter import (
    array_of,
    attributes_of,
    contract_of,
    description_of,
    episode_arrays,
    EpisodeExporter,
    ExportRecord,
    PER_STEP,
    require_alike,
    WriteOptions,
)
from aloha_kit.core.features import SENSORS
from aloha_kit.core.files import link_or_copy, write_json
from aloha_kit.core.source import RecordedEpisode
from aloha_kit.formats.zarr_buffer import ENDS
from aloha_kit.formats.zarr_source import EPISODES, OURS

_CHUNK = 2_000_000  # bytes of a chunk of numbers, as Diffusion Policy divides them
_TABLES = "tables.npz"
DEPTH_SUFFIX = "_depth"


class ZarrExporter(EpisodeExporter):
    """A replay buffer: `data/action`, `data/state`, `data/<camera>` (`img` where there is one), `meta/episode_ends`.

    Depth is `data/<camera>_depth`, (rows, H, W) uint16 mm.

    Written after Zarr's specification, version 2. Images are exact. Each is a chunk, compressed as it is read, and
    linked into the data set at the end, when the rows of all episodes are known.
    """

    def __init__(self, folder: Path, parts: Path, options: WriteOptions) -> None:
        options.refuse("zarr", "images", "codec", "crf", "quality")
        super().__init__(folder, parts, options)

    def write(self, number: int, episode: RecordedEpisode, record: ExportRecord) -> None:
        rows, scratch, base = episode.length, self.scratch(number), episode.base_action
        tables: dict[str, npt.NDArray[Any]] = {}
        names = {name: _key(name) for name in episode_arrays(episode) if name != "base_action"}
        cameras = {camera: "img" if len(episode.cameras) == 1 else camera for camera in episode.cameras}
        depths = {camera: f"{camera}{DEPTH_SUFFIX}" for camera in episode.depth_cameras}
        keys = [*names.values(), *cameras.values(), *depths.values()]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise ConfigError(
                "{where}: two of its streams would be the array '{twice}'", where=episode.where, twice=twice[0]
            )
        for name, key in names.items():
            values = array_of(episode, name)
            tables[key] = record.array(name, values if name in PER_STEP else values[:rows])
        if base is not None:
            tables["action"] = np.concatenate([tables["action"], record.array("base_action", base)], axis=1)
        np.savez(scratch / _TABLES, **tables)  # type: ignore[arg-type]
        for camera, key in cameras.items():
            _write_images(scratch / key, record.pixels(episode, camera, rows))
        for camera, key in depths.items():
            _write_images(scratch / key, record.depth(episode, camera, rows))
        record.attributes = attributes_of(episode)
        described = {key: [str(values.dtype), *values.shape[1:]] for key, values in tables.items()}
        described |= {key: ["uint8", *episode.image_size(camera), 3] for camera, key in cameras.items()}
        contract = contract_of(episode)
        sizes = contract.depth_cameras
        described |= {key: ["uint16", *sizes[camera]] for camera, key in depths.items()}
        record.further = {
            "features": described,
            "arrays": {key: name for name, key in names.items()},
            "cameras": cameras,
            "depths": depths,
            "contract": contract.to_json(),
            "episode": description_of(episode),
        }

    def finish(self, records: Sequence[ExportRecord]) -> None:
        first = records[0].further
        for record in records:
            require_alike(records[0], record, "replay buffer")
        for name in ("data", "meta"):  # of an interrupted attempt
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in ("", "data", "meta"):
            (self.folder / name).mkdir(exist_ok=True)
            write_json(self.folder / name / ".zgroup", {"zarr_format": 2})
        about = {"contract": json.loads(first["contract"]), "arrays": first["arrays"], "cameras": first["cameras"]}
        if first["depths"]:
            about["depths"] = first["depths"]
        write_json(self.folder / ".zattrs", {OURS: about})
        with (self.folder / EPISODES).open("w", encoding="utf-8") as lines:
            for record in records:
                lines.write(json.dumps(record.further["episode"]) + "\n")
        ends = np.cumsum([record.steps for record in records]).astype(np.int64)
        with _Table(self.folder / ENDS, len(ends), ["int64"]) as table:
            table.add(ends)
        self._write_tables(records, int(ends[-1]))
        for key in (*first["cameras"].values(), *first["depths"].values()):
            folder = self.folder / "data" / key
            dtype, *shape = first["features"][key]
            within = ".0" * len(shape)
            row = 0
            for record in records:
                for i in range(record.steps):
                    link_or_copy(self.parts / f"{record.number:06d}" / key / str(i), folder / f"{row}{within}")
                    row += 1
            _describe(folder, (row, *shape), (1, *shape), np.dtype(dtype))

    def _write_tables(self, records: Sequence[ExportRecord], rows: int) -> None:
        described = {key: records[0].further["features"][key] for key in records[0].further["arrays"]}
        tables = {key: _Table(self.folder / "data" / key, rows, about) for key, about in described.items()}
        for record in records:
            with np.load(self.parts / f"{record.number:06d}" / _TABLES) as values:
                for key, table in tables.items():
                    table.add(values[key])
        for table in tables.values():
            table.close()


class _Table:
    """An array of numbers that is written chunk by chunk; memory holds one.

    Args:
        described: its type, and the shape of a row.
    """

    def __init__(self, folder: Path, rows: int, described: Sequence[Any]) -> None:
        self._folder, self._shape, self._dtype = folder, tuple(described[1:]), np.dtype(described[0])
        row = self._dtype.itemsize * int(np.prod(self._shape))
        self._rows = min(rows, -(-_CHUNK // max(1, row)))
        self._held = np.zeros((0, *self._shape), self._dtype)
        self._number = 0
        folder.mkdir(parents=True)
        _describe(folder, (rows, *self._shape), (self._rows, *self._shape), self._dtype)

    def __enter__(self) -> _Table:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, values: npt.NDArray[Any]) -> None:
        """Append rows."""
        self._held = np.concatenate([self._held, values])
        while len(self._held) >= self._rows:
            self._write(self._held[: self._rows])
            self._held = self._held[self._rows :]

    def close(self) -> None:
        """Write the last chunk, which is as long as the others."""
        if missing := len(self._held) and self._rows - len(self._held):
            self._write(np.concatenate([self._held, np.zeros((missing, *self._shape), self._dtype)]))

    def _write(self, chunk: npt.NDArray[Any]) -> None:
        name = ".".join([str(self._number), *("0" for _ in self._shape)])
        (self._folder / name).write_bytes(_codec().encode(np.ascontiguousarray(chunk)))
        self._number += 1


def _write_images(folder: Path, images: Iterable[npt.NDArray[Any]]) -> None:
    """Write each image as the chunk that it will be, by its row."""
    folder.mkdir()
    for i, image in enumerate(images):
        (folder / str(i)).write_bytes(_codec().encode(image))


def _key(name: str) -> str:
    """Name in the buffer of an array of an episode: without slashes, which would be groups."""
    return "state" if name == "qpos" else name.removeprefix(SENSORS).replace("/", ".")


def _codec() -> Any:
    """Diffusion Policy's compression on disk."""
    return numcodecs.Blosc("zstd", clevel=5, shuffle=numcodecs.Blosc.BITSHUFFLE)


def _describe(folder: Path, shape: Sequence[int], chunks: Sequence[int], dtype: np.dtype[Any]) -> None:
    """Write the description of an array, `.zarray`."""
    described: Mapping[str, Any] = {
        "zarr_format": 2,
        "shape": list(shape),
        "chunks": list(chunks),
        "dtype": dtype.str,
        "compressor": _codec().get_config(),
        "fill_value": 0,
        "filters": None,
        "order": "C",
    }
    write_json(folder / ".zarray", described)
