"""Output folders and files: folders made early or refused with a message, files replaced whole."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from aloha_kit.core.errors import ConfigError
from aloha_kit.core.lang import Message


def make_folder(path: Path) -> Path:
    """Make `path` and its parents; returns it. Call it before long work whose result goes there.

    Raises:
        ConfigError: it cannot be made or written to; names the obstacle.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigError("'{path}' cannot be a folder: a file of that name is in the way", path=path) from error
    except OSError as error:
        raise ConfigError("cannot make the folder '{path}': {why}", path=path, why=error.strerror) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError("cannot write to the folder '{path}': permission denied", path=path)
    return path


def special_file(path: Path) -> str | None:
    """Kind of a special file at `path`, neither a file nor a folder: to read it could take for ever.

    None for a file (or a link to one), a folder, and where nothing is.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return None
    kinds = (
        (stat.S_ISFIFO, Message("a FIFO, not a file")),
        (stat.S_ISSOCK, Message("a socket, not a file")),
        (stat.S_ISCHR, Message("a device, not a file")),
        (stat.S_ISBLK, Message("a disk, not a file")),
    )
    return next((kind for check, kind in kinds if check(mode)), None)


def names_in(folder: Path, most: int = 20) -> list[str]:
    """The first names in a folder, sorted, for a message: without hidden ones; none where there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))[:most]


def free_path(path: Path) -> Path:
    """`path`, or the first of `name_1.ext`, `name_2.ext`, … that is not there, so that nothing is replaced."""
    k, candidate = 0, path
    while candidate.exists():
        k += 1
        candidate = path.with_name(f"{path.stem}_{k}{path.suffix}")
    return candidate


def user_cache() -> Path:
    """The user's folder of caches: `$ALOHA_KIT_CACHE`, or aloha_kit in `$XDG_CACHE_HOME` or ~/.cache."""
    if own := os.environ.get("ALOHA_KIT_CACHE"):
        return Path(own)
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (root if root.is_absolute() else Path("~/.cache").expanduser()) / "aloha_kit"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Path beside `path` to write to: renamed to `path` at the end, removed after an error.

    Raises:
        ConfigError: `path` is a device, a FIFO or a socket, whose name the file would take.
    """
    if kind := special_file(path):
        raise ConfigError("cannot write '{path}': it is {kind}", path=path, kind=kind)
    part = part_of(path)
    try:
        yield part
        put(part, path)
    finally:
        part.unlink(missing_ok=True)


def part_of(path: Path) -> Path:
    """Path to which the next state of `path` is written: a hidden file beside it."""
    return path.with_name(f".{path.name}.part")


def put(part: Path, path: Path) -> None:
    """Put a complete file in the place of `path`, durably: one of the two states is there at every instant.

    Raises:
        OSError: the disk refuses.
    """
    sync(part)  # or a power cut may leave an empty file under the final name
    os.replace(part, path)
    sync_folder(path.parent)


def link_or_copy(source: Path, target: Path) -> None:
    """A second name of a file, or a copy where the file system has none; makes the folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):
        os.link(source, target)
        return
    shutil.copyfile(source, target)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the lock of a file, which is made where it is missing; other threads and processes wait for it."""
    with file.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Wait until the disk has what was written to a file, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Make names created in or removed from `folder` survive a power cut, where the file system can."""
    with suppress(OSError):
        sync(folder)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write `values`; an earlier state of the file is replaced in one step, so it is whole at every instant."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file; an earlier state of it is replaced in one step, so it is whole at every instant."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
