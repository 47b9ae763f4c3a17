"""Fetching a data set from a store: verified, resumed where it was cut."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from pathlib import Path

from aloha_kit.core.errors import reason
from aloha_kit.core.files import make_folder, part_of, put, sha256_of
from aloha_kit.core.lang import Message, tr
from aloha_kit.data.store_records import FileRecord, latest_manifest, read_records
from aloha_kit.data.transfer import BLOCK, each, MANIFEST, TransferOptions, TransferResult, unchanged
from aloha_kit.data.transfer_progress import TransferProgress
from aloha_kit.stores import Store, StoreError
from aloha_kit.stores.resume import FINAL, resume

_LOG = logging.getLogger(__name__)


def pull(store: Store, folder: Path, options: TransferOptions, without: Collection[str] = ()) -> TransferResult:
    """Fetch the files of a data set that are not in a folder, each verified by its SHA-256.

    A file that is there with another content is left as it is and reported.

    Args:
        without: paths that are not fetched.

    Raises:
        ConfigError: the folder cannot be written.
        StoreError: the store cannot be listed, or holds no data set.
    """
    records = read_records(store)
    if not records:
        raise StoreError("{url} holds no data set that `data push` sent; {there}", url=store.url, there=_names(store))
    make_folder(folder)
    wanted = {path: record for path, record in records.items() if path not in without}
    left = {path: record for path, record in wanted.items() if options.check or not unchanged(folder / path, record)}
    failed: list[tuple[str, str]] = []
    there = len(wanted) - len(left)
    with TransferProgress(sum(record.bytes for record in left.values()), len(left), "Fetching") as progress:

        def receive(path: str) -> bool:
            return _receive(store, left[path], folder / path, options, progress)

        for path, outcome in each(receive, list(left), options.jobs, progress):
            if isinstance(outcome, str):
                failed.append((path, outcome))
            else:
                there += not outcome
    if (manifest := latest_manifest(store)) is not None:
        _keep_manifest(folder / MANIFEST, manifest)
    return TransferResult(len(wanted) - there - len(failed), progress.bytes, there, tuple(failed))


def _receive(
    store: Store, record: FileRecord, file: Path, options: TransferOptions, progress: TransferProgress
) -> bool:
    """Fetch a file, going on with its part; whether it was not there.

    Raises:
        StoreError: another content, here or in the store.
    """
    if file.exists():
        if file.stat().st_size != record.bytes or sha256_of(file) != record.sha256:
            raise StoreError("'{file}' is there with another content, and is left as it is", file=file)
        os.utime(file, ns=(record.mtime_ns, record.mtime_ns))
        return False
    make_folder(file.parent)
    part = part_of(file)
    if part.exists() and part.stat().st_size > record.bytes:
        part.unlink()
    progress.add(part.stat().st_size if part.exists() else 0)

    def attempt() -> str:
        progress.require_running()
        try:
            with part.open("ab") as out:
                while (have := out.tell()) < record.bytes:
                    block = store.read(record.path, have, min(have + BLOCK, record.bytes))
                    out.write(block)
                    out.flush()
                    progress.add(len(block))
            return ""
        except FINAL:
            raise
        except Exception as error:  # each driver has errors of its own
            return reason(error)

    if why := resume(attempt, part, wait_s=options.wait_s):
        raise StoreError("cannot fetch '{name}': {why}; what was fetched is kept", name=record.path, why=why)
    if sha256_of(part) != record.sha256:
        part.unlink()
        raise StoreError("{url}: '{name}' is not what was sent: its SHA-256 differs", url=store.url, name=record.path)
    os.utime(part, ns=(record.mtime_ns, record.mtime_ns))
    put(part, file)
    return True


def _names(store: Store) -> Message:
    names = [entry.path for _, entry in zip(range(6), store.files(), strict=False)]
    return Message("there are: {names}", names=", ".join(names)) if names else Message("it is empty")


def _keep_manifest(file: Path, content: bytes) -> None:
    """Write the store's manifest where the folder has none of its own."""
    if not file.exists():
        part = part_of(file)
        part.write_bytes(content)
        put(part, file)
    elif file.read_bytes() != content:
        _LOG.info(tr("{file} is kept; the store has another one", file=file))
