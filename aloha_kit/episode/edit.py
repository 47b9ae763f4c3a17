"""Edits of a data set: changes of its curation, checked on the episodes before they are written."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aloha_kit.core import ConfigError, did_you_mean, plural
from aloha_kit.core.errors import command
from aloha_kit.core.files import make_folder
from aloha_kit.core.lang import Message, tr
from aloha_kit.core.source import EpisodeSource, RecordedEpisode
from aloha_kit.formats import AUTO, EXPORTERS, format_of, open_joined, open_source, ReadOptions
from aloha_kit.formats.joined import differences, JoinedSource
from aloha_kit.storage.curation import CURATION, Curation, curation_file, read_curation, write_curation

_LOG = logging.getLogger(__name__)

STILL = 0.02
"""Part of an entry's range over the data set within which it counts as still."""


@dataclass(frozen=True)
class Copy:
    """A data set to write.

    Attributes:
        target: the folder, which must not exist.
        format: of the copy; by default the source's.
    """

    target: Path
    format: str | None = None
    workers: int = 1


class EditedDataset:
    """A data set, the file of its curation, and its episodes as they are recorded."""

    def __init__(self, place: Path, kind: str = AUTO) -> None:
        """Raises:
        EpisodeError, ConfigError: see `open_source`.
        """
        self.place, self.kind, self.file = place, kind, curation_file(place)
        self.curation = read_curation(self.file)
        self.recorded = self._open(Curation(data=self.curation.data))
        self.names = [Path(self.recorded.name(number)).stem for number in range(len(self.recorded))]

    def _open(self, curation: Curation) -> EpisodeSource:
        return open_source(self.place, kind=self.kind, options=ReadOptions(curation=curation))

    def episode(self, name: str) -> RecordedEpisode:
        """An episode as it is recorded; the caller closes it."""
        return self.recorded.episode(self.names.index(name))

    @contextlib.contextmanager
    def first(self) -> Iterator[RecordedEpisode]:
        """The first episode, with the edits that are kept so far."""
        with closing(self._open(self.curation).episode(0)) as episode:
            yield episode

    def require_camera(self, camera: str) -> None:
        """Raise `ConfigError` where no episode has a camera, with the edits that are kept so far."""
        source, there = self._open(self.curation), dict[str, None]()
        for number in range(len(source)):
            with closing(source.episode(number)) as episode:
                there |= dict.fromkeys(episode.cameras)
            if camera in there:
                return
        raise ConfigError(
            "{place} has no camera '{camera}'. {known}",
            place=self.place,
            camera=camera,
            known=did_you_mean(camera, there),
        )

    def require_valid(self, curation: Curation) -> None:
        """Open the episodes that a curation edits.

        Raises:
            EpisodeError, ConfigError: it does not fit them; names episode and steps or camera.
        """
        source = self._open(curation)
        images = curation.cameras, curation.image_size
        every = images != (self.curation.cameras, self.curation.image_size)
        for number in range(len(source)):
            name = Path(source.name(number)).stem
            if every or curation.edit(name) != self.curation.edit(name):
                source.episode(number).close()

    def save(self, curation: Curation) -> str:
        """Write the curation, and describe it in a line.

        Raises:
            ConfigError: another process, or a person, edited the file since it was read.
        """
        self.require_valid(curation)
        if read_curation(self.file) != self.curation:
            raise ConfigError(
                "{file} was changed by another edit at the same time; run the command again", file=self.file
            )
        write_curation(self.file, curation)
        return (
            Message("{file}: {text}", file=self.file, text=curation.text())
            if not curation.empty
            else Message("no edits are left: {file} is removed", file=self.file)
        )

    def copy(self, curation: Curation, copy: Copy) -> int:
        """Write the edited episodes as a data set of their own; returns the exit status of the conversion.

        Raises:
            ConfigError: the source's format is not written, and no other is given.
        """
        self.require_valid(curation)
        data = tuple(str((self.file.parent / place).resolve()) for place in curation.data)
        return convert(self.place, dataclasses.replace(curation, data=data), copy, self.kind)


def convert(place: Path, curation: Curation, copy: Copy, kind: str = AUTO) -> int:
    """Run the converter on a data set with a curation; returns its exit status.

    Raises:
        ConfigError: the source's format is not written, or its parts are of several, and no other is given.
    """
    kinds = {format_of(part) for part in curation.data or [place]} if kind == AUTO else {kind}
    if len(kinds) > 1 and copy.format is None:
        raise ConfigError(
            "these are of formats {kinds}; give that of the copy with --format", kinds=", ".join(sorted(kinds))
        )
    written = copy.format or kinds.pop()
    if written not in EXPORTERS and ":" not in written:
        raise ConfigError(
            "format {written} is read and not written; give --format: {exporters}",
            written=written,
            exporters=", ".join(sorted(EXPORTERS)),
        )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / CURATION
        write_curation(file, curation)
        edits = str(file) if file.exists() else "none"
        words = [str(place), str(copy.target), "--format", written, "--from_format", kind, "--curation", edits]
        words += ["--workers", str(copy.workers)]
        return subprocess.run([sys.executable, "-m", "aloha_kit.convert", *words], check=False).returncode


