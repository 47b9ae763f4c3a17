"""Bounded cache of the files of a store, shared by threads and processes: the least recently used ones make room."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from aloha_kit.core import ConfigError
from aloha_kit.core.files import locked, make_folder, sync

_WAIT_S = 0.02  # between looks at a file that another process fetches
_TOUCH_S = 1.0  # a file that is read all the time is marked as used so often
_PART = ".part"


class ShardCache:
    """Files in a folder, at most `limit` bytes together, those that are being fetched included.

    A file is fetched once, whoever wants it: it is locked meanwhile, and gets its name when it is complete. The system
    releases the lock of a killed process, whose unfinished file the next fetch removes. A file may be evicted at any
    time; one that is open for reading stays readable.

    Args:
        fetch: called with a file's name and the path to write it to.
    """

    def __init__(self, folder: Path, limit: int, fetch: Callable[[str, Path], None]) -> None:
        self._folder, self._limit, self._fetch = folder, limit, fetch
        self._lock = folder.with_name(f"{folder.name}.lock")
        self._touched: dict[str, float] = {}

    def read(self, name: str, offset: int, size: int) -> bytes | None:
        """Bytes of a file; None where it is not in the cache."""
        try:
            handle = os.open(self._folder / name, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            now = time.monotonic()
            if now - self._touched.get(name, -_TOUCH_S) >= _TOUCH_S:
                self._touched[name] = now
                os.utime(handle)
            return os.pread(handle, size, offset)
        finally:
            os.close(handle)

    def fetch(self, name: str, size: int) -> Path:
        """Have a file of `size` bytes in the cache; waits where another process fetches it.

        Raises:
            ConfigError: it is larger than the cache, or the folder cannot be written.
        """
        if size > self._limit:
            raise ConfigError(
                "{name} has {size:.3g} GB, the cache {cache:.3g}; see --cache_gb",
                name=name,
                size=size / 1000000000.0,
                cache=self._limit / 1000000000.0,
            )
        target = make_folder(self._folder) / name
        while True:
            with suppress(FileNotFoundError):
                os.utime(target)
                return target
            with self._reserved(target, size) as part:
                if part is not None:
                    self._fetch(name, part)
                    sync(part)  # or a power cut may leave an empty file under the final name
                    with locked(self._lock):  # who counts the files meets it under one of its two names
                        os.replace(part, target)
                    return target
            time.sleep(_WAIT_S)

    @contextmanager
    def _reserved(self, target: Path, size: int) -> Iterator[Path | None]:
        """A locked file to write to, for which there is room; None where others have to be waited for."""
        with locked(self._lock):
            if target.exists() or not self._make_room(target, size):
                part = None
            else:
                part = target.with_name(f"{target.name}.{size}{_PART}")
                handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield part
        except BaseException:
            if part is not None:
                with locked(self._lock):  # without, it might be the next one's of this name
                    part.unlink(missing_ok=True)
            raise
        finally:
            if part is not None:
                os.close(handle)

    def _make_room(self, target: Path, size: int) -> bool:
        """Evict files until there is room; whether there is, and nobody fetches this file."""
        used, whole = size, []
        for file in self._folder.iterdir():
            if file.suffix != _PART:
                whole.append((file.stat(), file))
            elif not _in_use(file):
                file.unlink(missing_ok=True)  # of a process that was killed
            elif file.name.startswith(f"{target.name}."):
                return False
            else:
                used += int(file.suffixes[-2][1:])
        used += sum(status.st_size for status, _ in whole)
        for status, file in sorted(whole, key=lambda each: each[0].st_mtime_ns):
            if used <= self._limit:
                break
            file.unlink()
            used -= status.st_size
        return used <= self._limit


def _in_use(file: Path) -> bool:
    """Whether a process holds the lock of a file."""
    try:
        handle = os.open(file, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
