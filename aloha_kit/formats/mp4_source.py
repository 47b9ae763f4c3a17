"""Folders of MP4 and a table as a source: our own, those of others, and the training data of ABC."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from aloha_kit.core import Contract, EpisodeError
from aloha_kit.core.errors import reason
from aloha_kit.core.source import EpisodeData, EpisodeSource, Image
from aloha_kit.formats import ReadOptions
from aloha_kit.formats.mp4_export import ABOUT
from aloha_kit.media.video_files import IndexedFrames, VideoIndex
from aloha_kit.storage.contract_file import neutral_contract, settle, UNKNOWN

ABC_TABLE, ABC_ABOUT = "states_actions.bin", "episode_metadata.json"
"""ABC's names: (steps, 28) float64 of 14 states and 14 actions, and the cameras whose images stand one below another
in one video."""
ARRAYS = {"action": ("action", "actions"), "qpos": ("qpos", "state", "observation.state", "joint_positions")}
"""{array of an episode: its columns in tables of others, before an entry's name}; the first one there is read."""
_TABLES = (".parquet", ".csv", ".bin")
_ABC_WIDTH = 14
_RATE_HZ = 30.0  # of a table without times and videos


class Mp4Source(EpisodeSource):
    """Folders with one table of a row a step and the videos of its cameras, one folder an episode.

    A frame belongs to the row of its number, whatever its time is. A table is `.parquet`, `.csv`, or ABC's. Names,
    units and stamps are those of our own export; of other folders units are given with a contract.

    Raises:
        EpisodeError: several places, no such folders, or damaged ones.
        ContractError: the contract given does not fit.
    """

    def __init__(self, places: Sequence[str | Path], options: ReadOptions) -> None:
        options.refuse("mp4", "jpeg_order", "rename", "task")
        if len(places) != 1:
            raise EpisodeError("a data set of MP4 and tables is one folder, given {count}", count=len(places))
        self.place = Path(places[0])
        if not self.place.is_dir():
            raise EpisodeError(
                "no folder '{place}'; expected one of episodes with a table and .mp4 each", place=self.place
            )
        self._folders = episode_folders(self.place)[: options.first]
        if not self._folders:
            raise EpisodeError(
                "{place} has no folder with a table ({tables}) of an episode",
                place=self.place,
                tables=", ".join(_TABLES),
            )
        self._given = options.contract

    def __len__(self) -> int:
        return len(self._folders)

    def name(self, number: int) -> str:
        return _name(self._folders[number], self.place)

    def identity(self, number: int) -> str:
        folder = self._folders[number]
        files = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(folder.iterdir())]
        return hashlib.sha256(f"{folder.relative_to(self.place)} {files}".encode()).hexdigest()

    def open(self, number: int) -> EpisodeData:
        folder = self._folders[number]
        try:
            found = _Folder(folder, self._given)
            return found.episode(self.name(number))
        except (OSError, ValueError, LookupError, TypeError, pa.ArrowException) as error:
            raise EpisodeError("{folder} cannot be read: {error}", folder=folder, error=reason(error)) from error


