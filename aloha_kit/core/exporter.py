"""Data sets written in another format: each episode by itself, with a record of what was carried and what was not."""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from aloha_kit.core.contract import Contract
from aloha_kit.core.errors import ConfigError, ContractError, EpisodeError
from aloha_kit.core.features import DEPTHS, Feature, IMAGES
from aloha_kit.core.source import Depth, Image, RecordedEpisode

AnyArray = TypeVar("AnyArray", bound=npt.NDArray[Any])

ATTRIBUTES = (
    "task",
    "instruction",
    "rig",
    "sim",
    "success",
    "reason",
    "error",
    "note",
    "grade",
    "describe",
    "contract",
)
"""What an episode has beside its arrays and images, in the order of reports."""
PER_STEP = ("action", "base_action", "reward", "stamps/command")
"""Arrays with a row for each of the T actions; the others have a row for each observation."""


@dataclass(frozen=True)
class WriteOptions:
    """Options for writing episodes. A format that does not support one of them calls `refuse`.

    Attributes:
        images: how HDF5 files hold images that have to be encoded: as JPEG, or as raw pixels.
        codec: of videos.
        crf: quality of videos, lower is better; the codec's own scale.
        quality: of JPEG, 1 to 100; every image is encoded anew with it.
    """

    images: Literal["jpeg", "raw"] | None = None
    codec: Literal["h264", "av1"] | None = None
    crf: int | None = None
    quality: int | None = None

    def refuse(self, kind: str, *names: str) -> None:
        """Raise `ConfigError` where an option was given that a format does not support."""
        if given := [name for name in names if getattr(self, name) is not None]:
            raise ConfigError(
                "episodes of format {kind} are written without --{given}", kind=kind, given=", --".join(given)
            )


@dataclass
class ExportRecord:
    """What was written of one episode; JSON-able by `to_mapping`.

    Attributes:
        number: in the source.
        name, identity, id: of the episode in its source, see `RecordedEpisode` and `EpisodeSource`.
        steps: T, the number of actions.
        arrays: {name: {"shape", "dtype", "sha256"}}, of the values as the source gives them.
        images: {camera: {"rows", "sha256", "of"}}; the hash is over all rows, "rgb" pixels or "stored" encoded images.
            Of images that were encoded anew, "psnr_db" is how near they are.
        attributes: names of `ATTRIBUTES` that were written.
        notes: changes that the format made, in words.
        lost: what the format cannot hold, in words.
        further: what the exporter's `finish` needs of the episode, JSON-able.
    """

    number: int
    name: str
    identity: str
    id: str
    steps: int
    arrays: dict[str, dict[str, Any]] = field(default_factory=dict)
    images: dict[str, dict[str, Any]] = field(default_factory=dict)
    attributes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    further: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, number: int, episode: RecordedEpisode, identity: str) -> ExportRecord:
        """The record of an episode of which nothing is written yet."""
        return cls(number, episode.name, identity, episode.id, episode.length)

    def array(self, name: str, values: AnyArray) -> AnyArray:
        """Record an array that is written, by its name in the episode; returns it unchanged."""
        held = np.ascontiguousarray(values)
        digest = hashlib.sha256(held.tobytes()).hexdigest()
        self.arrays[name] = {"shape": list(held.shape), "dtype": str(held.dtype), "sha256": digest}
        return values

    def pixels(self, episode: RecordedEpisode, camera: str, rows: int) -> Iterator[Image]:
        """The first `rows` images of a camera, (H, W, 3) uint8 RGB, one at a time; recorded once all were taken."""
        digest = hashlib.sha256()
        for i in range(rows):
            image = np.ascontiguousarray(episode.image(camera, i))
            digest.update(image.data)
            yield image
        self.images[camera] = {"rows": rows, "sha256": digest.hexdigest(), "of": "rgb"}

    def depth(self, episode: RecordedEpisode, camera: str, rows: int) -> Iterator[Depth]:
        """The first `rows` depth images of a camera, (H, W) uint16 mm, one at a time; recorded once all were taken."""
        digest, size = hashlib.sha256(), contract_of(episode).depth_cameras[camera]
        for i in range(rows):
            image = np.ascontiguousarray(episode.depth(camera, i))
            if image.shape != size or image.dtype != np.uint16:
                given = f"{image.shape} {image.dtype}"
                raise EpisodeError(
                    "{where}: depth {i} of {camera} is {given}, expected {size} uint16",
                    where=episode.where,
                    i=i,
                    camera=camera,
                    given=given,
                    size=size,
                )
            digest.update(image.data)
            yield image
        entry = {"shape": [rows, *size], "dtype": "uint16", "sha256": digest.hexdigest()}
        self.arrays[f"{DEPTHS}{camera}"] = entry

    def complete(self, episode: RecordedEpisode) -> None:
        """Note as lost what the episode has and this record does not."""
        depth = {f"{DEPTHS}{name}" for name in (*episode.depth_cameras, *episode.contract.depth_cameras)}
        there = [*episode_arrays(episode), *(f"{IMAGES}{camera}" for camera in episode.cameras), *sorted(depth)]
        written = {*self.arrays, *(f"{IMAGES}{camera}" for camera in self.images)}
        attributes = [name for name in attributes_of(episode) if name not in self.attributes]
        for name in (*(name for name in there if name not in written), *attributes):
            self.lost.append(name)
        rows = {entry["rows"] for entry in self.images.values()} | {
            self.arrays[name]["shape"][0] for name in episode.vectors if name in self.arrays
        }
        if rows and max(rows) < episode.frames:
            self.lost.append("the observation after the last action")

    def to_mapping(self) -> dict[str, Any]:
        """Mapping for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> ExportRecord:
        """Inverse of `to_mapping`."""
        return cls(**values)


def episode_arrays(episode: RecordedEpisode) -> list[str]:
    """Names of an episode's arrays: `action`, `qpos`, …, `reward`, `stamps/<stream>`."""
    optional = [name for name in ("base_action", "reward") if getattr(episode, name) is not None]
    return ["action", *optional, *episode.vectors, *(f"stamps/{name}" for name in episode.stamps)]


