"""The folder that is recorded into: what it holds already, and where failures go."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

from aloha_kit.core import AlohaKitError, Contract, EpisodeError
from aloha_kit.core.errors import command
from aloha_kit.record.claims import Claims
from aloha_kit.storage import Episode, list_episodes, transaction
from aloha_kit.storage.hdf5 import DAMAGE

FAILED = "failed"
"""Folder, inside the data set's, of failed demonstrations that are kept."""


class DataFolder:
    """What a folder holds and which seeds are taken, also while other recorders fill it.

    Args:
        folder, task, contract: of the recording; the folder is there.

    Raises:
        EpisodeError: a damaged file, or episodes of another task or with other joints, cameras, image sizes
            or rate: one data set is learnt from as a whole. Every method may find that.
    """

    def __init__(self, folder: Path, task: str, contract: Contract) -> None:
        self._folder, self._task, self._contract = folder, task, contract
        self._known: dict[Path, tuple[tuple[int, int, int], int | None, bool]] = {}  # file: version, seed, success
        self.claims = Claims(folder)
        self.look()

    def look(self) -> None:
        """Read the episodes that are new, or were changed, since the last look."""
        aside = self._folder / FAILED
        there = [*list_episodes(self._folder), *(list_episodes(aside) if aside.is_dir() else [])]
        before, self._known = self._known, {}
        for file in there:
            with contextlib.suppress(FileNotFoundError):  # taken away, or put aside, this very moment
                status = file.stat()
                version = status.st_ino, status.st_mtime_ns, status.st_size
                known = before.get(file)
                self._known[file] = known if known and known[0] == version else (version, *self._read(file))

    @property
    def good(self) -> set[Path]:
        """Episodes that are no failures, as of the last look."""
        return {file for file, (_, _, good) in self._known.items() if good and file.parent == self._folder}

    @property
    def used(self) -> set[int]:
        """Seeds of all episodes, failures put aside included, as of the last look."""
        return {seed for _, seed, _ in self._known.values() if seed is not None}

    def seeds(self, first: int) -> Iterator[int]:
        """Seeds from `first` on that nobody has recorded or is recording; each is ours from then on."""
        for seed in itertools.count(first):
            if seed not in self.used and self.claims.seed(seed):
                self.look()  # it may have been recorded, and let go, since the last one
                if seed not in self.used:
                    yield seed

    def begin_attempt(self, wanted: int) -> bool:
        """Whether one more attempt is needed: all that are under way may succeed, the other recorders' too."""
        with self.claims.turn():
            self.look()
            if len(self.good) + self.claims.attempts() >= wanted:
                return False
            self.claims.begin_attempt()
        return True

    def _read(self, file: Path) -> tuple[int | None, bool]:
        try:
            with Episode.open(file) as episode:
                recorded, theirs = episode.attrs.get("task", self._task), episode.contract
                seed, success = episode.describe.get("seed"), episode.success
        except (AlohaKitError, *DAMAGE) as error:
            raise EpisodeError(
                f"{error}\nMove {file} away, or see `{command('episode', 'validate', self._folder)}`"
            ) from error
        if recorded != self._task:
            raise EpisodeError(
                f"{file} is of task '{recorded}', not '{self._task}'; record into another folder with --dataset_dir"
            )
        if found := theirs.differences(self._contract) or self._contract.differences(theirs):
            lines = "\n  ".join(found)
            raise EpisodeError(
                f"{file} was recorded otherwise:\n  {lines}\nRecord alike, or into another folder with --dataset_dir"
            )
        return None if seed is None else int(seed), success is not False


def put_aside(file: Path, folder: Path) -> Path:
    """Move a committed episode into a folder, under the lowest index that is free there.

    Raises:
        EpisodeError: the disk refuses; the episode stays where it is.
    """
    try:
        folder.mkdir(exist_ok=True)
        for index in itertools.count():
            place = folder / f"episode_{index}.hdf5"
            with contextlib.suppress(EpisodeError):  # that name is taken
                transaction.commit(file, place)
                return place
    except OSError as error:
        raise EpisodeError(f"{file} could not be moved to {folder} and stays: {error}") from error
    raise AssertionError("counting never ends")
