"""Export to MCAP with ROS 2 messages, which Foxglove shows without a plug-in: one file an episode."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aloha_kit.core import ConfigError
from aloha_kit.core.exporter import array_of, attributes_of, description_of, EpisodeExporter, ExportRecord, WriteOptions
from aloha_kit.core.features import DEPTH
from aloha_kit.core.files import replacing
from aloha_kit.core.jpeg import encode_jpeg
from aloha_kit.core.source import RecordedEpisode
from aloha_kit.core.versions import package_version
from aloha_kit.formats.hdf5_export import stored_jpeg
from aloha_kit.formats.mcap_messages import messages, METADATA, REWARD, STAMPS, topic_of, vector_type
from aloha_kit.sync.topics import COMPRESSED_IMAGE, IMAGE, JOINT_STATE

QUALITY = 95  # of images that are no JPEG yet
JOINTS = ("qpos", "qvel", "effort")
"""Vectors in one JointState: position, velocity, effort."""


class McapExporter(EpisodeExporter):
    """Files `episode_<number>.mcap`: joints and actions as JointState, a base's velocities as TwistStamped, sensors as
    the messages that they came from where their entries tell, images as JPEG, depth as 16UC1.

    A message has the stamp of its stream, and the number of its row as `sequence`. `/stamps` has all stamps of a row,
    and the metadata record `aloha_kit` what else the episode has, so that it is read back as it was.
    """

    def __init__(self, folder: Path, parts: Path, options: WriteOptions) -> None:
        options.refuse("mcap", "codec", "crf", "quality")
        messages()
        super().__init__(folder, parts, options)

    def write(self, number: int, episode: RecordedEpisode, record: ExportRecord) -> None:
        with replacing(self.folder / f"episode_{number}.mcap") as part, part.open("wb") as stream:
            writer = EpisodeMessages(stream, episode)
            cameras = {f"images/{name}": self._images(writer, episode, record, name) for name in episode.cameras}
            depths = getattr(episode, "depth_cameras", ())
            cameras |= {f"images_depth/{name}": _depth(writer, episode, record, name) for name in depths}
            for row in range(episode.frames):
                writer.row(row)
                for feature, rows in cameras.items():
                    writer.send(feature, row, *next(rows))
            for rows in cameras.values():
                next(rows, None)  # it notes the camera
            for name in writer.arrays:
                record.array(name, array_of(episode, name))
            record.attributes = attributes_of(episode)
            writer.finish(jpeg=[] if self._raw else list(episode.cameras))
            record.notes = list(dict.fromkeys(record.notes))

    @property
    def _raw(self) -> bool:
        return self.options.images == "raw"

    def _images(
        self, writer: EpisodeMessages, episode: RecordedEpisode, record: ExportRecord, camera: str
    ) -> Iterator[tuple[str, Any]]:
        """Messages of a camera (type, message), row by row: JPEG as it is stored, else encoded anew, or pixels."""
        times = (writer.time_of(f"images/{camera}", row) for row in range(episode.frames))
        jpeg = None if self._raw else stored_jpeg(episode, camera)
        if jpeg is not None:
            digest = hashlib.sha256()
            for row, stamp_ns in enumerate(times):
                data = jpeg(row)
                digest.update(data)
                yield COMPRESSED_IMAGE, messages().jpeg(data, stamp_ns, camera)
            record.images[camera] = {"rows": episode.frames, "sha256": digest.hexdigest(), "of": "stored"}
            return
        for stamp_ns, image in zip(times, record.pixels(episode, camera, episode.frames), strict=True):
            if self._raw:
                yield IMAGE, messages().pixels(image, stamp_ns, camera)
            else:
                yield COMPRESSED_IMAGE, messages().jpeg(encode_jpeg(image, QUALITY).tobytes(), stamp_ns, camera)
        if not self._raw:
            record.notes.append("images are encoded anew as JPEG")


def _depth(writer: EpisodeMessages, episode: Any, record: ExportRecord, camera: str) -> Iterator[tuple[str, Any]]:
    """Messages of a camera's depth (type, message), row by row."""
    digest, shape = hashlib.sha256(), (0, 0)
    for row in range(episode.frames):
        depth = episode.depth(camera, row)
        digest.update(depth.tobytes())
        shape = depth.shape
        yield IMAGE, messages().depth(depth, writer.time_of(f"images_depth/{camera}", row), camera)
    entry = {"shape": [episode.frames, *shape], "dtype": "uint16", "sha256": digest.hexdigest()}
    record.arrays[f"images_depth/{camera}"] = entry


