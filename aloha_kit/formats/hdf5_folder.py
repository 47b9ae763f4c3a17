"""Folders of HDF5 episodes, ours and the ALOHA family's, as a source."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from aloha_kit.core import did_you_mean, EpisodeError
from aloha_kit.core.errors import command
from aloha_kit.core.files import names_in
from aloha_kit.core.lang import joined, Message
from aloha_kit.core.source import EpisodeSource, RecordedEpisode
from aloha_kit.formats import ReadOptions
from aloha_kit.storage import Episode, list_episodes
from aloha_kit.storage.paths import identity_of, missing
from aloha_kit.storage.selection import select


class Hdf5Source(EpisodeSource):
    """Episode files, and those of folders, in the order in which they are given and numbered.

    Raises:
        EpisodeError: a place is not there, or none of them holds an episode; lists what exists.
    """

    def __init__(self, places: Sequence[str | Path], options: ReadOptions) -> None:
        options.refuse("hdf5", "task")
        paths = [Path(place) for place in places]
        for path in paths:
            if not path.exists():
                if path.is_symlink():
                    raise EpisodeError("{missing}; expected episodes", missing=missing(path))
                raise EpisodeError("no episodes at '{path}'. {known}", path=path, known=_beside(path))
        found = select(*paths).first(options.first)
        self.unused = found.text()
        if not found.files:
            there = [name for path in paths for name in names_in(path)][:20]
            found_there = Message(
                "no episode_<i>.hdf5 in '{folders}'; it holds: {there}",
                folders=", ".join(map(str, paths)),
                there=", ".join(there) or Message("(nothing)"),
            )
            raise EpisodeError(joined([found_there, self.unused]) if self.unused else found_there)
        self.files, self._options = found.files, options
        self.place = found.files[0].parent
        self.advice = f"move it away, or run `{command('episode', 'validate', self.place)}`"

    def __len__(self) -> int:
        return len(self.files)

    def open(self, number: int) -> RecordedEpisode:
        how = self._options
        return Episode.open(self.files[number], how.contract, jpeg_order=how.jpeg_order, rename=how.rename)

    def name(self, number: int) -> str:
        return self.files[number].name

    def file(self, number: int) -> Path:
        return self.files[number]

    def identity(self, number: int) -> str:
        return identity_of(self.files[number])

    def identities(self) -> Collection[str]:
        """Identities of all episodes in the folders: a run on some of them leaves the others cached."""
        folders = {file.parent for file in self.files}
        beside = [identity_of(file) for folder in folders for file in list_episodes(folder)]
        return [*super().identities(), *beside]


def _beside(path: Path) -> Message:
    if not path.parent.is_dir():
        return did_you_mean(path.name, ())
    folders = [entry for entry in path.parent.iterdir() if entry.is_dir() and list_episodes(entry)]
    return did_you_mean(path.name, [entry.name for entry in (*list_episodes(path.parent), *folders)])
