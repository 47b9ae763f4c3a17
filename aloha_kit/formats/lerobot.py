"""LeRobot's data sets as a source, versions 3.0 and 2.1, read with pyarrow and PyAV."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from aloha_kit.core import Contract, ContractError, EpisodeError
from aloha_kit.core.errors import reason
from aloha_kit.core.jpeg import decode_rgb
from aloha_kit.core.source import EpisodeData, EpisodeSource, Image
from aloha_kit.formats import lerobot_features as features
from aloha_kit.formats import ReadOptions
from aloha_kit.media.video_files import VideoFrames
from aloha_kit.storage.contract_file import neutral_contract, settle

VERSIONS = ("v3.0", "v2.1")
_TASK = "task_index"
_NUMBERS = ("bool", "int", "uint", "float")  # begins of the types of columns that are read


class LeRobotSource(EpisodeSource):
    """Episodes of one data set. Column `observation.state` is `qpos`, other observations of numbers are sensors.

    Names, units and stamps are those of our own export; of other data sets names are as far as they are recorded, and
    units are given with a contract. Their stamps are none: LeRobot's `timestamp` is the number of a row over the rate.

    Raises:
        EpisodeError: several places, no data set, another version, or a damaged one.
        ContractError: the contract given does not fit.
    """

    def __init__(self, places: Sequence[str | Path], options: ReadOptions) -> None:
        options.refuse("lerobot", "jpeg_order", "rename", "task")
        if len(places) != 1:
            raise EpisodeError("a LeRobot data set is one folder, given {count}", count=len(places))
        self.place = Path(places[0])
        self._info = _json(self.place / "meta/info.json")
        self._version = self._info.get("codebase_version")
        if self._version not in VERSIONS:
            raise EpisodeError(
                "{place} is of LeRobot's version {version}; read are {versions}",
                place=self.place,
                version=self._version,
                versions=", ".join(VERSIONS),
            )
        self._features: dict[str, Any] = self._info["features"]
        for needed in (features.STATE, features.ACTION):
            if needed not in self._features:
                raise EpisodeError(
                    "{place} lacks the column {needed}; it has: {there}",
                    place=self.place,
                    needed=needed,
                    there=", ".join(self._features),
                )
        self._episodes = list(_episodes(self.place, self._version))[: options.first]
        if not self._episodes:
            raise EpisodeError("{place} holds no episode", place=self.place)
        ours = self.place / features.META
        self._ours = _json(ours) if ours.is_file() else {}
        self._about = _lines(self.place / features.EPISODES_META) if ours.is_file() else []
        self._contract, self._assumption = self._settled(options)
        self.unused = self._not_read()

    def __len__(self) -> int:
        return len(self._episodes)

    def name(self, number: int) -> str:
        return f"episode_{int(self._episodes[number]['episode_index']):06d}"

    def identity(self, number: int) -> str:
        episode = self._episodes[number]
        files = [self._data_file(episode), *(self._video(episode, key)[0] for key in self._videos)]
        states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
        return hashlib.sha256(f"{episode['episode_index']} {states}".encode()).hexdigest()

    def open(self, number: int) -> EpisodeData:
        episode = self._episodes[number]
        index, length = int(episode["episode_index"]), int(episode["length"])
        table = self._rows(episode, index)
        if len(table) != length:
            raise EpisodeError(
                "{place}: episode {index} has {rows} rows, meta/episodes has {length}",
                place=self.place,
                index=index,
                rows=len(table),
                length=length,
            )
        arrays = {name: _array(table[column]) for column, name in self._arrays.items() if column in table.column_names}
        readers: dict[str, VideoFrames | _Encoded] = {}
        for key, camera in self._cameras.items():
            if key in self._videos:
                path, first = self._video(episode, key)
                readers[camera] = VideoFrames(path, self._info["fps"], first, length)
            else:
                readers[camera] = _Encoded(table[key], f"{self.place}: episode {index}")
        about = self._about[number] if number < len(self._about) else {}
        return EpisodeData.of_arrays(
            self.name(number),
            self._contract,
            arrays,
            _Images(readers, f"{self.place}: episode {index}"),
            about=about,
            attrs={"rig": self._info.get("robot_type") or "", "instruction": self._instruction(episode, table)},
            layout=f"LeRobot {self._version}",
            assumption=self._assumption,
            resources=tuple(readers.values()),
        )

    def _instruction(self, episode: Mapping[str, Any], table: pa.Table) -> str:
        """The task of an episode; of several, or where its entry lists none, that of its first row."""
        listed = list(episode.get("tasks") or [])
        if len(listed) != 1 and _TASK in table.column_names:
            number = table[_TASK][0].as_py()
            return self._tasks.get(number, "".join(listed[:1]))
        return "".join(listed[:1])

    @functools.cached_property
    def _tasks(self) -> dict[int, str]:
        """{task_index: text}; empty where the data set has no table of tasks."""
        file = self.place / ("meta/tasks.jsonl" if self._version == "v2.1" else "meta/tasks.parquet")
        if not file.is_file():
            return {}
        if self._version == "v2.1":
            return {int(entry[_TASK]): str(entry["task"]) for entry in _lines(file)}
        try:
            table = pq.read_table(file)
        except (OSError, pa.ArrowException) as error:
            raise EpisodeError("{file} cannot be read: {error}", file=file, error=reason(error)) from error
        texts = next((name for name in ("task", "__index_level_0__") if name in table.column_names), None)
        if texts is None or _TASK not in table.column_names:  # the second is how pandas names an index without a name
            return {}
        return dict(zip(table[_TASK].to_pylist(), map(str, table[texts].to_pylist()), strict=True))

    @property
    def _arrays(self) -> dict[str, str]:
        """{column: array of an episode}."""
        numbers = {key: value for key, value in self._features.items() if value["dtype"].startswith(_NUMBERS)}
        vectors = [key for key, value in numbers.items() if len(value["shape"]) == 1]
        found: dict[str, str] = self._ours.get("arrays") or {
            key: features.array_name_of(key) for key in vectors if features.array_name_of(key)
        }
        return {column: name for column, name in found.items() if column in vectors}

    @property
    def _cameras(self) -> dict[str, str]:
        """{feature: camera}."""
        named: dict[str, str] = self._ours.get("cameras", {})
        images = [key for key, value in self._features.items() if value["dtype"] in ("video", "image")]
        return {key: named.get(key, key.removeprefix(features.IMAGES).removeprefix("observation.")) for key in images}

    @property
    def _videos(self) -> list[str]:
        return [key for key, value in self._features.items() if value["dtype"] == "video"]

    def _settled(self, options: ReadOptions) -> tuple[Contract, str]:
        """The contract, and what of it is assumed."""
        state, action = (self._features[key] for key in (features.STATE, features.ACTION))
        widths, rate = (state["shape"][0], action["shape"][0]), float(self._info["fps"])
        sizes = {camera: _size(self._features[key]) for key, camera in self._cameras.items()}
        names = features.names_in(state), features.names_in(action)

        def suggested() -> Contract:
            neutral = neutral_contract(*widths, 0, sizes, rate)
            states, actions = tuple(names[0]) or neutral.state_names, tuple(names[1]) or neutral.action_names
            return Contract.of(states, actions, sizes, rate, neutral.units)

        recorded = Contract.from_json(json.dumps(self._ours["contract"])) if self._ours else None
        in_file = ("rate", "joints") if all(names) else ("rate",)
        path = self.place / "meta/info.json"
        contract, assumption = settle(path, recorded, options.contract, suggested, widths, in_file)
        if contract.rate_hz != rate:
            raise ContractError(
                "the contract has {rate_hz:g} Hz, {place} has {rate:g} Hz",
                rate_hz=contract.rate_hz,
                place=self.place,
                rate=rate,
            )
        return contract, assumption

    def _not_read(self) -> str:
        read = {*self._arrays, *self._cameras, *features.BOOKKEEPING}
        names = [name for name in self._features if name not in read]
        return f"{self.place}: columns that are not read: {', '.join(names)}" if names else ""

    def _data_file(self, episode: Mapping[str, Any]) -> Path:
        if self._version == "v2.1":
            return self.place / str(self._info["data_path"]).format(**self._numbers(episode))
        chunk, file = int(episode["data/chunk_index"]), int(episode["data/file_index"])
        return self.place / str(self._info["data_path"]).format(chunk_index=chunk, file_index=file)

    def _video(self, episode: Mapping[str, Any], key: str) -> tuple[Path, int]:
        """File of a camera's images, and the number in it of the episode's first one."""
        if self._version == "v2.1":
            return self.place / str(self._info["video_path"]).format(video_key=key, **self._numbers(episode)), 0
        place = {name: int(episode[f"videos/{key}/{name}"]) for name in ("chunk_index", "file_index")}
        first = round(float(episode[f"videos/{key}/from_timestamp"]) * self._info["fps"])
        return self.place / str(self._info["video_path"]).format(video_key=key, **place), first

    def _numbers(self, episode: Mapping[str, Any]) -> dict[str, int]:
        index = int(episode["episode_index"])
        return {"episode_chunk": index // int(self._info["chunks_size"]), "episode_index": index}

    def _rows(self, episode: Mapping[str, Any], index: int) -> pa.Table:
        """Rows of an episode, with the columns that are read."""
        file = self._data_file(episode)
        stored = [key for key in self._cameras if key not in self._videos]
        columns = [*self._arrays, *stored, *([_TASK] if _TASK in self._features else [])]
        try:
            return pq.read_table(file, columns=columns, filters=[("episode_index", "=", index)])
        except (OSError, pa.ArrowException, KeyError) as error:
            raise EpisodeError("{file} cannot be read: {error}", file=file, error=reason(error)) from error


@dataclass(frozen=True)
class _Images:
    """Images of an episode by camera and row."""

    readers: Mapping[str, Any]
    where: str

    def __call__(self, camera: str, i: int, at_least: tuple[int, int] | None) -> Image:
        if camera not in self.readers:
            raise EpisodeError(
                "{where} has no camera '{camera}'; its cameras: {cameras}",
                where=self.where,
                camera=camera,
                cameras=", ".join(self.readers),
            )
        image: Image = self.readers[camera].read(i)
        return image


@dataclass(frozen=True)
class _Encoded:
    """Images that are stored encoded in the table."""

    column: Any
    where: str

    def read(self, i: int) -> Image:
        if not 0 <= i < len(self.column):
            raise EpisodeError(
                "{where} has images 0 to {last}, given {i}", where=self.where, last=len(self.column) - 1, i=i
            )
        code = (self.column[i].as_py() or {}).get("bytes") or b""
        image = decode_rgb(code) if code else None
        if image is None:
            raise EpisodeError("{where}: image {i} cannot be decoded", where=self.where, i=i)
        return image

    def close(self) -> None:
        """Nothing is open."""


def _episodes(place: Path, version: str) -> Iterator[Mapping[str, Any]]:
    """Entries of the episodes, in order."""
    if version == "v2.1":
        yield from _lines(place / "meta/episodes.jsonl")
        return
    for file in sorted((place / "meta/episodes").glob("*/*.parquet")):
        try:
            names = [name for name in pq.read_schema(file).names if not name.startswith("stats/")]
            yield from pq.read_table(file, columns=names).to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise EpisodeError("{file} cannot be read: {error}", file=file, error=reason(error)) from error


def _array(column: Any) -> npt.NDArray[Any]:
    """A column as (rows,) or (rows, width)."""
    values = column.combine_chunks()
    if pa.types.is_list(values.type) or pa.types.is_fixed_size_list(values.type):
        return np.asarray(values.flatten().to_numpy(zero_copy_only=False)).reshape(len(values), -1)
    return np.asarray(values.to_numpy(zero_copy_only=False))


def _size(feature: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) of a camera, whichever order its shape has."""
    shape = feature["shape"]
    first = feature.get("names") and feature["names"][0] in ("channel", "channels")
    height, width = shape[1:] if first else shape[:2]
    return int(height), int(width)


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError) as error:
        raise EpisodeError("{path} cannot be read: {error}", path=path, error=reason(error)) from error


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, ValueError) as error:
        raise EpisodeError("{path} cannot be read: {error}", path=path, error=reason(error)) from error
