"""Folder that is recorded into: its episodes, the seeds that are taken, failed episodes, several recorders at once."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import struct
from collections.abc import Iterator, Mapping
from multiprocessing import reduction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.core import AlohaKitError, Contract, EpisodeError
from aloha_kit.core.errors import command
from aloha_kit.core.files import replacing
from aloha_kit.core.jpeg import encode_jpeg
from aloha_kit.core.lang import joined, tr
from aloha_kit.storage import Episode, list_episodes, transaction
from aloha_kit.storage.hdf5 import DAMAGE

CONTACT_SHEET = "cameras.jpg"
"""File in the data set's folder: an image of every camera, from before the first episode of the last recording."""

FAILED = "failed"
"""Folder, inside the data set's, of failed episodes that are kept."""

_NAME = ".claims"
_SEEDS = 1 << 61  # bytes for seeds; the other locks lie behind
_TURN = _SEEDS
_PRESENT = _SEEDS + 1  # shared by all that have the file open; the only one left may remove it
_ATTEMPTS = _SEEDS + 2
_MOST_ATTEMPTS = 1 << 20
_FLOCK = "hhqqi"  # struct flock: type, whence, start, length, pid

# of an open file and not of a process: two recorders in one process are two, and workers share their recorder's
_TRY, _WAIT, _QUERY = fcntl.F_OFD_SETLK, fcntl.F_OFD_SETLKW, fcntl.F_OFD_GETLK


class DatasetFolder:
    """Folder that is recorded into: its episodes and the seeds taken, also while other recorders fill it.

    Args:
        folder, task, contract: of the recording; the folder is there.

    Raises:
        EpisodeError: a damaged file, or episodes of another task or with other joints, cameras, image sizes
            or rate: one data set is trained on as a whole. Every method may raise it.
    """

    def __init__(self, folder: Path, task: str, contract: Contract) -> None:
        self._folder, self._task, self._contract = folder, task, contract
        self._known: dict[Path, tuple[tuple[int, int, int], int | None, bool]] = {}  # file: version, seed, success
        self.claims = SeedClaims(folder)
        self.refresh()

    def refresh(self) -> None:
        """Read the episodes that are new, or were changed, since the last call."""
        failed = self._folder / FAILED
        there = [*list_episodes(self._folder), *(list_episodes(failed) if failed.is_dir() else [])]
        before, self._known = self._known, {}
        for file in there:
            with contextlib.suppress(FileNotFoundError):  # removed, or moved to failed/, at this moment
                status = file.stat()
                version = status.st_ino, status.st_mtime_ns, status.st_size
                known = before.get(file)
                self._known[file] = known if known and known[0] == version else (version, *self._read(file))

    @property
    def good(self) -> set[Path]:
        """Episodes that are no failures, as of the last `refresh`."""
        return {file for file, (_, _, good) in self._known.items() if good and file.parent == self._folder}

    @property
    def used(self) -> set[int]:
        """Seeds of all episodes, those in failed/ included, as of the last `refresh`."""
        return {seed for _, seed, _ in self._known.values() if seed is not None}

    def seeds(self, first: int) -> Iterator[int]:
        """Seeds from `first` on that no recorder has recorded or is recording; each is claimed as it is given."""
        for seed in itertools.count(first):
            if seed not in self.used and self.claims.seed(seed):
                self.refresh()  # it may have been recorded, and released, since the last one
                if seed not in self.used:
                    yield seed

    def begin_attempt(self, wanted: int) -> bool:
        """Begin one more attempt if it is needed: all that are under way may succeed, other recorders' too."""
        with self.claims.turn():
            self.refresh()
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
                "{error}\nMove {file} away, or run `{command}`",
                error=error,
                file=file,
                command=command("episode", "validate", self._folder),
            ) from error
        if recorded != self._task:
            raise EpisodeError(
                "{file} is of task '{recorded}', not '{wanted}'; record into another folder with --dataset_dir",
                file=file,
                recorded=recorded,
                wanted=self._task,
            )
        if found := theirs.differences(self._contract) or self._contract.differences(theirs):
            lines = joined(found, "\n  ")
            raise EpisodeError(
                "{file} was recorded otherwise:\n  {lines}\nRecord alike, or into another folder with --dataset_dir",
                file=file,
                lines=lines,
            )
        return None if seed is None else int(seed), success is not False


def write_contact_sheet(folder: Path, images: Mapping[str, npt.NDArray[np.uint8]]) -> str:
    """Write one image that shows every camera with its name; returns a message that names the file.

    Args:
        images: {camera: (H, W, 3) RGB}, at least one.
    """
    from aloha_kit.media.frames import row  # matplotlib's fonts: half a second

    sheet = row(list(images.values()), 240, labels=list(images))
    path = folder / CONTACT_SHEET
    try:
        with replacing(path) as part:
            part.write_bytes(encode_jpeg(sheet, 90).tobytes())
    except OSError as error:  # no reason not to record
        return tr("no contact sheet of the cameras: {path}: {why}", path=path, why=error.strerror)
    return tr("contact sheet of the cameras: {path}", path=path)


