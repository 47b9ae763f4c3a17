"""Stores over SFTP, through sshfs."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from aloha_kit.stores.file_system import FileSystemStore


class SftpStore(FileSystemStore):
    """Files below a folder of a machine that is reached by SSH; user, keys and known hosts are those of ~/.ssh."""

    options: ClassVar[Mapping[str, Any]] = MappingProxyType({"known_hosts": ()})  # sshfs itself trusts every host

    def _read(self, path: str, start: int, stop: int) -> bytes:
        with self._fs.open(self._path(path), "rb") as stream:  # its `cat_file` reads files whole
            stream.seek(start)
            return bytes(stream.read(stop - start))