def episode_folders(place: Path) -> list[Path]:
    """Folders of episodes at a place: itself, or folders in it and in these, in the order of their names."""
    for pattern in ("", "*/", "*/*/"):
        found = [folder for folder in (place.glob(pattern) if pattern else [place]) if _table_of(folder)]
        if found:
            return sorted(found, key=lambda path: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", str(path))])
    return []


def _table_of(folder: Path) -> Path | None:
    """The table of an episode's folder; None where it has none, or no videos and no description beside it."""
    if not folder.is_dir():
        return None
    tables = [file for file in sorted(folder.iterdir()) if file.suffix in _TABLES]
    if not tables or not (any(folder.glob("*.mp4")) or (folder / ABOUT).is_file()):
        return None
    return next((file for file in tables if file.name == ABC_TABLE), tables[0])


class _Folder:
    """An episode's folder."""

    def __init__(self, folder: Path, given: Contract | None) -> None:
        self.folder = folder
        table = _table_of(folder)
        if table is None:
            raise EpisodeError("{folder} was removed", folder=folder)
        self.table, self.given, self.videos = table, given, sorted(folder.glob("*.mp4"))

    def episode(self, name: str) -> EpisodeData:
        """The episode.

        Raises:
            EpisodeError: a column is missing, or a video has another number of frames than the table rows.
        """
        about, abc = self._json(ABOUT), self.table.name == ABC_TABLE
        arrays, entries = self._abc() if abc else self._arrays(about)
        rows = len(arrays["action"])
        indexes = {video: VideoIndex.of(video) for video in self.videos}
        for video, index in indexes.items():
            if len(index.times) != rows:
                raise EpisodeError(
                    "{video} has {count} frames, {name} has {rows} rows",
                    video=video,
                    count=len(index.times),
                    name=self.table.name,
                    rows=rows,
                )
        recorded = Contract.from_json(json.dumps(about["contract"])) if about else None
        readers = {video.stem: IndexedFrames(video, index) for video, index in indexes.items()}
        sizes = recorded.cameras if recorded else {video.stem: index.size for video, index in indexes.items()}
        if missing := [camera for camera in sizes if camera not in readers]:
            raise EpisodeError("{folder} lacks {missing}.mp4", folder=self.folder, missing=missing[0])
        cameras = {camera: _Camera(readers[camera], 0, *size) for camera, size in sizes.items()}
        cameras = self._abc_cameras(cameras) if abc else cameras
        rate = self._rate(about, max((index.rate_hz for index in indexes.values()), default=0.0))
        contract, assumption = self._settled(recorded, arrays, entries, cameras, rate)
        return EpisodeData.of_arrays(
            name,
            contract,
            arrays,
            _Images(cameras, str(self.folder)),
            about=about,
            attrs={"task": str(self._json(ABC_ABOUT).get("task_name") or "")},
            layout="MP4 and a table of ABC" if abc else "MP4 and a table",
            assumption=assumption,
            resources=tuple(readers.values()),
        )

    def _arrays(self, about: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, list[str]]]:
        """{array: values} and {array: entries} of a table."""
        table = pq.read_table(self.table) if self.table.suffix == ".parquet" else pyarrow.csv.read_csv(self.table)
        if about:
            return {name: _values(table, columns) for name, columns in about["arrays"].items()}, {}
        arrays, entries = {}, {}
        for array, prefixes in ARRAYS.items():
            columns = next(filter(None, (_of_prefix(table, prefix) for prefix in prefixes)), {})
            if not columns:
                raise EpisodeError(
                    "{table} has no column {prefixes} or {prefix}.NAME; it has: {columns}",
                    table=self.table,
                    prefixes=" or ".join(prefixes),
                    prefix=prefixes[0],
                    columns=", ".join(table.column_names),
                )
            arrays[array] = _values(table, list(columns))
            named = not all(entry.isdigit() or not entry for entry in columns.values())
            entries[array] = list(columns.values()) if named else []
        if "reward" in table.column_names:
            arrays["reward"] = _values(table, ["reward"])
        return arrays, entries

    def _abc(self) -> tuple[dict[str, Any], dict[str, list[str]]]:
        about, numbers = self._json(ABC_ABOUT), np.fromfile(self.table, np.float64)
        if not numbers.size or numbers.size % (2 * _ABC_WIDTH):
            size = self.table.stat().st_size
            raise EpisodeError(
                "{table} has {size} bytes, expected rows of {values} float64",
                table=self.table,
                size=size,
                values=2 * _ABC_WIDTH,
            )
        rows = numbers.reshape(-1, 2 * _ABC_WIDTH).astype(np.float32)
        names = [f"{side}_{joint}" for side in ("left", "right") for joint in (*map(_joint, range(6)), "gripper")]
        arrays: dict[str, Any] = {"qpos": rows[:, :_ABC_WIDTH], "action": rows[:, _ABC_WIDTH:]}
        if "t0_ns" in about and "tick_ns" in about:
            ticks = np.arange(1, len(rows) + 1, dtype=np.int64)
            arrays["stamps/deadline"] = int(about["t0_ns"]) + int(about["tick_ns"]) * ticks
        return arrays, {"qpos": names, "action": names}

    def _abc_cameras(self, videos: Mapping[str, _Camera]) -> dict[str, _Camera]:
        names = list(self._json(ABC_ABOUT).get("cameras") or ())
        if len(videos) != 1 or not names:
            raise EpisodeError(
                "{folder} must have one video, and its cameras in {file}", folder=self.folder, file=ABC_ABOUT
            )
        (video,) = videos.values()
        if video.height % len(names):
            raise EpisodeError(
                "{folder}: a video {height} pixels high is not {count} equal images",
                folder=self.folder,
                height=video.height,
                count=len(names),
            )
        each = video.height // len(names)
        return {name: _Camera(video.reader, i * each, each, video.width) for i, name in enumerate(names)}

    def _rate(self, about: Mapping[str, Any], of_video: float) -> float:
        tick = self._json(ABC_ABOUT).get("tick_ns")
        return float(about.get("rate_hz") or (round(1e9 / tick, 3) if tick else 0) or round(of_video, 3) or _RATE_HZ)

    def _settled(
        self,
        recorded: Contract | None,
        arrays: Mapping[str, Any],
        entries: Mapping[str, list[str]],
        cameras: Mapping[str, _Camera],
        rate: float,
    ) -> tuple[Contract, str]:
        widths = arrays["qpos"].shape[1], arrays["action"].shape[1]

        def suggested() -> Contract:
            sizes = {name: (camera.height, camera.width) for name, camera in cameras.items()}
            neutral = neutral_contract(*widths, 0, sizes, rate)
            states = tuple(entries.get("qpos", ())) or neutral.state_names
            actions = tuple(entries.get("action", ())) or neutral.action_names
            return Contract.of(states, actions, sizes, rate, {"joints": UNKNOWN, "gripper": UNKNOWN})

        return settle(self.table, recorded, self.given, suggested, widths, ("rate", "joints"))

    def _json(self, name: str) -> dict[str, Any]:
        file = self.folder / name
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return found