def move_to_failed(file: Path) -> Path:
    """Move a committed episode into `failed/` beside it, under the lowest index that is free there.

    Raises:
        EpisodeError: the disk refuses; the episode stays where it is.
    """
    folder = file.parent / FAILED
    try:
        folder.mkdir(exist_ok=True)
        for index in itertools.count():
            place = folder / f"episode_{index}.hdf5"
            with contextlib.suppress(EpisodeError):  # that name is taken
                transaction.commit(file, place)
                return place
    except OSError as error:
        raise EpisodeError(
            "{file} could not be moved to {folder} and stays: {error}", file=file, folder=folder, error=error
        ) from error
    raise AssertionError("counting never ends")


class SeedClaims:
    """Claims of one recorder in a folder: which seeds are its own, and how many attempts are under way.

    A claim is a lock on one byte of the file `.claims` in the folder, at the seed's number. It lasts as long as any
    process that was given the file (a recorder and its workers), so that a killed one leaves none behind. The last
    recorder to end removes the file. Where the file system has no locks, every claim is granted. Passed to a process
    at its start, the claims last until that process ends too.
    """

    def __init__(self, folder: Path) -> None:
        self._path, self._fd = folder / _NAME, -1
        self._attempts: list[int] = []
        with contextlib.suppress(OSError):  # a file of another user, or a folder without room for it
            while self._fd < 0:
                self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                self._lock(_PRESENT, fcntl.F_RDLCK, _WAIT)
                if not transaction.is_at(self._fd, self._path):  # removed meanwhile
                    os.close(self._fd)
                    self._fd = -1

    def __reduce__(self) -> tuple[Any, ...]:
        return _inherited, (reduction.DupFd(self._fd) if self._fd >= 0 else None,)

    def close(self) -> None:
        """Give up all claims that no worker holds."""
        if self._fd >= 0:
            if self._lock(_PRESENT, fcntl.F_WRLCK):
                with contextlib.suppress(OSError):
                    self._path.unlink()
            os.close(self._fd)
            self._fd = -1

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Hold the folder for one recorder at a time, while it is read."""
        self._lock(_TURN, fcntl.F_WRLCK, _WAIT)
        try:
            yield
        finally:
            self._lock(_TURN, fcntl.F_UNLCK)

    def seed(self, seed: int) -> bool:
        """Claim a seed until the end; False where another recorder has it."""
        return self._lock(seed % _SEEDS, fcntl.F_WRLCK)

    def attempts(self) -> int:
        """Attempts under way, of this and other recorders."""
        return len(self._attempts) + self._held(_ATTEMPTS, _ATTEMPTS + _MOST_ATTEMPTS)

    def begin_attempt(self) -> None:
        """Count an attempt; call it in a `turn`."""
        free = (
            k for k in range(_MOST_ATTEMPTS) if k not in self._attempts and self._lock(_ATTEMPTS + k, fcntl.F_WRLCK)
        )
        self._attempts.append(next(free))

    def end_attempt(self) -> None:
        """End an attempt of this recorder; its episode is in the folder if it is kept."""
        if self._attempts:
            self._lock(_ATTEMPTS + self._attempts.pop(), fcntl.F_UNLCK)

    def _lock(self, byte: int, kind: int, how: int = _TRY) -> bool:
        if self._fd < 0:
            return True
        try:
            self._call(how, kind, byte, 1)
        except OSError as error:
            return error.errno not in (errno.EAGAIN, errno.EACCES)
        return True

    def _held(self, begin: int, end: int) -> int:
        """Bytes of [begin, end) that others have locked; the system reports one range at a time."""
        if begin >= end or self._fd < 0:
            return 0
        try:
            kind, start, length = self._call(_QUERY, fcntl.F_WRLCK, begin, end - begin)
        except OSError:
            return 0
        if kind == fcntl.F_UNLCK:
            return 0
        first, last = max(start, begin), min(start + length if length else end, end)
        return last - first + self._held(begin, first) + self._held(last, end)

    def _call(self, how: int, kind: int, start: int, length: int) -> tuple[int, int, int]:
        answer = fcntl.fcntl(self._fd, how, struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0))
        kind, _, start, length, _ = struct.unpack(_FLOCK, answer[: struct.calcsize(_FLOCK)])
        return kind, start, length


def _inherited(handed: Any) -> SeedClaims:
    claims = SeedClaims.__new__(SeedClaims)
    claims._path, claims._attempts = Path(), []
    claims._fd = -1 if handed is None else handed.detach()
    return claims
