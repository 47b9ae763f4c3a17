"""Stores through fsspec: shared folders, and every other file system that it has a driver of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from aloha_kit.core import ConfigError
from aloha_kit.core.errors import reason
from aloha_kit.core.lang import Message
from aloha_kit.stores.store import Progress, Store, StoredFile, StoreError

_BLOCK = 1 << 20
_PART = ".part"
_CANNOT_APPEND = (AssertionError, NotImplementedError, ValueError)  # of drivers, WebDAV's the first


class FileSystemStore(Store):
    """Files below a folder of a file system.

    A file is written beside its place as a hidden part, which an interrupted transfer goes on with, and renamed when it
    has all bytes. Where the driver cannot append, it begins again.

    Attributes:
        options: of the driver.
    """

    options: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    def __init__(self, url: str) -> None:
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise ConfigError("{url} needs fsspec: pip install fsspec, or 'aloha_kit[stores]'", url=url) from error
        self.url = url
        try:
            self._fs, self._root = url_to_fs(url, **self.options)
        except (ImportError, ValueError) as error:  # fsspec names the driver's package
            raise ConfigError("no driver for {url}: {error}", url=url, error=reason(error)) from error
        except Exception as error:  # each driver has errors of its own
            raise StoreError(
                "cannot open {url}: {error}; host, user and keys are those of the driver of fsspec",
                url=url,
                error=reason(error),
            ) from error

    def files(self, below: str = "") -> Iterator[StoredFile]:
        place = self._path(below) if below else self._root
        try:
            # not `exists`, which many drivers answer with False where they cannot be reached
            found = {} if self._info(place) is None else self._fs.find(place, detail=True, on_error="raise")
        except Exception as error:
            raise StoreError("cannot list {url}: {error}", url=self.url, error=reason(error)) from error
        for name, entry in found.items():
            path = str(name)[len(self._root) :].lstrip("/")
            if not path.endswith(_PART):
                yield StoredFile(path, int(entry["size"]))

    def size(self, path: str) -> int | None:
        return self._size(self._path(path))

    def _read(self, path: str, start: int, stop: int) -> bytes:
        return bytes(self._fs.cat_file(self._path(path), start=start, end=stop))

    def upload(self, file: Path, path: str, sha256: str, progress: Progress = lambda count: None) -> None:
        target = self._path(path)
        folder, _, name = target.rpartition("/")
        part = f"{folder}/.{name}.{sha256[:8]}{_PART}"
        self._fs.makedirs(folder, exist_ok=True)
        size = file.stat().st_size
        have = self._size(part) or 0
        out, begin = self._opened(part, have if have <= size else 0)
        with out, file.open("rb") as stream:
            progress(begin)
            stream.seek(begin)
            while block := stream.read(_BLOCK):
                out.write(block)
                progress(len(block))
        if (written := self._size(part)) != size:  # drivers such as FTP's begin again where they should append
            if written is not None:
                self._fs.rm(part)
            raise OSError(
                Message(
                    "{url}: '{path}' has {written} bytes after {size} were sent",
                    url=self.url,
                    path=path,
                    written=written,
                    size=size,
                )
            )
        if self._size(target) is not None:
            raise FileExistsError(Message("{url}: '{path}' exists", url=self.url, path=path))
        self._fs.mv(part, target)

    def _opened(self, part: str, have: int) -> tuple[Any, int]:
        """An open part and the bytes that it has: `have`, or 0 where the driver cannot append."""
        if have:
            with suppress(*_CANNOT_APPEND):
                return self._fs.open(part, "ab"), have
        return self._fs.open(part, "wb"), 0

    def _size(self, path: str) -> int | None:
        info = self._info(path)
        return None if info is None else int(info["size"])

    def _info(self, path: str) -> Mapping[str, Any] | None:
        """The driver's description of a file or folder; None where it is not there."""
        self._fs.invalidate_cache()
        try:
            found: Mapping[str, Any] = self._fs.info(path)
        except FileNotFoundError:
            return None
        return found

    def _path(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}"
