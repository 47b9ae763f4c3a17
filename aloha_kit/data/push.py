"""Sending a data set to a store: verified, never replacing what is there, resumed where it was cut."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from aloha_kit.core import ConfigError
from aloha_kit.core.lang import Message
from aloha_kit.data.store_records import FileRecord, read_records, RECORDS, write_manifest, write_record
from aloha_kit.data.transfer import each, MANIFEST, stored_digest, TransferOptions, TransferResult, unchanged
from aloha_kit.data.transfer_progress import TransferProgress
from aloha_kit.formats.shard_store import INDEX
from aloha_kit.storage.paths import PARTIAL, TEMPORARY
from aloha_kit.stores import Store, StoreError
from aloha_kit.stores.resume import attempts

_RECORD_S = 30.0  # between records of what was sent
_INDEXES = (INDEX,)
_NOT_DATA = (".cache", RECORDS)  # folders


def push(
    folder: Path, store: Store, options: TransferOptions, known: Mapping[str, FileRecord] = MappingProxyType({})
) -> TransferResult:
    """Send the files of a data set that are not in the store; what is there is never replaced.

    The index of a data set of shards is sent last, so that a half-sent one is not opened.

    Args:
        known: records of files, by path: those that have this size and time of change are not read for their SHA-256.

    Raises:
        ConfigError: nothing to send.
        StoreError: the store cannot be listed, or a record cannot be written.
    """
    files, recorded = local_files(folder), read_records(store)
    stored = {entry.path: entry.size for entry in store.files() if not entry.path.startswith(f"{RECORDS}/")}
    sender = _Sender(store, recorded, stored, options, known)
    left = {path: file for path, file in files.items() if not sender.is_there(path, file)}
    records: list[FileRecord] = []
    failed: list[tuple[str, str]] = []
    there, written = len(files) - len(left), time.monotonic()
    with TransferProgress(sum(file.stat().st_size for file in left.values()), len(left), "Sending") as progress:

        def send(path: str) -> tuple[FileRecord, bool]:
            return sender.send(path, left[path], progress)

        try:
            for paths in _rounds(left):
                if failed:  # without its index it is not opened as a data set
                    failed += [(path, Message("is sent after the files that it lists")) for path in paths]
                    break
                for path, outcome in each(send, paths, options.jobs, progress):
                    if isinstance(outcome, str):
                        failed.append((path, outcome))
                    else:
                        records.append(outcome[0])
                        there += not outcome[1]
                    if records and time.monotonic() - written > _RECORD_S:
                        write_record(store, records)
                        records, written = [], time.monotonic()
        finally:
            if records:
                write_record(store, records)
    if (folder / MANIFEST).is_file():
        write_manifest(store, folder / MANIFEST, f"{datetime.datetime.now(datetime.timezone.utc):%Y%m%dT%H%M%S%f}")
    return TransferResult(len(files) - there - len(failed), progress.bytes, there, tuple(failed))


def _rounds(paths: Iterable[str]) -> tuple[list[str], list[str]]:
    """Files that are sent first, and those that list them, which are sent once all of the others are there."""
    paths = list(paths)
    return [path for path in paths if path not in _INDEXES], [path for path in paths if path in _INDEXES]


def local_files(folder: Path) -> dict[str, Path]:
    """{path with `/`: file} of a data set's folder, without caches, journals, parts and the manifest.

    Raises:
        ConfigError: no folder, or nothing in it.
    """
    if not folder.is_dir():
        raise ConfigError("no folder '{folder}'; expected the folder of a data set", folder=folder)
    found: dict[str, Path] = {}
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if name not in _NOT_DATA)
        for name in names:
            file = Path(place) / name
            ours = name.startswith(".") and name.endswith((".part", ".claims", ".rows"))
            if not ours and not name.endswith((PARTIAL, TEMPORARY)) and file.is_file():
                found[file.relative_to(folder).as_posix()] = file
    found.pop(MANIFEST, None)
    if not found:
        raise ConfigError("no file of a data set in '{folder}'", folder=folder)
    return found


@dataclass(frozen=True)
class _Sender:
    """Sends files to a store whose records and files were listed before."""

    store: Store
    recorded: Mapping[str, FileRecord]
    stored: Mapping[str, int]
    options: TransferOptions
    known: Mapping[str, FileRecord]

    def is_there(self, path: str, file: Path) -> bool:
        """Whether the store has a file as it is here, by size and time of change."""
        record = self.recorded.get(path)
        return record is not None and path in self.stored and unchanged(file, record)

    def send(self, path: str, file: Path, progress: TransferProgress) -> tuple[FileRecord, bool]:
        """Send a file, unless the store has it; its record, and whether it was sent.

        Raises:
            StoreError: the store has another content under this path, or the file cannot be sent.
        """
        known = self.known.get(path)
        record = FileRecord.of(path, file, known.sha256 if known and unchanged(file, known) else "")
        if path in self.recorded and path in self.stored:
            if self.recorded[path].sha256 != record.sha256:
                raise StoreError(_another(self.store, path))
            return record, False
        if path not in self.stored:
            self._upload(file, record, progress)
            if self.options.check and self._content(record, progress) != record.sha256:
                raise StoreError(
                    "{url}: '{path}' reads back with another SHA-256 than was sent", url=self.store.url, path=path
                )
        elif self.stored[path] != record.bytes or self._content(record, progress) != record.sha256:
            raise StoreError(_another(self.store, path))
        if FileRecord.of(path, file, record.sha256) != record:
            raise StoreError("'{file}' changed while it was sent", file=file)
        return record, path not in self.stored

    def _upload(self, file: Path, record: FileRecord, progress: TransferProgress) -> None:
        """Send a file. An attempt whose answer is lost may have succeeded: then the next one finds the file there."""

        def attempt() -> None:
            progress.require_running()
            counted: list[int] = []

            def count(sent: int) -> None:
                counted.append(sent)
                progress.add(sent)

            try:
                self.store.upload(file, record.path, record.sha256, count)
            except FileExistsError:
                if self.store.size(record.path) != record.bytes or self._content(record, progress) != record.sha256:
                    raise StoreError(_another(self.store, record.path)) from None
            except Exception:
                progress.take_back(sum(counted))
                raise

        attempts(attempt, self.options.wait_s)
        size = attempts(lambda: self.store.size(record.path), self.options.wait_s)
        if size != record.bytes:
            raise StoreError(
                "{url}: '{name}' has {size} bytes after {bytes} were sent",
                url=self.store.url,
                name=record.path,
                size=size,
                bytes=record.bytes,
            )

    def _content(self, record: FileRecord, progress: TransferProgress) -> str:
        return attempts(lambda: stored_digest(self.store, record.path, record.bytes, progress), self.options.wait_s)


def _another(store: Store, path: str) -> str:
    return f"{store.url} has '{path}' with another content, which is not replaced; send it under another name"
