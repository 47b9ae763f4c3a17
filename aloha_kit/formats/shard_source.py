"""Data sets of shards as a source, in a folder or behind a URL."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.core import Contract, EpisodeError
from aloha_kit.core.errors import reason
from aloha_kit.core.exporter import PER_STEP
from aloha_kit.core.features import DEPTHS, IMAGES
from aloha_kit.core.lang import Message
from aloha_kit.core.source import Array, Depth, EpisodeData, EpisodeSource, Image, Shard
from aloha_kit.formats import ReadOptions
from aloha_kit.formats.shard_store import EPISODES, open_shards, ShardStore, table_file
from aloha_kit.storage.codec import decode_depth, decode_image, JpegOrder

_ACTIONS = ("action", "base_action", "reward")


class ShardSource(EpisodeSource):
    """Episodes that `convert --format shards` wrote.

    Arrays are memory-mapped. Images are read one at a time, from the shard where it is at hand, else by its range.

    Raises:
        EpisodeError: several places, no such data set, or it cannot be reached or is damaged.
        ConfigError: an option that shards do not support, or a cache that is too small.
    """

    def __init__(self, places: Sequence[str | Path], options: ReadOptions) -> None:
        options.refuse("shards", "contract", "jpeg_order", "rename", "task")
        if len(places) != 1:
            raise EpisodeError("a data set of shards is one folder or URL, given {count}", count=len(places))
        self.store: ShardStore = open_shards(places[0], options.cache_dir, options.cache_gb)
        self.place, self.window_bytes = self.store.place, self.store.window_bytes
        about = self.store.about
        self._contract = Contract.from_json(json.dumps(about["contract"]))
        self._shards = [Shard(each["name"], each["bytes"], self.store.remote) for each in about["shards"]]
        self._tables: dict[str, npt.NDArray[Any]] = {}
        # of every episode: shard, where it begins in it, steps, observations
        self._rows = self.table("episodes")
        self._steps, self._frames = (np.concatenate([[0], np.cumsum(self._rows[:, i])]) for i in (2, 3))
        self._lines = self._read(self.store.file(EPISODES)).splitlines()
        self._count = len(self._lines[: options.first])

    def __getstate__(self) -> dict[str, Any]:
        """Values without mapped files."""
        return self.__dict__ | {"_tables": {}}

    def __len__(self) -> int:
        return self._count

    def name(self, number: int) -> str:
        return str(self._about(number)["name"])

    def identity(self, number: int) -> str:
        return str(self._about(number)["sha256"])

    def shard(self, number: int) -> Shard:
        return self._shards[int(self._rows[number, 0])]

    def fetch(self, number: int) -> None:
        self.store.fetch(self.shard(number).name)

    def image_grids(self, number: int) -> dict[str, Array]:
        begin, end = np.searchsorted(self.table("grids"), [number, number + 1])
        return {camera: self.table(f"grids/{camera}")[begin:end] for camera in self.store.about["cameras"]}

    def open(self, number: int) -> ShardEpisode:
        about, index = self._about(number), self.store.about
        steps, frames = (slice(int(ends[number]), int(ends[number + 1])) for ends in (self._steps, self._frames))
        arrays = _Rows(self, {name: name for name in index["arrays"]}, steps, frames)
        vectors = {name: name for name in index["arrays"] if name not in _ACTIONS and not name.startswith("stamps/")}
        stamps = {name.removeprefix("stamps/"): name for name in index["arrays"] if name.startswith("stamps/")}
        where = f"{self.store.where}: {about['name']}"
        images = _Images(self, number, where, about["jpeg_order"])
        return ShardEpisode(
            about["name"],
            self._contract,
            arrays["action"],
            arrays["qpos"],
            images.image,
            id=about["id"],
            layout=about["layout"],
            base_action=arrays.get("base_action"),
            reward=arrays.get("reward"),
            stamps=_Rows(self, stamps, steps, frames),
            attrs=about["attrs"],
            describe=about["describe"],
            success=about["success"],
            assumption=about["assumption"],
            action_offset=about["action_offset"],
            depth_cameras=tuple(index["depth_cameras"]),
            where=where,
            rows_of=_Rows(self, vectors, steps, frames),
            jpeg_order=about["jpeg_order"],
            images=images,
        )

    def table(self, name: str) -> npt.NDArray[Any]:
        """A table of the rows of all episodes, mapped."""
        if name not in self._tables:
            file = self.store.file(table_file(name))
            try:
                self._tables[name] = np.load(file, mmap_mode="r")
            except (OSError, ValueError) as error:
                raise EpisodeError("{file} cannot be read: {error}", file=file, error=reason(error)) from error
        return self._tables[name]

    def first_frame(self, number: int) -> int:
        """Row of an episode's first observation in the tables."""
        return int(self._frames[number])

    def begin(self, number: int) -> int:
        """Where an episode begins in its shard, in bytes."""
        return int(self._rows[number, 1])

    def frames(self, number: int) -> int:
        """Number of an episode's observations."""
        return int(self._rows[number, 3])

    def _read(self, file: Path) -> bytes:
        try:
            return file.read_bytes()
        except OSError as error:
            raise EpisodeError("{file} cannot be read: {error}", file=file, error=reason(error)) from error

    def _about(self, number: int) -> dict[str, Any]:
        about: dict[str, Any] = json.loads(self._lines[number])
        return about


