"""Records of a data set in a store: path, size, time of change and SHA-256 of each file, one JSON object a line.

A record is written once, under a name that its content gives, after the files that it lists are there. What is sent
later has a record of its own; all of them together are the data set.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from aloha_kit.core.errors import reason
from aloha_kit.core.files import sha256_of
from aloha_kit.stores import Store, StoreError
from aloha_kit.stores.resume import attempts

RECORDS = ".aloha_kit"
"""Folder of a store that the records are in."""
_FILES, _MANIFEST = f"{RECORDS}/files-", f"{RECORDS}/manifest-"


@dataclass(frozen=True)
class FileRecord:
    """A file of a data set: path in its folder, size in bytes, time of change, and SHA-256."""

    path: str
    bytes: int
    mtime_ns: int
    sha256: str

    @classmethod
    def of(cls, path: str, file: Path, sha256: str = "") -> FileRecord:
        """The record of a local file; reads it where its SHA-256 is not given."""
        status = file.stat()
        return cls(path, status.st_size, status.st_mtime_ns, sha256 or sha256_of(file))


def read_records(store: Store) -> dict[str, FileRecord]:
    """The files of the data set in a store, by path.

    Raises:
        StoreError: the store cannot be read, or a record is damaged or names a path outside of its folder.
    """
    found: dict[str, FileRecord] = {}
    for entry in store.files(RECORDS):
        if entry.path.startswith(_FILES):
            found |= {record.path: record for record in _parsed(store, entry.path, entry.size)}
    return found


def write_record(store: Store, records: Iterable[FileRecord]) -> None:
    """Add a record of files that are in the store; StoreError where it cannot be sent."""
    lines = [json.dumps(dataclasses.asdict(record)) for record in sorted(records, key=lambda record: record.path)]
    text = "".join(f"{line}\n" for line in lines).encode()
    _put(store, text, f"{_FILES}{hashlib.sha256(text).hexdigest()[:16]}.jsonl")


def manifests(store: Store) -> list[tuple[str, int]]:
    """(path, size) of the manifests of the data set in a store, oldest first."""
    return sorted((entry.path, entry.size) for entry in store.files(RECORDS) if entry.path.startswith(_MANIFEST))


def latest_manifest(store: Store) -> bytes | None:
    """Content of the newest manifest; None without one."""
    found = manifests(store)
    return _read(store, *found[-1]) if found else None


def write_manifest(store: Store, file: Path, now: str) -> None:
    """Add a manifest, unless the newest one is the same; `now` is a time that sorts as text."""
    digest, found = sha256_of(file), manifests(store)
    if not found or not found[-1][0].endswith(f"-{digest[:16]}.parquet"):
        _put(store, file.read_bytes(), f"{_MANIFEST}{now}-{digest[:16]}.parquet")


def _put(store: Store, content: bytes, path: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "record"
        file.write_bytes(content)
        with suppress(FileExistsError):  # of the same content
            attempts(lambda: store.upload(file, path, hashlib.sha256(content).hexdigest()))


def _read(store: Store, path: str, size: int) -> bytes:
    return attempts(lambda: store.read(path, 0, size))


def _parsed(store: Store, path: str, size: int) -> Iterator[FileRecord]:
    try:
        for line in _read(store, path, size).splitlines():
            record = FileRecord(**json.loads(line))
            inner = PurePosixPath(record.path)
            if inner.is_absolute() or ".." in inner.parts:
                raise StoreError(
                    "{url}: {path} names '{name}', outside of its folder", url=store.url, path=path, name=record.path
                )
            yield record
    except (ValueError, TypeError) as error:
        raise StoreError(
            "{url}: the record {path} is damaged: {error}", url=store.url, path=path, error=reason(error)
        ) from error
