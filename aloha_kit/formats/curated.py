"""Curated data sets: a source with the edits of a curation."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from aloha_kit.core import ConfigError, Contract, did_you_mean, EpisodeError
from aloha_kit.core.exporter import PER_STEP
from aloha_kit.core.lang import joined as joined_text
from aloha_kit.core.lang import Message
from aloha_kit.core.source import Array, EpisodeSource, Image, RecordedEpisode, Shard
from aloha_kit.storage.codec import resize
from aloha_kit.storage.curation import Curation, EpisodeEdit

_Rows = TypeVar("_Rows", bound=npt.NDArray[Any])


class CuratedEpisode:
    """A recorded episode with its edits applied; see `RecordedEpisode`.

    Attributes:
        original: the episode as it is recorded.
        start, stop: the actions of the original that are kept.
    """

    def __init__(
        self,
        original: RecordedEpisode,
        edit: EpisodeEdit = EpisodeEdit(),  # noqa: B008 - frozen
        cameras: Mapping[str, str] | None = None,
        sizes: Mapping[str, tuple[int, int]] | None = None,
        name: str = "",
    ) -> None:
        """`cameras` is {new name: recorded name}, `sizes` {new name: (height, width)}, `name` one in place of its own.

        Raises:
            EpisodeError: no such steps or camera.
        """
        self.original, self.edit = original, edit
        self.start, self.stop = edit.start, original.length if edit.stop is None else edit.stop
        if not 0 <= self.start < self.stop <= original.length:
            raise EpisodeError(
                "{where} has steps 0 to {last}; the curation keeps [{start}, {stop})",
                where=original.where,
                last=original.length - 1,
                start=self.start,
                stop=self.stop,
            )
        for new, old in (cameras or {}).items():
            if old not in original.cameras and new not in original.cameras:
                raise EpisodeError(
                    "{where} has no camera '{old}'. {known}",
                    where=original.where,
                    old=old,
                    known=did_you_mean(old, original.cameras),
                )
        names = {old: new for new, old in (cameras or {}).items() if old in original.cameras}
        self.renamed = {names.get(camera, camera): camera for camera in original.cameras}
        """{name: recorded name} of every camera."""
        if len(self.renamed) < len(original.cameras):
            raise EpisodeError(
                "{where}: two cameras would have one name: {renamed}",
                where=original.where,
                renamed=", ".join(self.renamed),
            )
        self.sizes = dict(sizes or {})
        for camera in self.sizes:
            if camera not in self.renamed:
                there = ", ".join(self.renamed) or Message("(none)")
                raise EpisodeError(
                    "{where} has no camera '{camera}'; there are: {there}",
                    where=original.where,
                    camera=camera,
                    there=there,
                )
        self._name = name or original.name

    def flat(self) -> CuratedEpisode:
        """The same episode whose original is as recorded: edits of edits, as of joined data sets, become one."""
        if not isinstance(self.original, CuratedEpisode):
            return self
        inner = self.original.flat()
        labels = {**inner.edit.labels, **self.edit.labels}
        edit = EpisodeEdit(start=inner.start + self.start, stop=inner.start + self.stop, labels=labels)
        cameras = {new: inner.renamed[name] for new, name in self.renamed.items()}
        sizes = {new: inner.sizes[name] for new, name in self.renamed.items() if name in inner.sizes}
        return CuratedEpisode(inner.original, edit, cameras, {**sizes, **self.sizes}, self.name)

    @property
    def name(self) -> str:
        return self._name

    @property
    def where(self) -> str:
        return self.original.where

    @property
    def id(self) -> str:
        return self.original.id

    @property
    def layout(self) -> str:
        return self.original.layout

    @property
    def contract(self) -> Contract:
        contract = self.original.contract
        names = {old: new for new, old in self.renamed.items() if old in contract.cameras and old != new}
        contract = contract.renamed(names) if names else contract
        return contract.with_cameras({**contract.cameras, **self.sizes}) if self.sizes else contract

    @property
    def length(self) -> int:
        return self.stop - self.start

    @property
    def frames(self) -> int:
        return self.length + self.original.frames - self.original.length

    @property
    def cameras(self) -> tuple[str, ...]:
        return tuple(self.renamed)

    @property
    def action(self) -> Array:
        return self._steps(self.original.action)

    @property
    def base_action(self) -> Array | None:
        base = self.original.base_action
        return None if base is None else self._steps(base)

    @property
    def qpos(self) -> Array:
        return self._observations(self.original.qpos)

    @property
    def vectors(self) -> Mapping[str, Array]:
        return _Sliced(self.original.vectors, slice(self.start, self.start + self.frames))

    @property
    def reward(self) -> Array | None:
        reward = self.original.reward
        return None if reward is None else self._steps(reward)

    @property
    def stamps(self) -> dict[str, npt.NDArray[np.int64]]:
        names = {f"images/{old}": f"images/{new}" for new, old in self.renamed.items()}
        return {
            names.get(name, name): self._steps(stamps) if f"stamps/{name}" in PER_STEP else self._observations(stamps)
            for name, stamps in self.original.stamps.items()
        }

    @property
    def attrs(self) -> Mapping[str, Any]:
        labels = self.edit.labels
        kept = {name: value for name, value in self.original.attrs.items() if name not in labels}
        return kept | {name: value for name, value in labels.items() if value is not None}

    @property
    def describe(self) -> Mapping[str, Any]:
        return self.original.describe

    @property
    def success(self) -> bool | None:
        value = self.edit.labels.get("success", self.original.success)
        return None if value is None else bool(value)

    @property
    def rate_hz(self) -> float:
        return self.original.rate_hz

    @property
    def assumption(self) -> str:
        return self.original.assumption

    @property
    def notes(self) -> Sequence[str]:
        return self.original.notes

    @property
    def action_offset(self) -> int:
        return self.original.action_offset

    @property
    def depth_cameras(self) -> tuple[str, ...]:
        """Names of the cameras with depth."""
        names = {old: new for new, old in self.renamed.items()}
        return tuple(names.get(camera, camera) for camera in getattr(self.original, "depth_cameras", ()))

    def depth(self, camera: str, i: int) -> npt.NDArray[np.uint16]:
        """Row i of a depth camera as (H, W) uint16 mm, in the recorded size."""
        read = getattr(self.original, "depth", None)
        if read is None or not 0 <= i < self.frames:
            raise EpisodeError("{where} has no depth image {i} of '{camera}'", where=self.where, i=i, camera=camera)
        found: npt.NDArray[np.uint16] = read(self.renamed.get(camera, camera), self.start + i)
        return found

    def image(self, camera: str, i: int, at_least: tuple[int, int] | None = None) -> Image:
        if not 0 <= i < self.frames:
            raise EpisodeError(
                "{where} has frames 0 to {last} of camera '{camera}', given frame {i}",
                where=self.where,
                last=self.frames - 1,
                camera=camera,
                i=i,
            )
        recorded = self._recorded(camera)
        if camera not in self.sizes:
            return self.original.image(recorded, self.start + i, at_least)
        height, width = self.sizes[camera]
        return resize(self.original.image(recorded, self.start + i, (2 * height, 2 * width)), (height, width))

    def image_size(self, camera: str) -> tuple[int, int]:
        return self.sizes.get(camera) or self.original.image_size(self._recorded(camera))

    def rows(self, camera: str) -> int:
        return max(0, min(self.original.rows(self._recorded(camera)) - self.start, self.frames))

    def reading(self, cameras: Collection[str]) -> str:
        words = {f"{camera} is {self.renamed[camera]}" for camera in cameras if self.renamed[camera] != camera}
        words |= {f"{camera} at {h}x{w}" for camera, (h, w) in self.sizes.items() if camera in cameras}
        whole = self.original.reading([self._recorded(camera) for camera in cameras])
        return "; ".join([*([whole] if whole else []), *sorted(words)])

    def close(self) -> None:
        self.original.close()

    def _recorded(self, camera: str) -> str:
        """The recorded name of a camera; one that is not there as it is, so that the original names the error."""
        if camera not in self.renamed and camera in self.renamed.values():
            raise EpisodeError(
                "{where} has no camera '{camera}'. {known}",
                where=self.where,
                camera=camera,
                known=did_you_mean(camera, self.renamed),
            )
        return self.renamed.get(camera, camera)

    def _steps(self, rows: _Rows) -> _Rows:
        return rows[self.start : self.stop]  # type: ignore[return-value]

    def _observations(self, rows: _Rows) -> _Rows:
        return rows[self.start : self.start + self.frames]  # type: ignore[return-value]


class _Sliced(Mapping[str, Array]):
    """Rows of vectors, each read when it is taken."""

    def __init__(self, vectors: Mapping[str, Array], rows: slice) -> None:
        self._vectors, self._rows = vectors, rows

    def __getitem__(self, name: str) -> Array:
        return self._vectors[name][self._rows]

    def __contains__(self, name: object) -> bool:
        return name in self._vectors

    def __iter__(self) -> Iterator[str]:
        return iter(self._vectors)

    def __len__(self) -> int:
        return len(self._vectors)


class CuratedSource(EpisodeSource):
    """A data set with the edits of a curation.

    Raises:
        ConfigError: the curation names an episode that is not there, or drops all; names the file.
    """

    def __init__(
        self,
        source: EpisodeSource,
        curation: Curation,
        file: Path | str = "",
        *,
        first: int | None = None,
        whole: bool = True,
    ) -> None:
        """`file` names the curation in messages; `first` uses so many episodes; not `whole` is a part of the data set
        that the curation is of, in which not every episode that it names has to be."""
        self._source, self.curation, self._file = source, curation, file
        self.place, self.advice, self.window_bytes = source.place, source.advice, source.window_bytes
        names = [Path(source.name(number)).stem for number in range(len(source))]
        numbers = {name: number for number, name in enumerate(names)}
        for name in (*curation.episodes, *curation.order, *curation.validation):
            if whole and name not in numbers:
                raise ConfigError(
                    "{file}: no episode '{name}'. {known}", file=file, name=name, known=did_you_mean(name, names)
                )
        order = dict.fromkeys([*(numbers[name] for name in curation.order if name in numbers), *range(len(names))])
        kept = [number for number in order if not curation.edit(names[number]).drop]
        if not kept:
            raise ConfigError("every episode of {place} is dropped by {file}", place=source.place, file=file)
        self._numbers, self._names = kept[:first], names
        self.edits = {**source.edits, **({} if curation.empty else {str(file): curation.to_mapping()})}
        texts = [source.unused, f"{file}: {text}" if (text := curation.text()) else ""]
        if first is not None and first < len(kept):
            texts.append(f"{len(kept) - first} of {len(kept)} episodes are beyond the first {first}")
        self.unused = joined_text([text for text in texts if text])
        reserved = [number for number in self._numbers if names[number] in curation.validation]
        own = [source.name(number) for number in reserved]
        self.validation = own or source.validation

    def __len__(self) -> int:
        return len(self._numbers)

    def name(self, number: int) -> str:
        return self._source.name(self._numbers[number])

    def part(self, number: int) -> int:
        return self._source.part(self._numbers[number])

    def shard(self, number: int) -> Shard | None:
        return self._source.shard(self._numbers[number])

    def fetch(self, number: int) -> None:
        self._source.fetch(self._numbers[number])

    def image_grids(self, number: int) -> Mapping[str, Array]:
        edited = self._edit(number).trims or self.curation.cameras or self.curation.image_size
        return {} if edited else self._source.image_grids(self._numbers[number])

    def open(self, number: int) -> RecordedEpisode:
        curation, edit = self.curation, self._edit(number)
        original = self._source.episode(self._numbers[number])
        if edit == EpisodeEdit() and not curation.cameras and not curation.image_size:
            return original
        try:
            return CuratedEpisode(original, edit, curation.cameras, curation.image_size)
        except EpisodeError as error:
            original.close()
            raise EpisodeError("{file}: {error}", file=self._file, error=error) from error

    def identity(self, number: int) -> str:
        edit, recorded = self._edit(number), self._source.identity(self._numbers[number])
        return f"{recorded}[{edit.start}:{edit.stop}]" if edit.trims else recorded

    def identities(self) -> Collection[str]:
        """Those of the recorded episodes too: an edit that is undone needs no decoding."""
        return [*super().identities(), *self._source.identities()]

    def _edit(self, number: int) -> EpisodeEdit:
        return self.curation.edit(self._names[self._numbers[number]])


def renamed(curation: Curation, names: Mapping[str, str]) -> Curation:
    """A curation whose cameras have other names: {the name to read one by: its name in the curation}."""
    other = {old: new for new, old in names.items()}
    cameras = {other.get(new, new): old for new, old in curation.cameras.items()}
    cameras |= {new: old for new, old in names.items() if old not in curation.cameras}
    sizes = {other.get(camera, camera): size for camera, size in curation.image_size.items()}
    return dataclasses.replace(curation, cameras=cameras, image_size=sizes)
