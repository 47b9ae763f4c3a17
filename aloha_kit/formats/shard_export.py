"""Export to shards: tar files in WebDataset's layout, with tables beside them by which every row is found at once."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

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
from aloha_kit.core.features import DEPTHS, IMAGES
from aloha_kit.core.files import link_or_copy, sha256_of, write_json
from aloha_kit.core.image_grid import describe
from aloha_kit.core.jpeg import encode_depth_png, encode_jpeg, encode_png, psnr
from aloha_kit.core.source import RecordedEpisode
from aloha_kit.core.versions import package_version, SHARDS
from aloha_kit.formats.hdf5_export import stored_images, stored_order
from aloha_kit.formats.shard_store import EPISODES, INDEX, table_file, TABLES
from aloha_kit.storage.codec import decode_image, image_kind

SHARD_BYTES = 64_000_000
"""Size up to which episodes are put into one shard; a larger episode is a shard by itself."""
GRIDS = 8
"""Images of each camera and episode that are described for the camera statistics."""
GRIDS_AT_MOST = 4000
"""The same of the whole data set."""
QUALITY = 95  # of images that have to be encoded
SAMPLES = 16  # images of which the quality is measured, a camera and episode
_ENDINGS = {"jpeg": "jpg", "png": "png", "webp": "webp"}
_BLOCK = 512  # of a tar file
_PARTS = "tables.npz"


class ShardExporter(EpisodeExporter):
    """`shard-<number>.tar`, `shards.json`, `episodes.jsonl`, and an array of the rows of all episodes in `tables/`.

    A row is a sample of WebDataset: `<camera>.jpg`, `<camera>.depth.png`, `state.npy`, `action.npy`. The observation
    after the last action is in the folder `__last__`, which WebDataset's reader skips. Stored images are copied byte
    for byte, others become JPEG of quality 95, or with `--images raw` PNG. With `--quality` all become JPEG of that.
    """

    def __init__(self, folder: Path, parts: Path, options: WriteOptions) -> None:
        options.refuse("shards", "codec", "crf")
        if options.images == "raw":
            options.refuse("shards --images raw", "quality")
        super().__init__(folder, parts, options)

    def write(self, number: int, episode: RecordedEpisode, record: ExportRecord) -> None:
        scratch = self.scratch(number)
        tables = {name: record.array(name, array_of(episode, name)) for name in episode_arrays(episode)}
        features = {name: [str(values.dtype), *values.shape[1:]] for name, values in tables.items()}
        action = episode.action if episode.base_action is None else np.hstack([episode.action, episode.base_action])
        images = {f"{IMAGES}{name}": self._images(episode, record, name) for name in episode.cameras}
        images |= {f"{DEPTHS}{name}": self._depth(episode, record, name) for name in episode.depth_cameras}
        places: dict[str, list[tuple[int, int]]] = {name: [] for name in images}
        with (scratch / "episode.tar").open("wb") as stream:
            shard = _TarWriter(stream)
            for row in range(episode.frames):
                key = f"{'__last__/' if row == episode.length else ''}{number:06d}_{row:06d}"
                for name, rows in images.items():
                    ending, data = next(rows)
                    places[name].append(shard.add(f"{key}.{ending}", data))
                shard.add(f"{key}.state.npy", _npy(episode.qpos[row]))
                if row < episode.length:
                    shard.add(f"{key}.action.npy", _npy(action[row]))
            for rows in images.values():
                next(rows, None)  # it notes the camera
            shard.close()
        record.attributes = attributes_of(episode)
        record.notes = list(dict.fromkeys(record.notes))
        named = {f"places/{name}": np.array(rows, np.int64) for name, rows in places.items()}
        grids = {f"grids/{name}": _grids(episode, name) for name in episode.cameras}
        np.savez(scratch / _PARTS, **tables, **named, **grids)  # type: ignore[arg-type]
        sizes = {f"{IMAGES}{name}": list(episode.image_size(name)) for name in episode.cameras}
        record.further = {
            "features": features | sizes | {f"{DEPTHS}{name}": ["uint16"] for name in episode.depth_cameras},
            "arrays": list(tables),
            "cameras": list(episode.cameras),
            "depth_cameras": list(episode.depth_cameras),
            "images": list(places),
            "contract": contract_of(episode).to_json(),
            "frames": episode.frames,
            "bytes": (scratch / "episode.tar").stat().st_size,
            "sha256": sha256_of(scratch / "episode.tar"),
            "episode": {
                **description_of(episode),
                "jpeg_order": jpeg_order(episode),
                "assumption": episode.assumption,
                "action_offset": episode.action_offset,
            },
        }

    def finish(self, records: Sequence[ExportRecord]) -> None:
        for name in (TABLES, *(path.name for path in self.folder.glob("shard-*.tar"))):  # of an interrupted attempt
            path = self.folder / name
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        first = records[0]
        rows = np.zeros((len(records), 4), np.int64)  # shard, offset in it, steps, observations
        shards: list[dict[str, Any]] = []
        members: list[ExportRecord] = []
        with (self.folder / EPISODES).open("w", encoding="utf-8") as lines:
            for position, record in enumerate(records):
                require_alike(first, record, "data set of shards")
                size = record.further["bytes"]
                if members and sum(each.further["bytes"] for each in members) + size > SHARD_BYTES:
                    shards.append(self._shard(len(shards), members))
                    members = []
                begin = sum(each.further["bytes"] - 2 * _BLOCK for each in members)
                rows[position] = len(shards), begin, record.steps, record.further["frames"]
                members.append(record)
                about = {**record.further["episode"], "sha256": record.further["sha256"]}
                lines.write(json.dumps(about) + "\n")
        shards.append(self._shard(len(shards), members))
        (self.folder / TABLES).mkdir()
        np.save(self.folder / table_file("episodes"), rows)
        self._write_tables(records, rows)
        files = [self.folder / EPISODES, *sorted((self.folder / TABLES).iterdir())]
        index = {
            "aloha_kit_shards": SHARDS,
            "software": f"aloha_kit {package_version()}",
            "contract": json.loads(first.further["contract"]),
            **{key: first.further[key] for key in ("arrays", "cameras", "depth_cameras", "images")},
            "episodes": len(records),
            "steps": int(rows[:, 2].sum()),
            "tables": {str(file.relative_to(self.folder)): _listed(file) for file in files},
            "shards": shards,
        }
        write_json(self.folder / INDEX, index)

    def _images(self, episode: RecordedEpisode, record: ExportRecord, camera: str) -> Iterator[tuple[str, bytes]]:
        """Images of a camera (ending, bytes), row by row: as they are stored, else encoded."""
        stored = stored_images(episode, camera)
        if stored is not None and self.options.quality is None:
            digest = hashlib.sha256()
            for row in range(episode.frames):
                data = stored(row)
                digest.update(data)
                yield f"{camera}.{_ENDINGS[image_kind(data) or 'jpeg']}", data
            record.images[camera] = {"rows": episode.frames, "sha256": digest.hexdigest(), "of": "stored"}
            return
        exchanged = jpeg_order(episode) == "mobile_aloha"
        images = record.pixels(episode, camera, episode.frames)
        if self.options.images == "raw":
            for image in images:
                yield f"{camera}.png", encode_png(image[..., ::-1] if exchanged else image)
            return
        quality, decibels = self.options.quality or QUALITY, []
        every = max(1, episode.frames // SAMPLES)
        for row, image in enumerate(images):
            data = encode_jpeg(image, quality, exchanged=exchanged).tobytes()
            if row % every == 0:
                decibels.append(psnr(image, decode_image(data, "mobile_aloha" if exchanged else "standard")))
            yield f"{camera}.jpg", data
        record.images[camera]["psnr_db"] = round(float(np.mean(decibels)), 2)
        record.notes.append(f"images are encoded as JPEG of quality {quality}")

    def _depth(self, episode: RecordedEpisode, record: ExportRecord, camera: str) -> Iterator[tuple[str, bytes]]:
        """A camera's depth (ending, PNG), row by row."""
        for depth in record.depth(episode, camera, episode.frames):
            yield f"{camera}.depth.png", encode_depth_png(depth)

    def _shard(self, number: int, members: Sequence[ExportRecord]) -> dict[str, Any]:
        """Write a shard of some episodes; returns its line of the index."""
        file = self.folder / f"shard-{number:06d}.tar"
        parts = [self.parts / f"{record.number:06d}" / "episode.tar" for record in members]
        if len(parts) == 1:
            link_or_copy(parts[0], file)
        else:
            with file.open("wb") as stream:
                for part in parts:
                    with part.open("rb") as read:
                        shutil.copyfileobj(read, stream, 1 << 20)
                    stream.seek(-2 * _BLOCK, 1)  # the end of the archive
                stream.seek(2 * _BLOCK, 1)
        single = members[0].further["sha256"] if len(members) == 1 else sha256_of(file)
        return {"name": file.name, "bytes": file.stat().st_size, "sha256": single, "episodes": len(members)}

    def _write_tables(self, records: Sequence[ExportRecord], rows: npt.NDArray[np.int64]) -> None:
        """Write the arrays of all episodes, one episode in memory at a time."""
        further = records[0].further
        totals = {True: int(rows[:, 2].sum()), False: int(rows[:, 3].sum())}
        tables: dict[str, Any] = {}
        for name in further["arrays"]:
            dtype, *shape = further["features"][name]
            tables[name] = self._table(name, dtype, (totals[name in PER_STEP], *shape))
        for feature in further["images"]:
            tables[f"places/{feature}"] = self._table(f"places/{feature}", "int64", (totals[False], 2))
        every = -(-GRIDS * len(records) // GRIDS_AT_MOST)  # of the images that are described
        grids: dict[str, list[npt.NDArray[Any]]] = {f"grids/{camera}": [] for camera in further["cameras"]}
        of: list[int] = []
        written = dict.fromkeys(tables, 0)
        for position, record in enumerate(records):
            with np.load(self.parts / f"{record.number:06d}" / _PARTS) as values:
                for name, table in tables.items():
                    rows_of = values[name]
                    table[written[name] : written[name] + len(rows_of)] = rows_of
                    written[name] += len(rows_of)
                kept = [i for i in range(GRIDS) if (position * GRIDS + i) % every == 0]
                of += [position] * len(kept)
                for name, found in grids.items():
                    found.append(values[name][kept])
        for table in tables.values():
            table.flush()
        np.save(self.folder / table_file("grids"), np.array(of, np.int64))
        for name, found in grids.items():
            np.save(self.folder / table_file(name), np.concatenate(found))

    def _table(self, name: str, dtype: str, shape: tuple[int, ...]) -> Any:
        return np.lib.format.open_memmap(self.folder / table_file(name), "w+", np.dtype(dtype), shape)


class _TarWriter:
    """A tar file that is written from begin to end."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def add(self, name: str, data: bytes) -> tuple[int, int]:
        """Append a file; returns where its bytes are: (offset, size)."""
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._stream.write(member.tobuf(tarfile.USTAR_FORMAT))
        offset = self._stream.tell()
        self._stream.write(data + b"\0" * (-len(data) % _BLOCK))
        return offset, len(data)

    def close(self) -> None:
        """Write the end of the archive."""
        self._stream.write(b"\0" * (2 * _BLOCK))


def jpeg_order(episode: RecordedEpisode) -> str:
    """Order of red and blue in the images of an exported episode: that of its stored images, else the standard one."""
    stored = any(stored_images(episode, camera) is not None for camera in episode.cameras)
    return stored_order(episode) if stored else "standard"


def _grids(episode: RecordedEpisode, camera: str) -> npt.NDArray[np.float32]:
    """(GRIDS, 192) of images that are spread evenly over an episode's steps."""
    rows = np.linspace(0, episode.length - 1, GRIDS).round().astype(int)
    return np.stack([describe(episode.image(camera, int(row))) for row in rows])


def _npy(values: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def _listed(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
