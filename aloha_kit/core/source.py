"""Data sets of recorded episodes, whatever they are stored in: what training, replay and diagnosis read."""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from aloha_kit.core.contract import Contract
from aloha_kit.core.errors import ConfigError, EpisodeError, shown

Array = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]
Depth = npt.NDArray[np.uint16]
ImageReader = Callable[[str, int, "tuple[int, int] | None"], Image]
DepthReader = Callable[[str, int], Depth]


class RecordedEpisode(Protocol):
    """One recorded episode of T actions, open for reading.

    `storage.Episode` is one; `EpisodeData` is one that is easily made. Observations have T or T + 1 rows; row i is the
    one that action i was chosen by. Numbers are float32 in the contract's units. Threads may share an episode.
    """

    @property
    def name(self) -> str:
        """A file name, unique in its source also without its ending; what is made of the episode is called after it."""
        ...

    @property
    def where(self) -> str:
        """Name of the episode in error messages; a path where it has one."""
        ...

    @property
    def id(self) -> str:
        """Identity of the recording, the same in a copy; empty where it has none."""
        ...

    @property
    def layout(self) -> str:
        """Program that wrote it; empty where it is not recorded."""
        ...

    @property
    def contract(self) -> Contract:
        """Contract of the episode: meaning of the vectors, cameras with their sizes, and rate."""
        ...

    @property
    def length(self) -> int:
        """T, the number of actions."""
        ...

    @property
    def frames(self) -> int:
        """Rows of the observations, T or T + 1."""
        ...

    @property
    def cameras(self) -> Sequence[str]:
        """Names of the cameras."""
        ...

    @property
    def depth_cameras(self) -> Sequence[str]:
        """Names of the cameras with depth."""
        ...

    @property
    def action(self) -> Array:
        """(T, A); where there is a `base_action`, the arms' part."""
        ...

    @property
    def base_action(self) -> Array | None:
        """(T, 2) m/s and rad/s of a mobile base, where it is not part of `action`."""
        ...

    @property
    def qpos(self) -> Array:
        """(frames, S)."""
        ...

    @property
    def vectors(self) -> Mapping[str, Array]:
        """{feature: (frames, D)} of every vector of the observations: `qpos`, `effort`, `sensors/left_wrench`, …

        The contract's features name their entries. A vector may be read only when it is taken.
        """
        ...

    @property
    def reward(self) -> Array | None:
        """(T,), or None."""
        ...

    @property
    def stamps(self) -> Mapping[str, npt.NDArray[np.int64]]:
        """Capture times in ns, {stream: (frames,)}, `command` (T,); empty where there are none."""
        ...

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Further attributes: `task`, `instruction`, `reason`, `sim`, `error`, …"""
        ...

    @property
    def describe(self) -> Mapping[str, Any]:
        """The environment's description of itself (scene, seed, policy); empty without one."""
        ...

    @property
    def success(self) -> bool | None:
        """Success label of the episode; None without one."""
        ...

    @property
    def rate_hz(self) -> float:
        """The control rate."""
        ...

    @property
    def assumption(self) -> str:
        """Assumed parts of the contract, in words; empty where all is recorded."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """Notes on what is converted, assumed or contradicted in the data; a line each."""
        ...

    @property
    def action_offset(self) -> int:
        """Steps by which an observation was taken before the action that it is stored with; 0 where they belong
        together."""
        ...

    def image(self, camera: str, i: int, at_least: tuple[int, int] | None = None) -> Image:
        """Row i of a camera as (H, W, 3) uint8 RGB; of a smaller size where `at_least` (height, width) allows it.

        Raises:
            EpisodeError: no such camera or row, or one that is damaged.
        """
        ...

    def image_size(self, camera: str) -> tuple[int, int]:
        """(height, width) of a camera's images."""
        ...

    def depth(self, camera: str, i: int) -> Depth:
        """Row i of a camera's depth as (H, W) uint16 mm, 0 where nothing was measured.

        Raises:
            EpisodeError: no depth of this camera, no such row, or one that is damaged.
        """
        ...

    def rows(self, camera: str) -> int:
        """Number of images of a camera; `frames` in a sound episode."""
        ...

    def reading(self, cameras: Collection[str]) -> str:
        """Conversion of some cameras' images on reading, as part of a cache's key; empty where read as stored."""
        ...

    def close(self) -> None:
        """Close the files."""