def array_of(episode: RecordedEpisode, name: str) -> npt.NDArray[Any]:
    """An array of an episode by its name in `episode_arrays`."""
    if name.startswith("stamps/"):
        return episode.stamps[name.removeprefix("stamps/")]
    if name in ("action", "base_action", "reward"):
        values: npt.NDArray[Any] = getattr(episode, name)
        return values
    return episode.vectors[name]


def contract_of(episode: RecordedEpisode) -> Contract:
    """Contract of an episode, with the depth that files of other tools have without a contract of their own."""
    contract = episode.contract
    others = [camera for camera in episode.depth_cameras if camera not in contract.depth_cameras]
    if not others:
        return contract
    sizes = {camera: episode.depth(camera, 0).shape for camera in others}
    depth = [Feature.depth(camera, (height, width)) for camera, (height, width) in sizes.items()]
    return contract.with_sensors((*contract.sensors, *depth))


def attributes_of(episode: RecordedEpisode) -> list[str]:
    """Those of `ATTRIBUTES` that an episode has."""
    return [name for name in ATTRIBUTES if _has(episode, name)]


def description_of(episode: RecordedEpisode) -> dict[str, Any]:
    """What an episode has beside its arrays, images and contract, JSON-able: for formats without a place for it."""
    there = [name for name in attributes_of(episode) if name in episode.attrs and name not in ("contract", "describe")]
    attrs = {name: _plain(episode.attrs[name]) for name in there}
    about = {"name": episode.name, "id": episode.id, "layout": episode.layout}
    success = None if episode.success is None else bool(episode.success)
    return {**about, "success": success, "attrs": attrs, "describe": dict(episode.describe)}


def require_alike(first: ExportRecord, other: ExportRecord, what: str) -> None:
    """Require that two episodes can be in one data set, by their records' `further`: "contract" and "features".

    Args:
        what: the data set in words.

    Raises:
        ContractError: the contracts differ, or the descriptions of the features.
    """
    mine, theirs = first.further, other.further
    Contract.from_json(mine["contract"]).require(
        Contract.from_json(theirs["contract"]), mine=first.name, theirs=other.name
    )
    ours, others = mine["features"], theirs["features"]
    if different := sorted(key for key in {*ours, *others} if ours.get(key) != others.get(key)):
        raise ContractError(
            "{first} and {other} cannot be in one {what}: they differ in {different}",
            first=first.name,
            other=other.name,
            what=what,
            different=", ".join(different),
        )


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, (np.generic, np.ndarray)) else value


def _has(episode: RecordedEpisode, name: str) -> bool:
    if name == "contract":
        return not episode.assumption
    if name == "success":
        return episode.success is not None
    return bool(episode.describe) if name == "describe" else episode.attrs.get(name) not in (None, "", False)


class EpisodeExporter(abc.ABC):
    """A data set that is being written: its episodes in any order and in several processes, then what they share.

    Processes get a copy of it by pickle, so it holds values and no open files. The contract is
    `aloha_kit.testing.exporters.check_exporter`.

    Attributes:
        folder: the data set. It gets its final name when it is complete, so nobody reads it before.
        parts: a folder for what `finish` still has to join; removed at the end.
    """

    def __init__(self, folder: Path, parts: Path, options: WriteOptions) -> None:
        self.folder, self.parts, self.options = folder, parts, options

    @abc.abstractmethod
    def write(self, number: int, episode: RecordedEpisode, record: ExportRecord) -> None:
        """Write one episode, over what an interrupted attempt left of it; note in `record` what was written.

        Memory stays bounded however long the episode is: images are read one at a time.

        Raises:
            EpisodeError: the episode is damaged.
            ContractError: it does not fit the others.
            ConfigError: the format cannot hold it.
            OSError: a file cannot be written; an `EpisodeError` may have it as its cause.
        """

    def finish(self, records: Sequence[ExportRecord]) -> None:  # noqa: B027 - some formats share nothing
        """Write what the episodes share. Called once all are written, again after an interruption.

        Args:
            records: of the written episodes in the source's order; at least one.
        """

    def scratch(self, number: int) -> Path:
        """An empty folder in `parts` for one episode."""
        folder = self.parts / f"{number:06d}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder
