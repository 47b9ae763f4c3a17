"""Files of a data set of shards: in a folder, or behind a URL with a bounded cache on this machine."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast, Protocol, TypeVar

from aloha_kit.core import ConfigError, EpisodeError
from aloha_kit.core.errors import reason
from aloha_kit.core.files import locked, make_folder, replacing, user_cache
from aloha_kit.core.versions import SHARDS
from aloha_kit.storage.shard_cache import ShardCache
from aloha_kit.stores import open_store as open_store_at
from aloha_kit.stores import Store

LOG = logging.getLogger(__name__)

INDEX = "shards.json"
"""The file that lists the others, with sizes and SHA-256."""
EPISODES = "episodes.jsonl"
"""A line for each episode: name, success, description."""
TABLES = "tables"
"""Folder of arrays with the rows of all episodes."""
CACHE_GB = 100.0
"""Size of the cache where none is given."""
PAUSES_S = (1.0, 2.0, 4.0, 8.0)
"""Between the attempts to read something."""
_BLOCK = 8 << 20  # bytes that are read at once

T = TypeVar("T")


def is_url(place: str | Path) -> bool:
    """Whether a place is a URL, such as s3://bucket/data."""
    return "://" in str(place)


def table_file(name: str) -> str:
    """File of a table by its name, such as `stamps/images/top`."""
    return f"{TABLES}/{name.replace('/', '.')}.npy"


class ShardStore(Protocol):
    """Files of a data set of shards by name.

    Attributes:
        where: the place, as messages name it.
        place: a folder that is this data set's own, see `EpisodeSource`.
        about: the content of `INDEX`.
        remote: whether shards are fetched.
        window_bytes: see `EpisodeSource`.
    """

    where: str
    place: Path
    about: Mapping[str, Any]
    remote: bool
    window_bytes: int | None

    def file(self, name: str) -> Path:
        """A small file, whole; EpisodeError where it cannot be had."""
        ...

    def read(self, shard: str, offset: int, size: int) -> bytes:
        """Bytes of a shard; EpisodeError where they cannot be had."""
        ...

    def fetch(self, shard: str) -> None:
        """Have a shard at hand, so that it is read fast; EpisodeError where it cannot be fetched."""
        ...


def open_shards(place: str | Path, cache_dir: str | None = None, cache_gb: float | None = None) -> ShardStore:
    """The files at a place, a folder or a URL.

    Raises:
        EpisodeError: no data set of shards is there, or it cannot be reached.
        ConfigError: a URL whose library is missing, or a cache that is too small.
    """
    if not is_url(place):
        return FolderStore(Path(place))
    return UrlStore(str(place).rstrip("/"), cache_dir, CACHE_GB if cache_gb is None else cache_gb)


class FolderStore:
    """Files in a folder, which are read where they are."""

    remote, window_bytes = False, cast("int | None", None)

    def __init__(self, folder: Path) -> None:
        self.place, self.where = folder, str(folder)
        try:
            self.about = _parsed((folder / INDEX).read_bytes(), self.where)
        except OSError as error:
            raise EpisodeError(
                "no data set of shards in '{folder}': it lacks {index}", folder=folder, index=INDEX
            ) from error

    def file(self, name: str) -> Path:
        return self.place / name

    def read(self, shard: str, offset: int, size: int) -> bytes:
        try:
            handle = os.open(self.place / shard, os.O_RDONLY)
            try:
                data = os.pread(handle, size, offset)
            finally:
                os.close(handle)
        except OSError as error:
            raise EpisodeError(
                "{path} cannot be read: {error}", path=self.place / shard, error=reason(error)
            ) from error
        if len(data) < size:
            raise EpisodeError(
                "{path} is cut off: it ends before byte {end}", path=self.place / shard, end=offset + size
            )
        return data

    def fetch(self, shard: str) -> None:
        """Nothing: it is here."""


