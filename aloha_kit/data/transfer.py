"""What pushing and pulling share: options, results, and files in parallel."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from aloha_kit.core import ConfigError
from aloha_kit.core.errors import reason
from aloha_kit.data.store_records import FileRecord
from aloha_kit.data.transfer_progress import TransferProgress
from aloha_kit.stores import Store, StoreError

_LOG = logging.getLogger(__name__)
BLOCK = 4 << 20
"""Bytes that are read from a store at once."""
MANIFEST = "manifest.parquet"
"""The manifest in a data set's folder; a store keeps every version of it."""

R = TypeVar("R")


@dataclass(frozen=True)
class TransferResult:
    """Files that were transferred and their bytes, those that were there already, and (path, reason) of the others."""

    transferred: int
    bytes: int
    there: int
    failed: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class TransferOptions:
    """How files are transferred.

    Attributes:
        jobs: files at a time.
        check: push reads back what it sent; pull reads files that are there already.
        wait_s: before another attempt; grows while attempts fail.
    """

    jobs: int = 8
    check: bool = False
    wait_s: float = 1.0


def each(
    work: Callable[[str], R], paths: Sequence[str], jobs: int, progress: TransferProgress
) -> Iterator[tuple[str, R | str]]:
    """(path, its result, or why it failed), several at a time, as they finish. An interruption waits for no file."""
    pool = ThreadPoolExecutor(jobs, "transfer")
    try:
        waiting: dict[Future[R], str] = {pool.submit(work, path): path for path in paths}
        for future in as_completed(waiting):
            path = waiting[future]
            try:
                result: R | str = future.result()
            except Exception as error:
                result = str(error) if isinstance(error, (StoreError, ConfigError)) else reason(error)
                _LOG.error("%s: %s", path, result)
            progress.finished()
            yield path, result
    except BaseException:
        progress.stop()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def stored_digest(store: Store, path: str, size: int, progress: TransferProgress) -> str:
    """SHA-256 of a file in a store, which is read for it."""
    digest = hashlib.sha256()
    for start in range(0, size, BLOCK):
        progress.require_running()
        digest.update(store.read(path, start, min(start + BLOCK, size)))
    return digest.hexdigest()


def unchanged(file: Path, record: FileRecord) -> bool:
    """Whether a file has the size and the time of change of its record."""
    try:
        status = file.stat()
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (record.bytes, record.mtime_ns)
