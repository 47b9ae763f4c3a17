"""MCAP files of `McapExporter` as a source: the episodes that were exported."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.core import Contract, EpisodeError
from aloha_kit.core.errors import reason
from aloha_kit.core.lang import Message
from aloha_kit.core.source import EpisodeData, EpisodeSource, Image
from aloha_kit.formats import mcap_files, ReadOptions
from aloha_kit.formats.mcap_messages import messages, METADATA, topic_of, vector_type, vector_values
from aloha_kit.storage.paths import identity_of
from aloha_kit.sync import images


class McapSource(EpisodeSource):
    """Files `episode_<number>.mcap` of `McapExporter`; other MCAP files are bags, see `RosbagSource`.

    Raises:
        EpisodeError: no such file at a place.
    """

    def __init__(self, places: Sequence[str | Path], options: ReadOptions) -> None:
        options.refuse("mcap", "contract", "jpeg_order", "rename", "task")
        messages()
        files = [file for place in places for file in mcap_files(Path(place))]
        if not files:
            raise EpisodeError(
                "no episode_<i>.mcap that `convert --format mcap` wrote in {places}", places=", ".join(map(str, places))
            )
        self.files, self.place = files[: options.first], files[0].parent

    def __len__(self) -> int:
        return len(self.files)

    def name(self, number: int) -> str:
        return self.files[number].name

    def file(self, number: int) -> Path:
        return self.files[number]

    def identity(self, number: int) -> str:
        return identity_of(self.files[number])

    def open(self, number: int) -> McapEpisode:
        path = self.files[number]
        try:
            file = McapFile(path)
            try:
                return _episode(file)
            except BaseException:
                file.close()
                raise
        except EpisodeError:
            raise
        except Exception as error:  # the libraries' own errors, and those of what they are built on
            raise EpisodeError(
                "{path} cannot be read as an episode: {error}", path=path, error=reason(error)
            ) from error


@dataclass(frozen=True, eq=False)
class McapEpisode(EpisodeData):
    """An episode of an MCAP file: also its stored JPEG and its depth, row by row."""

    path: Path = Path()
    file: Any = None
    depth_cameras: tuple[str, ...] = ()
    jpegs: frozenset[str] = field(default_factory=frozenset)

    @property
    def where(self) -> str:
        return str(self.path)

    def jpeg(self, camera: str, i: int) -> bytes | None:
        """Stored JPEG of a row; None where the camera's images are pixels."""
        return bytes(self.file.message(f"images/{camera}", i).data.tobytes()) if camera in self.jpegs else None

    def depth(self, camera: str, i: int) -> npt.NDArray[np.uint16]:
        """Row i of a camera's depth, (H, W) mm."""
        return images.decode_depth(self.file.message(f"images_depth/{camera}", i))