class UrlStore:
    """Files of a store on another machine. Tables are kept, shards are in a `ShardCache`; both together are bounded.

    A shard that is not in the cache is read by ranges, so that validation and checks need no whole shards.
    """

    remote = True

    def __init__(self, url: str, cache_dir: str | None, cache_gb: float) -> None:
        self.where = self._url = url
        self._opened: Store | None = None
        size = self._retried(INDEX, lambda: self._store().size(INDEX))
        if size is None:
            raise EpisodeError("no data set of shards at {url}: it lacks {index}", url=url, index=INDEX)
        raw = self._read(INDEX, 0, size)
        self.about = _parsed(raw, url)
        self._listed = {**self.about["tables"], **{shard["name"]: shard for shard in self.about["shards"]}}
        root = Path(cache_dir) if cache_dir else user_cache() / "shards"
        self.place = root.expanduser() / f"{url.rsplit('/', 1)[-1]}-{hashlib.sha256(raw).hexdigest()[:12]}"
        tables = sum(table["bytes"] for table in self.about["tables"].values())
        sizes = [shard["bytes"] for shard in self.about["shards"]]
        room = round(cache_gb * 1e9) - tables
        fits = sum(sizes) <= room
        self.window_bytes = None if fits else room // 2  # training reads one half while the next one is fetched
        if not fits and max(sizes) > room // 2:
            least = math.ceil((tables + 2 * max(sizes)) / 1e6) / 1e3
            raise ConfigError(
                "--cache_gb {cache_gb:g} is too small for {url}: give at least {least:g}",
                cache_gb=cache_gb,
                url=url,
                least=least,
            )
        self._cache = ShardCache(self.place / "shards", room, self._download)

    def __getstate__(self) -> dict[str, Any]:
        """Values without connections."""
        return self.__dict__ | {"_opened": None}

    def file(self, name: str) -> Path:
        path = self.place / name
        if path.is_file():
            return path
        make_folder(path.parent)
        with locked(self.place / "tables.lock"):
            if not path.is_file():  # no other thread or process has fetched it
                with replacing(path) as part:
                    self._download(name, part)
        return path

    def read(self, shard: str, offset: int, size: int) -> bytes:
        held = self._cache.read(shard, offset, size)
        if held is not None:
            return held
        return self._read(shard, offset, offset + size)

    def fetch(self, shard: str) -> None:
        self._cache.fetch(shard, self._listed[shard]["bytes"])

    def _download(self, name: str, part: Path) -> None:
        """Write a file of the store, block by block; what fails is tried again from the block on."""
        size, digest = self._listed[name]["bytes"], hashlib.sha256()
        try:
            with part.open("wb") as stream:
                for start in range(0, size, _BLOCK):
                    block = self._read(name, start, min(start + _BLOCK, size))
                    digest.update(block)
                    stream.write(block)
        except OSError as error:  # of this disk: those of the network are an EpisodeError
            raise ConfigError(
                "{name} of {url} cannot be kept in {parent}: {strerror}; give another --cache_dir, or a smaller "
                "--cache_gb",
                name=name,
                url=self._url,
                parent=part.parent,
                strerror=error.strerror or error,
            ) from error
        if digest.hexdigest() != self._listed[name]["sha256"]:
            raise EpisodeError(
                "{url}/{name} differs from what {index} lists: was it changed?", url=self._url, name=name, index=INDEX
            )

    def _read(self, name: str, start: int, stop: int) -> bytes:
        return self._retried(name, lambda: self._store().read(name, start, stop))

    def _store(self) -> Store:
        if self._opened is None:
            self._opened = open_store_at(self._url)
        return self._opened

    def _retried(self, name: str, work: Callable[[], T]) -> T:
        """The result of `work`, tried again after what may be a failure of the network."""
        where = f"{self._url}/{name}"
        for pause in (*PAUSES_S, None):
            try:
                return work()
            except FileNotFoundError as error:
                raise EpisodeError("{where} does not exist", where=where) from error
            except ConfigError:
                raise
            except Exception as error:  # each driver has errors of its own
                why = reason(error) or type(error).__name__
                if pause is None:
                    raise EpisodeError(
                        "{where} cannot be read, tried {tries} times: {why}",
                        where=where,
                        tries=len(PAUSES_S) + 1,
                        why=why,
                    ) from error
                LOG.warning("%s: %s; tried again in %.0f s", where, why, pause)
                time.sleep(pause)
        raise AssertionError


def _parsed(raw: bytes, where: str) -> Mapping[str, Any]:
    try:
        about: Mapping[str, Any] = json.loads(raw)
        version = about["aloha_kit_shards"]
    except (ValueError, LookupError, TypeError) as error:
        raise EpisodeError(
            "{where}/{index} is damaged: {error}", where=where, index=INDEX, error=reason(error)
        ) from error
    if version != SHARDS:
        raise EpisodeError(
            "{where}: shards of version {version}, this program reads version {known}",
            where=where,
            version=version,
            known=SHARDS,
        )
    return about
