"""Claims of several recorders in one folder: which seeds are theirs, and how many attempts are under way.

A claim is a lock on one byte of the file `.claims` in the folder, at the seed's number. It lasts as long as any process
that was given the file (a recorder and its workers), so that whoever is killed leaves none behind. The last recorder to
end takes the file away. Where the file system has no locks, everything is granted, as if nobody else were there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from multiprocessing import reduction
from pathlib import Path
from typing import Any

from aloha_kit.storage import transaction

_NAME = ".claims"
_SEEDS = 1 << 61  # bytes for seeds; what lies behind is for the rest
_TURN = _SEEDS
_PRESENT = _SEEDS + 1  # shared by all who have the file open; alone on it, one may take the file away
_ATTEMPTS = _SEEDS + 2
_MOST_ATTEMPTS = 1 << 20
_FLOCK = "hhqqi"  # struct flock: type, whence, start, length, pid

# of an open file and not of a process: two recorders in one process are two, and workers share their recorder's
_TRY, _WAIT, _ASK = fcntl.F_OFD_SETLK, fcntl.F_OFD_SETLKW, fcntl.F_OFD_GETLK


class Claims:
    """One recorder's claims in a folder.

    Given to a process as it is started, it keeps the claims alive until that process ends too.
    """

    def __init__(self, folder: Path) -> None:
        self._path, self._fd = folder / _NAME, -1
        self._attempts: list[int] = []
        with contextlib.suppress(OSError):  # a file of another user, or a folder without room for it
            while self._fd < 0:
                self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                self._lock(_PRESENT, fcntl.F_RDLCK, _WAIT)
                if not transaction.is_at(self._fd, self._path):  # taken away meanwhile
                    os.close(self._fd)
                    self._fd = -1

    def __reduce__(self) -> tuple[Any, ...]:
        return _adopted, (reduction.DupFd(self._fd) if self._fd >= 0 else None,)

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
        """One recorder at a time; for as long as a look into the folder takes."""
        self._lock(_TURN, fcntl.F_WRLCK, _WAIT)
        try:
            yield
        finally:
            self._lock(_TURN, fcntl.F_UNLCK)

    def seed(self, seed: int) -> bool:
        """Claim a seed until the end; False where another recorder has it."""
        return self._lock(seed % _SEEDS, fcntl.F_WRLCK)

    def attempts(self) -> int:
        """Attempts under way, ours and the others'."""
        return len(self._attempts) + self._held(_ATTEMPTS, _ATTEMPTS + _MOST_ATTEMPTS)

    def begin_attempt(self) -> None:
        """Note an attempt; to be done in a `turn`."""
        free = (
            k for k in range(_MOST_ATTEMPTS) if k not in self._attempts and self._lock(_ATTEMPTS + k, fcntl.F_WRLCK)
        )
        self._attempts.append(next(free))

    def end_attempt(self) -> None:
        """An attempt of ours is over, and its episode in the folder if it is kept."""
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
        """How many bytes of [begin, end) others have locked: the system names one stretch at a time."""
        if begin >= end or self._fd < 0:
            return 0
        try:
            kind, start, length = self._call(_ASK, fcntl.F_WRLCK, begin, end - begin)
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


def _adopted(handed: Any) -> Claims:
    claims = Claims.__new__(Claims)
    claims._path, claims._attempts = Path(), []
    claims._fd = -1 if handed is None else handed.detach()
    return claims