@dataclass(frozen=True)
class _Camera:
    """A camera's frames, which are part of a video's."""

    reader: IndexedFrames
    top: int
    height: int
    width: int

    def read(self, i: int) -> Image:
        """Image i."""
        return np.ascontiguousarray(self.reader.read(i)[self.top : self.top + self.height, : self.width])


@dataclass(frozen=True)
class _Images:
    """Images of an episode by camera and row."""

    cameras: Mapping[str, _Camera]
    where: str

    def __call__(self, camera: str, i: int, at_least: tuple[int, int] | None) -> Image:
        if camera not in self.cameras:
            raise EpisodeError(
                "{where} has no camera '{camera}'; its cameras: {cameras}",
                where=self.where,
                camera=camera,
                cameras=", ".join(self.cameras),
            )
        return self.cameras[camera].read(i)


def _of_prefix(table: pa.Table, prefix: str) -> dict[str, str]:
    """{column: entry} of a vector: one column of lists, or numbers whose names are the prefix and an entry's name."""
    if prefix in table.column_names:
        return {prefix: ""}
    numbers = [
        field.name for field in table.schema if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
    ]
    return {name: name[len(prefix) + 1 :] for name in numbers if re.match(rf"{re.escape(prefix)}[._/].", name)}


def _values(table: pa.Table, columns: Sequence[str]) -> npt.NDArray[Any]:
    """(rows, width) of some columns, or of one of lists."""
    if missing := [name for name in columns if name not in table.column_names]:
        raise EpisodeError(
            "the table lacks the column {missing}; it has: {columns}",
            missing=missing[0],
            columns=", ".join(table.column_names),
        )
    parts = [table[name].combine_chunks() for name in columns]
    if len(parts) == 1 and (pa.types.is_list(parts[0].type) or pa.types.is_fixed_size_list(parts[0].type)):
        return np.asarray(parts[0].flatten().to_numpy(zero_copy_only=False)).reshape(len(table), -1)
    return np.stack([part.to_numpy(zero_copy_only=False) for part in parts], axis=1)


def _joint(number: int) -> str:
    return f"joint_{number}"


def _name(folder: Path, place: Path) -> str:
    """Name of an episode: of its folder, after those in which it is."""
    return "-".join(folder.relative_to(place).parts) or place.resolve().name