class EpisodeMessages:
    """An MCAP file that is being written: the vectors of a row, and further messages, at the stamps of their streams.

    Attributes:
        arrays: names of the episode's arrays that are written.
    """

    def __init__(self, stream: Any, episode: RecordedEpisode) -> None:
        try:
            from mcap.writer import Writer
        except ModuleNotFoundError as error:
            raise ConfigError("MCAP needs rosbags and mcap: pip install 'aloha_kit[bags]'") from error
        self._writer: Any = Writer(stream)
        self._writer.start("ros2", f"{METADATA} {package_version()}")
        self._episode, self._vectors, self._stamps = episode, dict(episode.vectors), dict(episode.stamps)
        self._schemas: dict[str, int] = {}
        self._channels: dict[str, int] = {}
        self._entries = entries_of(episode)
        self._joints = [name for name in JOINTS if name in self._vectors]
        optional = [name for name in ("base_action", "reward") if getattr(episode, name) is not None]
        self.arrays = ["action", *optional, *self._vectors, *(f"stamps/{name}" for name in self._stamps)]

    def time_of(self, stream: str, row: int) -> int:
        """Stamp of a stream's row in ns: its own, else when the row was due, else the row over the rate."""
        for name in (stream, "deadline"):
            if name in self._stamps and row < len(self._stamps[name]):
                return max(0, int(self._stamps[name][row]))
        return round(row * 1e9 / self._episode.rate_hz)

    def row(self, row: int) -> None:
        """Write the vectors and stamps of a row, and the action chosen by it."""
        types, episode = messages(), self._episode
        arms = [int(times[row]) for name, times in self._stamps.items() if name.startswith("qpos")]
        stamp_ns = max(0, *arms) if arms else self.time_of("qpos", row)
        parts = {
            field: self._vectors[name][row].astype(np.float64)
            for name, field in zip(JOINTS, ("position", "velocity", "effort"), strict=True)
            if name in self._joints
        }
        joints = types.make(JOINT_STATE, stamp_ns, name=list(self._entries["qpos"]), **parts)
        self.send("qpos", row, JOINT_STATE, joints)
        for name, table in self._vectors.items():
            if name not in self._joints:
                self._vector(name, row, table[row], self.time_of(name, row))
        if self._stamps:
            there = {name: int(times[row]) for name, times in self._stamps.items() if row < len(times)}
            stamps = types.make(STAMPS, streams=list(there), nanoseconds=np.array(list(there.values()), np.int64))
            self.send("stamps", row, STAMPS, stamps, self.time_of("deadline", row))
        if row < episode.length:
            stamp_ns = self.time_of("command", row)
            self._vector("action", row, episode.action[row], stamp_ns)
            if episode.base_action is not None:
                self._vector("base_action", row, episode.base_action[row], stamp_ns)
            if episode.reward is not None:
                reward = types.make(REWARD, data=float(episode.reward[row]))
                self.send("reward", row, REWARD, reward, self.time_of("deadline", row))

    def send(self, feature: str, row: int, kind: str, message: Any, stamp_ns: int | None = None) -> None:
        """Write one message; its stamp is its header's unless it is given."""
        if stamp_ns is None:
            stamp_ns = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
        topic = topic_of(feature)
        if kind not in self._schemas:
            name = kind.replace("/", "/msg/", 1)
            self._schemas[kind] = self._writer.register_schema(name, "ros2msg", messages().definition(kind))
        if topic not in self._channels:
            self._channels[topic] = self._writer.register_channel(topic, "cdr", self._schemas[kind])
        self._writer.add_message(
            self._channels[topic], stamp_ns, messages().serialise(kind, message), stamp_ns, sequence=row
        )

    def finish(self, *, jpeg: list[str]) -> None:
        """Write what the episode has beside its rows, and the index."""
        episode = self._episode
        about = {
            **description_of(episode),
            "frames": episode.frames,
            "steps": episode.length,
            "contract": json.loads(episode.contract.to_json()),
            "entries": {name: list(entries) for name, entries in self._entries.items()},
            "joints": self._joints,
            "jpeg": jpeg,
            "depth": list(getattr(episode, "depth_cameras", ())),
            "assumption": episode.assumption,
        }
        self._writer.add_metadata(METADATA, {"episode": json.dumps(about)})
        self._writer.finish()

    def _vector(self, name: str, row: int, values: Any, stamp_ns: int) -> None:
        kind = vector_type(name, self._entries[name])
        self.send(name, row, kind, messages().vector(kind, self._entries[name], values, stamp_ns))


def entries_of(episode: RecordedEpisode) -> Mapping[str, tuple[str, ...]]:
    """Entries {vector: their names} of an episode's vectors and actions; numbered where the contract names none."""
    named = {feature.name: feature.entries for feature in episode.contract.features if feature.role != DEPTH}
    names = episode.contract.action_names
    width = episode.action.shape[1]
    found = {"action": names[:width]}
    if episode.base_action is not None:
        found["base_action"] = names[width:]
    for name, table in episode.vectors.items():
        found[name] = named.get(name) or tuple(f"{i}" for i in range(table.shape[1]))
    return found
