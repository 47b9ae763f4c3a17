"""Reservation of episode indices and atomic commit of episode files, which are never overwritten."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from aloha_kit.core import EpisodeError
from aloha_kit.core.files import sync, sync_folder
from aloha_kit.storage.paths import episode_path, index_of, list_partials, PARTIAL, partial_path, TEMPORARY


def reserve(folder: Path, index: int | None) -> tuple[Path, int]:
    """Reserve an index by creating its journal exclusively; return the episode's path and the locked, open journal.

    Without `index` the lowest free one is taken, so a discarded episode leaves no gap. An
    index is used if its episode or its journal exists. The creation is atomic between processes, and
    a committed episode is linked before its journal is removed, so a second check after it resolves every race.

    Raises:
        EpisodeError: the wanted index is used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    used = {index_of(path) for path in folder.iterdir()}
    candidate = index if index is not None else 0
    while True:
        path = episode_path(folder, candidate)
        if candidate not in used:
            fd = _create(path)
            if fd is not None:
                return path, fd
        if index is not None:
            raise EpisodeError(
                "episode {index} exists already in {folder} and is never overwritten; used there: {used}",
                index=index,
                folder=folder,
                used=", ".join(map(str, sorted(i for i in used | {index} if i is not None))),
            )
        candidate += 1


def sweep(folder: Path) -> None:
    """Remove empty journals and `.tmp` files of killed processes that had reserved an index and written no row."""
    for partial in list_partials(folder) if folder.is_dir() else []:
        with contextlib.suppress(OSError):  # another process was faster, or there are no locks
            if partial.stat().st_size:
                continue
            fd = os.open(partial, os.O_RDWR | os.O_CLOEXEC)
            try:
                if lock(fd) and is_at(fd, partial) and not os.fstat(fd).st_size:
                    temporary_path(partial.with_name(partial.name.removesuffix(PARTIAL))).unlink(missing_ok=True)
                    partial.unlink()
            finally:
                os.close(fd)


def lock(fd: int) -> bool:
    """Try to lock an open journal; False when a live process holds the lock, which ends with that process.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_at(fd: int, path: Path) -> bool:
    """Whether `path` still names the open file."""
    try:
        there, here = os.stat(path), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def commit(temporary: Path, path: Path) -> None:
    """Give a complete file its final name, durably and without overwriting another file.

    Raises:
        EpisodeError: `path` exists.
        OSError: a write failed.
    """
    sync(temporary)
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise EpisodeError("{path} appeared meanwhile; it was not overwritten", path=path) from None
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        if path.exists():  # a file system without hard links (FAT): the journal's reservation keeps others away
            raise EpisodeError("{path} appeared meanwhile; it was not overwritten", path=path) from None
        os.rename(temporary, path)
    sync_folder(path.parent)
    temporary.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file durably."""
    path.unlink(missing_ok=True)
    sync_folder(path.parent)


def temporary_path(path: Path) -> Path:
    """Path where the HDF5 file of `path` is built, by the process that holds the journal's lock."""
    return path.with_name(path.name + TEMPORARY)


def _create(path: Path) -> int | None:
    partial = partial_path(path)
    try:
        fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        return None
    with contextlib.suppress(OSError):  # no locks on this file system: recovery reports that
        fcntl.flock(fd, fcntl.LOCK_EX)
    if path.exists():
        partial.unlink()
        os.close(fd)
        return None
    if not is_at(fd, partial):  # a recovery took the empty journal for an abandoned one
        os.close(fd)
        return _create(path)
    return fd
