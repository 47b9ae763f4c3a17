"""Names of episode files and journals in a folder, and listing of the existing ones."""

from __future__ import annotations

import re
from pathlib import Path

from aloha_kit.core import EpisodeError
from aloha_kit.core.files import special_file
from aloha_kit.core.lang import Message

PARTIAL = ".partial"  # the journal of an episode that is not committed yet
KEPT = ".kept"  # a journal that holds more than the episode that was recovered from it
TEMPORARY = ".tmp"  # an HDF5 file being built; never a record of anything
SUFFIXES = (".hdf5", ".h5")  # of episode files, in lower case
_NAME = re.compile(r"(?:episode[_-]?)?(\d+)\.(?:hdf5|h5)", re.IGNORECASE)


def episode_path(folder: str | Path, index: int) -> Path:
    """`folder/episode_<index>.hdf5`."""
    return Path(folder) / f"episode_{index}.hdf5"


def partial_path(path: Path) -> Path:
    """Path of the journal that exists in place of `path` until the episode is committed."""
    return path.with_name(path.name + PARTIAL)


def index_of(path: Path) -> int | None:
    """Episode index in a name `episode_<i>.hdf5` or its journal's, None for any other name.

    Other recorders' `episode<i>.hdf5`, `<i>.hdf5` and `.h5`, in upper case too, are names of episodes as well.
    """
    match = _NAME.fullmatch(path.name.removesuffix(PARTIAL))
    return int(match.group(1)) if match else None


def identity_of(file: Path) -> str:
    """Identity of an episode file for caches: name, size and time of change, one of which changes with its content."""
    status = file.stat()
    return f"{file.name}:{status.st_size}:{status.st_mtime_ns}"


def list_episodes(folder: str | Path) -> list[Path]:
    """Committed episodes `episode_<i>.hdf5` of a folder, by index.

    A folder `episode_<i>` that holds one file of the same number counts as that file (RDT). Of two files with the same
    number, the one named as in our own data sets is taken: the other may be its copy.

    Raises:
        EpisodeError: no such folder.
    """
    folder = Path(folder)
    found: dict[int, Path] = {}
    for index, path in (*_numbered(folder, partial=False), *_folders(folder)):
        known = found.setdefault(index, path)
        if path.name == episode_path(folder, index).name and known.name != path.name:
            found[index] = path
    return [found[index] for index in sorted(found)]


def list_partials(folder: str | Path) -> list[Path]:
    """Journals `episode_<i>.hdf5.partial` of a folder, by index: running or interrupted recordings."""
    return [path for _, path in _numbered(Path(folder), partial=True)]


def _numbered(folder: Path, *, partial: bool) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        raise EpisodeError(
            "{missing}; expected a folder that holds episode_<i>.hdf5 files, or one of them", missing=missing(folder)
        )
    found = ((index_of(p), p) for p in folder.iterdir() if p.name.endswith(PARTIAL) == partial)
    return sorted((i, p) for i, p in found if i is not None)


def _folders(folder: Path) -> list[tuple[int, Path]]:
    """Files in a folder of their own name: `episode_3/episode_3.hdf5`."""
    inside = (p / f"{p.name}{suffix}" for p in sorted(folder.glob("episode*")) if p.is_dir() for suffix in SUFFIXES)
    return [(index, path) for path in inside if (index := index_of(path)) is not None and path.is_file()]


def missing(path: Path) -> Message:
    """Reason why `path` cannot be read."""
    if special := special_file(path):
        return Message("'{path}' is {special}", path=path, special=special)
    if path.is_dir():
        return Message("'{path}' is a folder", path=path)
    if path.is_symlink():
        return Message("'{path}' is a link to '{target}', which is not there", path=path, target=path.readlink())
    if path.suffix in (".hdf5", PARTIAL):
        return Message("no file '{path}'", path=path)
    return Message("no folder '{path}'", path=path)


def without_path(error: Exception, path: Path) -> str:
    """An error's text without the path, for messages that name the file already."""
    return str(error).removeprefix(str(path)).lstrip(": ")
