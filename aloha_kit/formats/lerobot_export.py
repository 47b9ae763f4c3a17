"""LeRobot's data sets as a target, versions 3.0 and 2.1, and openpi's ALOHA form of the latter.

Written after the published layout, with pyarrow and PyAV. The videos have a constant rate; true stamps are columns
`stamp.<stream>` in ns. An episode's videos and table are made by themselves; at the end they are numbered, and in
version 3.0 joined.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from aloha_kit.core import ConfigError, Contract
from aloha_kit.core.exporter import (
    array_of,
    attributes_of,
    description_of,
    episode_arrays,
    EpisodeExporter,
    ExportRecord,
    PER_STEP,
    require_alike,
    WriteOptions,
)
from aloha_kit.core.files import write_json
from aloha_kit.core.source import RecordedEpisode
from aloha_kit.formats import lerobot_features as features
from aloha_kit.formats.video_export import codec_and_crf, write_video
from aloha_kit.media.video_files import join_videos

FILES = 1000  # in a folder
_DATA_MB, _VIDEO_MB = 100, 200  # of a file, before a new one is begun
_EPISODES = 1000  # in a row group of the table of episodes


class LeRobotExporter(EpisodeExporter):
    """LeRobot v3.0: several episodes a file."""

    version = "v3.0"

    def __init__(self, folder: Path, parts: Path, options: WriteOptions) -> None:
        options.refuse(f"lerobot {self.version}", "images", "quality")
        super().__init__(folder, parts, options)
        self.codec, self.crf = codec_and_crf(options)

    def camera_name(self, camera: str) -> str:
        """The camera's name behind `observation.images.`."""
        return camera

    def carried(self, episode: RecordedEpisode) -> list[str]:
        """Arrays that are written, by their names in the episode; a base's action is part of `action`."""
        return [name for name in episode_arrays(episode) if name != "base_action"]

    def write(self, number: int, episode: RecordedEpisode, record: ExportRecord) -> None:
        contract, rows, scratch = episode.contract, episode.length, self.scratch(number)
        rate = whole_rate(contract)
        columns, described, stats = {}, {}, {}
        for name in self.carried(episode):
            values = array_of(episode, name)
            if values.ndim > 2:
                continue  # stays among what is lost
            values = record.array(name, values if name in PER_STEP else values[:rows])
            if name == "action" and episode.base_action is not None:
                base = record.array("base_action", episode.base_action)
                values = np.concatenate([values, base], axis=1)
            column = features.column_of(contract, name)
            columns[column] = values
            described[column] = features.vector_feature(contract, name, values)
            stats[column] = features.table_stats(values)
        for camera in episode.cameras:
            key = f"{features.IMAGES}{self.camera_name(camera)}"
            described[key] = features.video_feature(episode.image_size(camera), self.codec, rate)
            stats[key] = self._video(episode, camera, scratch / f"{key}.mp4", record)
        pq.write_table(table_of(columns), scratch / "data.parquet")
        record.attributes = attributes_of(episode)
        if episode.cameras:
            record.notes.append(f"images are video ({self.codec}, crf {self.crf})")
        record.further = {
            "task": str(episode.attrs.get("instruction") or episode.attrs.get("task") or "no instruction"),
            "features": described,
            "stats": stats,
            "arrays": {features.column_of(contract, name): name for name in self.carried(episode)},
            "cameras": {f"{features.IMAGES}{self.camera_name(camera)}": camera for camera in episode.cameras},
            "contract": contract.to_json(),
            "rate_hz": rate,
            "rig": str(episode.attrs.get("rig") or ""),
            "episode": description_of(episode),
        }

    def _video(self, episode: RecordedEpisode, camera: str, path: Path, record: ExportRecord) -> features.Stats:
        """Write the video of a camera; returns the statistics of its images. Errors as `write_video`."""
        size, stats = episode.image_size(camera), features.ImageStats(episode.length)
        if size[0] % 2 or size[1] % 2:
            raise ConfigError(
                "{where}: camera '{camera}' is {height}x{width}; videos need even sizes",
                where=episode.where,
                camera=camera,
                height=size[0],
                width=size[1],
            )
        write_video(episode, camera, path, record, self.codec, self.crf, whole_rate(episode.contract), stats.add)
        return stats.result()

    def finish(self, records: Sequence[ExportRecord]) -> None:
        for entry in self.folder.iterdir():  # of an interrupted attempt
            if entry.name in ("data", "meta", "videos"):
                shutil.rmtree(entry)
        (self.folder / "meta").mkdir()
        first = records[0].further
        tasks: dict[str, int] = {}
        for record in records:
            require_alike(records[0], record, "LeRobot data set")
            tasks.setdefault(record.further["task"], len(tasks))
        self._write_episodes(records, tasks)
        _write_tasks(self.folder, tasks, self.version)
        described = {**first["features"], **features.bookkeeping_features()}
        write_json(self.folder / "meta/info.json", self._info(records, described, len(tasks)))
        about = {"contract": json.loads(first["contract"]), "arrays": first["arrays"], "cameras": first["cameras"]}
        write_json(self.folder / features.META, about)
        with (self.folder / features.EPISODES_META).open("w", encoding="utf-8") as lines:
            for record in records:
                lines.write(json.dumps(record.further["episode"]) + "\n")

    def _info(self, records: Sequence[ExportRecord], described: dict[str, Any], tasks: int) -> dict[str, Any]:
        first = records[0].further
        return {
            "codebase_version": self.version,
            "robot_type": first["rig"] or None,
            "total_episodes": len(records),
            "total_frames": sum(record.steps for record in records),
            "total_tasks": tasks,
            "chunks_size": FILES,
            "data_files_size_in_mb": _DATA_MB,
            "video_files_size_in_mb": _VIDEO_MB,
            "fps": first["rate_hz"],
            "splits": {"train": f"0:{len(records)}"},
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
            "features": described,
        }

    def _write_episodes(self, records: Sequence[ExportRecord], tasks: dict[str, int]) -> None:
        """Write data, videos, and the table of episodes with where each of them is."""
        rate, cameras = records[0].further["rate_hz"], list(records[0].further["cameras"])
        data = _DataFiles(self.folder)
        videos = {key: _VideoFiles(self.folder, key, rate) for key in cameras}
        path = self.folder / "meta/episodes/chunk-000/file-000.parquet"
        path.parent.mkdir(parents=True)
        rows: list[dict[str, Any]] = []
        writer: pq.ParquetWriter | None = None
        try:
            for episode, record in enumerate(records):
                scratch = self.parts / f"{record.number:06d}"
                table, stats = self.numbered(scratch, episode, record, data.rows, tasks, rate)
                places = data.add(table)
                for key, files in videos.items():
                    places |= files.add(scratch / f"{key}.mp4", record.steps)
                flat = {f"stats/{name}/{k}": value for name, one in stats.items() for k, value in one.items()}
                row = {"episode_index": episode, "tasks": [record.further["task"]], "length": record.steps, **places}
                rows.append(row | flat | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
                if len(rows) == _EPISODES or episode == len(records) - 1:
                    batch = pa.Table.from_pylist(rows, schema=writer.schema if writer else None)
                    writer = writer or pq.ParquetWriter(path, batch.schema)
                    writer.write_table(batch)
                    rows = []
        finally:
            data.close()
            if writer is not None:
                writer.close()
        for files in videos.values():
            files.close()
        write_json(self.folder / "meta/stats.json", features.joined_stats(self._all_stats(records, tasks, rate)))

    def _all_stats(
        self, records: Sequence[ExportRecord], tasks: dict[str, int], rate: int
    ) -> Iterator[dict[str, features.Stats]]:
        """Statistics of each episode, of its own columns and of `BOOKKEEPING`."""
        first = 0
        for episode, record in enumerate(records):
            counted = features.numbered(first, episode, tasks[record.further["task"]], record.steps, rate)
            yield record.further["stats"] | {name: features.table_stats(values) for name, values in counted.items()}
            first += record.steps

    def numbered(
        self, scratch: Path, episode: int, record: ExportRecord, first: int, tasks: dict[str, int], rate: int
    ) -> tuple[pa.Table, dict[str, features.Stats]]:
        """An episode's table with the columns of `BOOKKEEPING`, and all its statistics."""
        counted = features.numbered(first, episode, tasks[record.further["task"]], record.steps, rate)
        table = pq.read_table(scratch / "data.parquet")
        for name, values in counted.items():
            table = table.append_column(name, pa.array(values))
        stats = {name: features.table_stats(values) for name, values in counted.items()}
        return table, record.further["stats"] | stats


class _DataFiles:
    """Tables of episodes, a row group each, in files of bounded size."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._file, self._bytes = folder, 0, 0
        self._writer: pq.ParquetWriter | None = None
        self.rows = 0

    def add(self, table: pa.Table) -> dict[str, int]:
        """Write an episode; returns where it is, in LeRobot's words."""
        if self._writer is not None and self._bytes + table.nbytes >= _DATA_MB << 20:
            self.close()
            self._file, self._bytes = self._file + 1, 0
        chunk, file = divmod(self._file, FILES)
        if self._writer is None:
            path = self._folder / f"data/chunk-{chunk:03d}/file-{file:03d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(path, table.schema)
        self._writer.write_table(table, row_group_size=max(1, len(table)))
        self._bytes += table.nbytes
        begin, self.rows = self.rows, self.rows + len(table)
        return {
            "data/chunk_index": chunk,
            "data/file_index": file,
            "dataset_from_index": begin,
            "dataset_to_index": self.rows,
        }

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class _VideoFiles:
    """Videos of a camera, joined to files of bounded size."""

    def __init__(self, folder: Path, key: str, rate_hz: int) -> None:
        self._folder, self._key, self._rate = folder, key, rate_hz
        self._file, self._bytes, self._frames = 0, 0, 0
        self._parts: list[tuple[Path, int]] = []

    def add(self, part: Path, frames: int) -> dict[str, Any]:
        """Add an episode; returns where it is, in LeRobot's words."""
        size = part.stat().st_size
        if self._parts and self._bytes + size >= _VIDEO_MB << 20:
            self.close()
            self._file += 1
        chunk, file = divmod(self._file, FILES)
        begin, end = self._frames, self._frames + frames
        self._parts.append((part, frames))
        self._bytes, self._frames = self._bytes + size, end
        prefix = f"videos/{self._key}"
        return {
            f"{prefix}/chunk_index": chunk,
            f"{prefix}/file_index": file,
            f"{prefix}/from_timestamp": begin / self._rate,  # from whole numbers: sums of durations would drift
            f"{prefix}/to_timestamp": end / self._rate,
        }

    def close(self) -> None:
        """Write the file."""
        if self._parts:
            chunk, file = divmod(self._file, FILES)
            target = self._folder / f"videos/{self._key}/chunk-{chunk:03d}/file-{file:03d}.mp4"
            join_videos(self._parts, target, self._rate)
        self._parts, self._bytes, self._frames = [], 0, 0


def whole_rate(contract: Contract) -> int:
    """The rate as LeRobot has it.

    Raises:
        ConfigError: it is no whole number.
    """
    if contract.rate_hz != int(contract.rate_hz):
        raise ConfigError(
            "LeRobot's rate is a whole number of Hz, these episodes have {rate_hz:g}", rate_hz=contract.rate_hz
        )
    return int(contract.rate_hz)


def table_of(columns: dict[str, npt.NDArray[Any]]) -> pa.Table:
    """Columns as a table: lists of fixed size for vectors, single values for columns of width 1."""
    arrays = {}
    for name, values in columns.items():
        width = values.shape[1] if values.ndim == 2 else 1
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        arrays[name] = flat if width == 1 else pa.FixedSizeListArray.from_arrays(flat, width)
    return pa.table(arrays)


def _write_tasks(folder: Path, tasks: dict[str, int], version: str) -> None:
    """The table of tasks; in version 3.0 with the metadata by which pandas takes the text as the index."""
    if version != "v3.0":
        lines = [json.dumps({"task_index": number, "task": task}) for task, number in tasks.items()]
        (folder / "meta/tasks.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return
    table = pa.table({"task_index": pa.array(list(tasks.values()), pa.int64()), "task": pa.array(list(tasks))})
    columns = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
        for name, kind, numpy in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ]
    named = {"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    pandas = {"index_columns": ["task"], "column_indexes": [named], "columns": columns, "pandas_version": "2.0.0"}
    pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(pandas)}), folder / "meta/tasks.parquet")