class McapFile:
    """One file, open for reading: rows of its vectors at once, images one at a time. Threads may share it.

    Attributes:
        about: what the exporter noted of the episode.
        tables: {topic: its messages by row}, without images.
    """

    def __init__(self, path: Path) -> None:
        from mcap.reader import make_reader

        self.path, self._stream, self._lock = path, path.open("rb"), threading.Lock()
        try:
            self._reader = make_reader(self._stream)
            found = [each for each in self._reader.iter_metadata() if each.name == METADATA]
            if not found:
                raise EpisodeError(
                    "{path} was not written by `convert --format mcap`; bags are read with --task", path=path
                )
            self.about: dict[str, Any] = json.loads(found[0].metadata["episode"])
            self.tables: dict[str, dict[int, Any]] = {}
            self._times: dict[str, dict[int, int]] = {}
            for schema, channel, message in self._reader.iter_messages(log_time_order=False):
                if channel.topic.startswith(("/images/", "/images_depth/")):
                    self._times.setdefault(channel.topic, {})[message.sequence] = message.log_time
                    continue
                kind = (schema.name if schema else "").replace("/msg/", "/")
                self.tables.setdefault(channel.topic, {})[message.sequence] = messages().read(kind, message.data)
        except BaseException:
            self._stream.close()
            raise

    def message(self, feature: str, row: int) -> Any:
        """Message of an image or of depth.

        Raises:
            EpisodeError: no such camera or row, or the file is damaged.
        """
        topic = topic_of(feature)
        time_ns = self._times.get(topic, {}).get(row)
        if time_ns is None:
            there = ", ".join(self._times) or Message("(no images)")
            raise EpisodeError(
                "{path} has no row {row} of {topic}; it has: {there}", path=self.path, row=row, topic=topic, there=there
            )
        try:
            with self._lock:
                for schema, _, message in self._reader.iter_messages([topic], time_ns, time_ns + 1):
                    if message.sequence == row and schema is not None:
                        return messages().read(schema.name, message.data)
        except Exception as error:
            raise EpisodeError(
                "{path}: row {row} of {topic} cannot be read: {error}",
                path=self.path,
                row=row,
                topic=topic,
                error=reason(error),
            ) from error
        raise EpisodeError(
            "{path}: row {row} of {topic} is not where its index has it", path=self.path, row=row, topic=topic
        )

    def rows(self, feature: str, count: int) -> list[Any]:
        """Messages of a feature, one for each of `count` rows; raises EpisodeError where one is missing."""
        table = self.tables.get(topic_of(feature), {})
        if missing := [row for row in range(count) if row not in table]:
            raise EpisodeError(
                "{path} lacks row {missing} of {topic}, of {count}: was it cut off?",
                path=self.path,
                missing=missing[0],
                topic=topic_of(feature),
                count=count,
            )
        return [table[row] for row in range(count)]

    def image(self, camera: str, row: int, at_least: tuple[int, int] | None) -> Image:
        """Image of a row, (H, W, 3) RGB."""
        message = self.message(f"images/{camera}", row)
        if hasattr(message, "format"):
            message.data = message.data.tobytes()
        return images.decode(message)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def _episode(file: McapFile) -> McapEpisode:
    about = file.about
    steps, frames, entries = about["steps"], about["frames"], about["entries"]
    joints = file.rows("qpos", frames)
    fields = {"qpos": "position", "qvel": "velocity", "effort": "effort"}
    vectors = {
        name: np.array([getattr(message, fields[name]) for message in joints], np.float32) for name in about["joints"]
    }
    for name, names in entries.items():
        if name not in vectors and name not in ("action", "base_action"):
            vectors[name] = _table(file, name, names, frames)
    actions = {name: _table(file, name, entries[name], steps) for name in ("action", "base_action") if name in entries}
    reward = [message.data for message in file.rows("reward", steps)] if topic_of("reward") in file.tables else None
    contract = Contract.from_json(json.dumps(about["contract"]))
    return McapEpisode(
        file.path.name,
        contract,
        actions["action"],
        vectors.pop("qpos"),
        file.image,
        base_action=actions.get("base_action"),
        further_vectors=vectors,
        reward=None if reward is None else np.array(reward, np.float32),
        stamps=_stamps(file, frames),
        id=about["id"],
        layout=about["layout"],
        success=about["success"],
        attrs=about["attrs"],
        describe=about["describe"],
        assumption=about["assumption"],
        resources=(file,),
        path=file.path,
        file=file,
        depth_cameras=tuple(about["depth"]),
        jpegs=frozenset(about["jpeg"]),
    )


def _table(file: McapFile, name: str, names: Sequence[str], count: int) -> npt.NDArray[np.float32]:
    kind = vector_type(name, names)
    return np.array([vector_values(kind, names, message) for message in file.rows(name, count)], np.float32)


def _stamps(file: McapFile, frames: int) -> Mapping[str, npt.NDArray[np.int64]]:
    """Stamps {stream: (frames,)}, `command` (T,); none where the file has none."""
    if topic_of("stamps") not in file.tables:
        return {}
    times: dict[str, list[int]] = {}
    for message in file.rows("stamps", frames):
        for stream, stamp_ns in zip(message.streams, message.nanoseconds, strict=True):
            times.setdefault(stream, []).append(int(stamp_ns))
    return {stream: np.array(rows, np.int64) for stream, rows in times.items()}
