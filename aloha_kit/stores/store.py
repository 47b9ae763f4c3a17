"""What a store of files is, and the table of those that URLs open."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from aloha_kit.core import AlohaKitError, ConfigError
from aloha_kit.core.lang import Message
from aloha_kit.core.plugins import resolve

Progress = Callable[[int], object]
"""Called with the number of bytes that were sent or received."""

STORES = {
    "az": "aloha_kit.stores.object_store:ObjectStore",
    "gs": "aloha_kit.stores.object_store:ObjectStore",
    "s3": "aloha_kit.stores.object_store:ObjectStore",
    "sftp": "aloha_kit.stores.sftp:SftpStore",
    "ssh": "aloha_kit.stores.sftp:SftpStore",
}
"""{scheme of the URL: "module:Class"}; any other scheme is opened by fsspec."""
_OTHERS = "aloha_kit.stores.file_system:FileSystemStore"


class StoreError(AlohaKitError):
    """A store that cannot be reached, refuses, or holds another content."""


@dataclass(frozen=True)
class StoredFile:
    """A file of a store: its path below the store's URL, and its size in bytes."""

    path: str
    size: int


class Store(abc.ABC):
    """Files below a URL. Paths are relative to it, with `/`. Threads may share a store.

    Errors of the network are raised as the driver raises them; `resume` tries again.

    Attributes:
        url: as it was given.
    """

    url: str

    @abc.abstractmethod
    def files(self, below: str = "") -> Iterator[StoredFile]:
        """Files below a folder of the store, in any order; none where there is no such folder.

        Raises:
            StoreError: the store cannot be reached, or refuses; says how credentials are given.
        """

    @abc.abstractmethod
    def size(self, path: str) -> int | None:
        """Size of a file in bytes; None where it is not there."""

    def read(self, path: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of a file.

        Raises:
            FileNotFoundError: it is not there.
            OSError: fewer bytes came.
        """
        if start == stop:
            return b""
        found = self._read(path, start, stop)
        if len(found) > stop - start:  # the whole file, from a server that knows no ranges
            found = found[start:stop]
        if len(found) != stop - start:
            raise OSError(
                Message(
                    "{count} bytes of '{path}' came in place of {expected}",
                    count=len(found),
                    path=path,
                    expected=stop - start,
                )
            )
        return found

    @abc.abstractmethod
    def _read(self, path: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of a file, the whole file where a part cannot be had, or fewer where it ends."""

    @abc.abstractmethod
    def upload(self, file: Path, path: str, sha256: str, progress: Progress = lambda count: None) -> None:
        """Store a local file under a path where nothing is. It has this name only once it is whole.

        Args:
            sha256: of the file; tells the parts of different contents apart.

        Raises:
            FileExistsError: something is there; it is left as it is.
        """


def open_store(url: str) -> Store:
    """The store at a URL such as `s3://bucket/folder`, `sftp://host/folder` or `file:///mnt/share/folder`.

    Raises:
        ConfigError: no URL, or a driver that is not installed; names the package.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or not rest:
        raise ConfigError("a store is a URL such as s3://bucket/folder or sftp://host/folder, given '{url}'", url=url)
    made = resolve("stores", scheme, {scheme: STORES.get(scheme, _OTHERS)}, base=Store)(url)
    if not isinstance(made, Store):
        raise ConfigError(
            "'{scheme}' of the stores must give a Store, gave {type}", scheme=scheme, type=type(made).__name__
        )
    return made
