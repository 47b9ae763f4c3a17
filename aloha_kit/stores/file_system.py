"""Stores through fsspec: SFTP, shared folders, and every other file system that it has a driver of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aloha_kit.core import ConfigError
from aloha_kit.core.errors import reason
from aloha_kit.stores.store import Progress, Store, StoredFile, StoreError

_BLOCK = 1 << 20
_PART = ".part"


class FileSystemStore(Store):
    """Files below a folder of a file system.

    A file is written beside its place as a hidden part, which an interrupted transfer goes on with, and renamed when it
    is whole. Where the driver cannot append, it begins again.
    """

    def __init__(self, url: str) -> None:
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise ConfigError(f"{url} needs fsspec: pip install fsspec, or 'aloha_kit[stores]'") from error
        self.url = url
        try:
            self._fs, self._root = url_to_fs(url)
        except (ImportError, ValueError) as error:  # fsspec names the driver's package
            raise ConfigError(f"no driver for {url}: {reason(error)}") from error
        except Exception as error:  # each driver has errors of its own
            raise StoreError(
                f"cannot open {url}: {reason(error)}; host, user and keys are those of the driver of fsspec"
            ) from error

    def files(self, below: str = "") -> Iterator[StoredFile]:
        place = self._path(below) if below else self._root
        try:
            self._fs.invalidate_cache()
            found = self._fs.find(place, detail=True) if self._fs.exists(place) else {}
        except Exception as error:
            raise StoreError(f"cannot list {self.url}: {reason(error)}") from error
        for name, entry in found.items():
            path = str(name)[len(self._root) :].lstrip("/")
            if not path.endswith(_PART):
                yield StoredFile(path, int(entry["size"]))

    def size(self, path: str) -> int | None:
        return self._size(self._path(path))

    def read(self, path: str, start: int, stop: int) -> bytes:
        return bytes(self._fs.cat_file(self._path(path), start=start, end=stop)) if start < stop else b""

    def upload(self, file: Path, path: str, sha256: str, progress: Progress = lambda count: None) -> None:
        target = self._path(path)
        folder, _, name = target.rpartition("/")
        part = f"{folder}/.{name}.{sha256[:8]}{_PART}"
        self._fs.makedirs(folder, exist_ok=True)
        size = file.stat().st_size
        have = self._size(part) or 0
        with file.open("rb") as stream, _Part(self._fs, part, have if have <= size else 0) as (out, begin):
            progress(begin)
            stream.seek(begin)
            while block := stream.read(_BLOCK):
                out.write(block)
                progress(len(block))
        if self._size(target) is not None:
            raise FileExistsError(f"{self.url}: '{path}' exists")
        self._fs.mv(part, target)

    def _size(self, path: str) -> int | None:
        self._fs.invalidate_cache()
        try:
            return int(self._fs.info(path)["size"])
        except FileNotFoundError:
            return None

    def _path(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}"


class _Part:
    """An open part and the bytes that it has: `have`, or 0 where the driver cannot append."""

    def __init__(self, fs: Any, part: str, have: int) -> None:
        try:
            self._file, self._begin = fs.open(part, "ab" if have else "wb"), have
        except (NotImplementedError, ValueError):
            self._file, self._begin = fs.open(part, "wb"), 0

    def __enter__(self) -> tuple[Any, int]:
        return self._file, self._begin

    def __exit__(self, *error: object) -> None:
        self._file.close()