@dataclass(frozen=True, eq=False)
class ShardEpisode(EpisodeData):
    """An episode of a data set of shards: also its stored images."""

    where: str = ""
    rows_of: Mapping[str, Array] = field(default_factory=dict)
    jpeg_order: JpegOrder = "standard"
    images: Any = None
    depth_cameras: tuple[str, ...] = ()

    def image_into(self, camera: str, i: int, out: Image, at_least: tuple[int, int] | None = None) -> Image:
        """See `core.source.ImagesInPlace`."""
        image: Image = self.images.image(camera, i, at_least, out)
        return image

    def depth(self, camera: str, i: int) -> Depth:
        depth: Depth = self.images.depth(camera, i)
        return depth

    @property
    def vectors(self) -> Mapping[str, Array]:  # type: ignore[override]
        return self.rows_of

    def jpeg(self, camera: str, i: int) -> bytes:
        """Stored image of a row, encoded; its channels are in `jpeg_order`."""
        data: bytes = self.images.encoded(f"{IMAGES}{camera}", i)
        return data


class _Rows(Mapping[str, Any]):
    """Rows of tables, by their names in an episode; each is read when it is taken."""

    def __init__(self, source: ShardSource, names: Mapping[str, str], steps: slice, frames: slice) -> None:
        self._source, self._names, self._steps, self._frames = source, names, steps, frames

    def __getitem__(self, name: str) -> Any:
        table = self._names[name]
        return self._source.table(table)[self._steps if table in PER_STEP else self._frames]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class _Images:
    """Images and depth of one episode."""

    source: ShardSource
    number: int
    where: str
    order: JpegOrder

    def image(self, camera: str, i: int, at_least: tuple[int, int] | None, out: Image | None = None) -> Image:
        decode = functools.partial(decode_image, order=self.order, at_least=at_least, out=out)
        image: Image = self._decoded(f"{IMAGES}{camera}", i, decode)
        return image

    def depth(self, camera: str, i: int) -> Depth:
        depth: Depth = self._decoded(f"{DEPTHS}{camera}", i, decode_depth)
        return depth

    def encoded(self, feature: str, i: int) -> bytes:
        """The stored bytes of a row."""
        source, known = self.source, self.source.store.about["images"]
        if feature not in known or not 0 <= i < source.frames(self.number):
            raise EpisodeError(
                "{where} has no row {i} of {feature}; it has: {known}",
                where=self.where,
                i=i,
                feature=feature,
                known=", ".join(known) or Message("(no images)"),
            )
        offset, size = source.table(f"places/{feature}")[source.first_frame(self.number) + i].tolist()
        return source.store.read(source.shard(self.number).name, source.begin(self.number) + offset, size)

    def _decoded(self, feature: str, i: int, decode: Any) -> Any:
        data = self.encoded(feature, i)
        try:
            return decode(data)
        except EpisodeError as error:
            raise EpisodeError(
                "{where}: row {i} of {feature} cannot be used: {error}",
                where=self.where,
                i=i,
                feature=feature,
                error=error,
            ) from error
