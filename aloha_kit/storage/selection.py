"""Selection of the files of a folder that are used as episodes, and reasons for the others.

Numbered files directly in the folder are used. Sub-folders and mirrored copies are not: a sub-folder often holds failed
attempts, another task or the same episodes converted, and the files do not record that.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from aloha_kit.core import EpisodeError
from aloha_kit.core.lang import joined, Message
from aloha_kit.storage.paths import index_of, list_episodes, missing, PARTIAL, SUFFIXES

SUB_FOLDER = "in a sub-folder: give that folder, too, to use them"
_FOLDERS = 1000  # searched at most: a data set may be beside large unrelated folders
_NAMES = 6  # shown of each reason


@dataclass(frozen=True)
class Selection:
    """Episode files in the order in which they are used, and the others as (file, reason)."""

    files: tuple[Path, ...]
    unused: tuple[tuple[Path, str], ...] = ()
    roots: tuple[Path, ...] = ()  # the folders that were given

    def first(self, count: int | None) -> Selection:
        """The first `count` files; the rest becomes unused."""
        if count is None or count >= len(self.files):
            return self
        rest = tuple((file, Message("beyond the first {count}", count=count)) for file in self.files[count:])
        return replace(self, files=self.files[:count], unused=(*rest, *self.unused))

    def with_journals(self) -> Selection:
        """The journals of the given folders among the files too: running or interrupted recordings."""
        journals = [p for p, _ in self.unused if p.name.endswith(PARTIAL) and p.parent in self.roots]
        rest = tuple((file, reason) for file, reason in self.unused if file not in journals)
        return replace(self, files=(*self.files, *journals), unused=rest)

    def text(self) -> str:
        """`3 of 10 files are used; not used: a, b (reason); …`; empty where every file is used."""
        if not self.unused:
            return ""
        reasons: dict[str, list[str]] = {}
        for file, reason in self.unused:
            reasons.setdefault(reason, []).append(self._name(file))
        listed = []
        for reason, names in reasons.items():
            more = Message(" and {count} more", count=len(names) - _NAMES) if len(names) > _NAMES else ""
            listed.append(
                Message("{names}{more} ({reason})", names=", ".join(names[:_NAMES]), more=more, reason=reason)
            )
        total = len(self.files) + len(self.unused)
        return Message(
            "{count} of {total} files are used; not used: {listed}",
            count=len(self.files),
            total=total,
            listed=joined(listed),
        )

    def _name(self, file: Path) -> str:
        root = next((root for root in self.roots if file.is_relative_to(root)), None)
        if root is None or len(self.roots) > 1:
            return str(file)
        return str(file.relative_to(root))


def select(*sources: str | Path) -> Selection:
    """The episodes of folders, or files given one by one.

    Args:
        sources: folders, whose numbered files are used, or episode files, used whatever their names are.

    Raises:
        EpisodeError: one of them is not there.
    """
    files: dict[Path, None] = {}
    unused: dict[Path, str] = {}
    given = [Path(source) for source in sources]
    for source in given:
        if source.is_dir():
            used = list_episodes(source)
            files.update(dict.fromkeys(used))
            unused.update(_others(source, used))
        elif source.exists():
            files[source] = None
        else:
            raise EpisodeError(
                "{missing}; expected a folder that holds episode_<i>.hdf5 files, or one of them",
                missing=missing(source),
            )
    rest = tuple((file, reason) for file, reason in sorted(unused.items()) if file not in files)
    return Selection(tuple(files), rest, tuple(source for source in given if source.is_dir()))


def _others(folder: Path, used: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """HDF5 files and journals in and below `folder` that are not used, each with its reason."""
    numbers = {index_of(path): path for path in used}
    taken = set(numbers.values())
    for looked, (place, folders, names) in enumerate(os.walk(folder)):
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if looked < _FOLDERS else []
        for name in names:
            path = Path(place) / name
            if name.lower().removesuffix(PARTIAL).endswith(SUFFIXES) and path not in taken:
                yield path, _reason(path, folder, numbers)


def _reason(path: Path, folder: Path, numbers: dict[int | None, Path]) -> str:
    if path.name.startswith("."):
        return "a hidden file"
    if path.name.endswith(PARTIAL):
        return "an unfinished recording: run `python -m aloha_kit.episode recover`"
    if path.parent != folder:
        return SUB_FOLDER
    number = index_of(path)
    if number is not None and number in numbers:
        return Message("it has the number of {name}", name=numbers[number].name)
    if path.name.lower().startswith("mirror"):
        return "a mirrored copy, left and right exchanged"
    return Message("no name like episode_<i>.hdf5: rename it, or give the file itself")