def dropped(curation: Curation, names: Sequence[str], *, undo: bool = False) -> Curation:
    """Curation in which some episodes are left out, or with `undo` no longer are."""
    return curation.edited({name: dataclasses.replace(curation.edit(name), drop=not undo) for name in names})


def trimmed(curation: Curation, spans: Mapping[str, tuple[int, int | None]]) -> Curation:
    """Curation that keeps the actions [start, stop) of some episodes."""
    edits = {name: dataclasses.replace(curation.edit(name), start=a, stop=b) for name, (a, b) in spans.items()}
    return curation.edited(edits)


def relabelled(
    curation: Curation, names: Sequence[str], labels: Mapping[str, bool | int | str | None] | None
) -> Curation:
    """Curation with labels of some episodes; None takes all back."""
    edits = {}
    for name in names:
        edit = curation.edit(name)
        edits[name] = dataclasses.replace(edit, labels={} if labels is None else {**edit.labels, **labels})
    return curation.edited(edits)


def divided(curation: Curation, validation: Sequence[str]) -> Curation:
    """Curation with these episodes for validation."""
    return dataclasses.replace(curation, validation=tuple(validation))


def drawn(names: Sequence[str], fraction: float, seed: int) -> list[str]:
    """A random part of the episodes, at least one on each side, in their order; the same for the same seed.

    Raises:
        ConfigError: there is only one episode.
    """
    if len(names) < 2:
        raise ConfigError("{episodes} cannot be divided", episodes=plural(len(names), "episode"))
    count = min(max(round(len(names) * fraction), 1), len(names) - 1)
    picked = np.random.default_rng(seed).permutation(len(names))[:count]
    return [names[number] for number in sorted(picked.tolist())]


def halves(curation: Curation, names: Sequence[str], validation: Sequence[str]) -> dict[str, Curation]:
    """{"train", "val": the curation that keeps that side of a split}."""
    whole = dataclasses.replace(curation, validation=())
    others = [name for name in names if name not in validation]
    return {"train": dropped(whole, validation), "val": dropped(whole, others)}


def moving_spans(dataset: EditedDataset, names: Sequence[str], still: float = STILL) -> dict[str, tuple[int, int]]:
    """{episode: the actions [start, stop) without the still steps at its ends}, of those that have such steps.

    A step is still where no entry of state and action differs from the episode's first (or last) row by more than the
    part `still` of the entry's range over these episodes. One still step is kept at each end.
    """
    tables: dict[str, npt.NDArray[np.float32]] = {}
    for name in names:
        with closing(dataset.episode(name)) as episode:
            tables[name] = np.concatenate([episode.action, episode.qpos[: episode.length]], axis=1)
    if not tables:
        return {}
    extents = np.ptp(np.concatenate(list(tables.values())), axis=0)
    spans = {}
    for name, table in tables.items():
        begin, end = (np.abs(table - row) > still * extents for row in (table[0], table[-1]))
        moves, ends = np.flatnonzero(begin.any(axis=1)), np.flatnonzero(end.any(axis=1))
        if not len(moves) or not len(ends):
            _LOG.warning(tr("{name} does not move at all; it is not trimmed", name=name))
            continue
        span = max(0, int(moves[0]) - 1), min(len(table), int(ends[-1]) + 2)
        if span != (0, len(table)):
            spans[name] = span
    return spans


def merge(places: Sequence[Path], into: Path) -> str:
    """Make a folder that reads several data sets as one: it holds only a curation; describes it in a line.

    Raises:
        ConfigError: the folder holds something already.
    """
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise ConfigError("'{into}' exists already; nothing in it is changed: give another folder", into=into)
    report_differences(places)
    make_folder(into)
    curation = Curation(data=tuple(os.path.relpath(place, into) for place in places))
    write_curation(into / CURATION, curation)
    return Message(
        "{file}: {text}; train on it with `{command}`",
        file=into / CURATION,
        text=curation.text(),
        command=command("train", "--dataset_dir", into),
    )


def merge_copy(places: Sequence[Path], copy: Copy) -> int:
    """Write several data sets as one; returns the exit status of the conversion."""
    report_differences(places)
    return convert(places[0], Curation(data=tuple(str(place.resolve()) for place in places)), copy)


def report_differences(places: Sequence[Path]) -> None:
    """Report how the contracts of data sets differ; raises what `open_source` raises."""
    joined = open_joined(places)
    assert isinstance(joined, JoinedSource)
    for line in differences(joined):
        _LOG.warning("%s", line)