@runtime_checkable
class ImagesInPlace(Protocol):
    """What an episode may offer beside `RecordedEpisode`: images decoded where a batch keeps them, not copied there."""

    def image_into(self, camera: str, i: int, out: Image, at_least: tuple[int, int] | None = None) -> Image:
        """As `image`; written to `out` (H, W, 3), which is returned, where the image is decoded to that shape."""
        ...


@dataclass(frozen=True, eq=False)
class EpisodeData:
    """A recorded episode whose vectors are in memory and whose images come from a function: see `RecordedEpisode`.

    Attributes:
        read_image: called with camera, row and the least size wanted (or None); gives (H, W, 3) uint8 RGB.
        read_depth: called with camera and row; gives (H, W) uint16 mm, of the cameras whose depth the contract has.
        further_vectors: {feature: (T or T + 1, D)} of what is measured beside `qpos`.
        resources: open files and the like, whose `close` is called with the episode's.
    """

    name: str
    contract: Contract
    action: Array
    qpos: Array
    read_image: ImageReader
    id: str = ""
    layout: str = ""
    base_action: Array | None = None
    further_vectors: Mapping[str, Array] = field(default_factory=dict)
    reward: Array | None = None
    stamps: Mapping[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)
    describe: Mapping[str, Any] = field(default_factory=dict)
    success: bool | None = None
    assumption: str = ""
    notes: tuple[str, ...] = ()
    action_offset: int = 0
    resources: tuple[Any, ...] = ()
    read_depth: DepthReader | None = None

    @classmethod
    def of_arrays(
        cls,
        name: str,
        contract: Contract,
        arrays: Mapping[str, npt.NDArray[Any]],
        read_image: ImageReader,
        *,
        about: Mapping[str, Any],
        attrs: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> EpisodeData:
        """An episode of a file that holds arrays by name.

        Args:
            arrays: of T rows each: `action`, `qpos`; where recorded `base_action`, `reward`, `stamps/STREAM` (ns), and
                further vectors. Without `base_action`, a base's entries are the last ones of `action`.
            about: what our own exporters recorded of the episode; empty for data of others.
            attrs: of others' episodes.
            more: further attributes.
        """
        flat = {key: values.reshape(len(values), -1) for key, values in arrays.items()}
        stamps = {key: flat.pop(key).reshape(-1).astype(np.int64) for key in arrays if key.startswith("stamps/")}
        vectors = {key: np.asarray(values, np.float32) for key, values in flat.items()}
        action, base, reward = vectors.pop("action"), vectors.pop("base_action", None), vectors.pop("reward", None)
        if base is None and (width := sum(entry.startswith("base") for entry in contract.action_names)):
            action, base = action[:, :-width], action[:, -width:]
        return cls(
            name,
            contract,
            action,
            vectors.pop("qpos"),
            read_image,
            id=str(about.get("id") or ""),
            base_action=base,
            further_vectors=vectors,
            reward=None if reward is None else reward.reshape(-1),
            stamps={key.removeprefix("stamps/"): values for key, values in stamps.items()},
            attrs=about.get("attrs", attrs or {}),
            describe=about.get("describe", {}),
            success=about.get("success"),
            **more,
        )

    @property
    def where(self) -> str:
        return self.name

    @property
    def vectors(self) -> dict[str, Array]:
        return {"qpos": self.qpos, **self.further_vectors}

    @property
    def length(self) -> int:
        return len(self.action)

    @property
    def frames(self) -> int:
        return len(self.qpos)

    @property
    def cameras(self) -> tuple[str, ...]:
        return tuple(self.contract.cameras)

    @property
    def depth_cameras(self) -> tuple[str, ...]:
        return tuple(self.contract.depth_cameras) if self.read_depth else ()

    @property
    def rate_hz(self) -> float:
        return self.contract.rate_hz

    def image(self, camera: str, i: int, at_least: tuple[int, int] | None = None) -> Image:
        return self.read_image(camera, i, at_least)

    def image_size(self, camera: str) -> tuple[int, int]:
        return self.contract.cameras[camera]

    def depth(self, camera: str, i: int) -> Depth:
        if self.read_depth is None or camera not in self.contract.depth_cameras:
            raise EpisodeError("{where} has no depth of '{camera}'", where=self.where, camera=camera)
        return self.read_depth(camera, i)

    def rows(self, camera: str) -> int:
        return self.frames

    def reading(self, cameras: Collection[str]) -> str:
        return ""

    def close(self) -> None:
        """Close the `resources`."""
        for resource in self.resources:
            resource.close()


@dataclass(frozen=True)
class Shard:
    """File that holds the images of one or several episodes, and is fetched whole.

    Attributes:
        name: unique in its source.
        size: in bytes.
        remote: whether it has to be fetched before it is read fast.
    """

    name: str
    size: int
    remote: bool


class EpisodeSource(abc.ABC):
    """A data set: a list of episodes, opened one at a time. Number e is the same episode as long as the source lives.

    The contract is `aloha_kit.testing.sources.check_source`.

    Attributes:
        place: the folder that the data set is, or a name for it: caches go beside it, or are called after it.
        unused: what of the place is not used, and why, in words; empty where all is.
        advice: what to do about an episode that cannot be used.
        validation: names of the episodes that the data set reserves for validation; empty where it names none.
        edits: what is edited when episodes are read, JSON-able, by the file that states it; empty without any.
        window_bytes: of shards that training draws its samples from at a time, so that a bounded cache holds them; None
            where it may draw them from all.
    """

    place: Path
    unused: str = ""
    advice: str = "leave it out"
    validation: Collection[str] = ()
    edits: Mapping[str, Any] = MappingProxyType({})
    window_bytes: int | None = None

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of episodes, at least one."""

    @abc.abstractmethod
    def open(self, number: int) -> RecordedEpisode:
        """An episode; the caller closes it (`contextlib.closing`).

        Raises:
            EpisodeError: it was removed, or is damaged.
        """

    def episode(self, number: int) -> RecordedEpisode:
        """Open an episode as its readers do: `open`, whose result is checked.

        Raises:
            ConfigError: `open` gave something else than an episode.
            EpisodeError: it was removed, or is damaged.
        """
        found = self.open(number)
        if not callable(getattr(found, "close", None)):
            name = f"{type(self).__name__}.open({number})"
            raise ConfigError(
                "{name} of {place} must give a RecordedEpisode, gave {found}",
                name=name,
                place=self.place,
                found=shown(found),
            )
        return found

    def name(self, number: int) -> str:
        """Name of an episode, see `RecordedEpisode.name`. A source that has it without opening the episode overrides
        this."""
        with closing(self.episode(number)) as episode:
            return episode.name

    def file(self, number: int) -> Path | None:
        """File that holds this episode alone, and can be opened by itself; None where it has none of its own."""
        return None

    def part(self, number: int) -> int:
        """Which of several data sets that are read as one an episode is of, from 0."""
        return 0

    @abc.abstractmethod
    def identity(self, number: int) -> str:
        """Identity of an episode's content for caches: unique, and another one once the content changes."""

    def identities(self) -> Collection[str]:
        """The identities of all episodes whose cached images are to be kept; it may be more than are in the source."""
        return [self.identity(number) for number in range(len(self))]

    def shard(self, number: int) -> Shard | None:
        """The shard that an episode's images are in; None where they are in none."""
        return None

    def fetch(self, number: int) -> None:  # noqa: B027 - most data sets are at hand
        """Fetch an episode's shard, so that its images are read fast. They can be read without.

        Raises:
            EpisodeError: it cannot be fetched.
        """

    def image_grids(self, number: int) -> Mapping[str, Array]:
        """{camera: (n, 192)} of some of an episode's images, see `core.image_grid.describe`, from when it was written;
        empty where none were stored."""
        return {}
