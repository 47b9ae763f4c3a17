"""Workers that write one episode at a time."""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from aloha_kit.core import AlohaKitError, EpisodeError
from aloha_kit.core.errors import reason
from aloha_kit.core.exporter import EpisodeExporter, ExportRecord
from aloha_kit.core.lang import error_text
from aloha_kit.core.parallel import map_unordered, WorkError, Workers
from aloha_kit.core.source import EpisodeSource

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # of the target: to read a file gives none of them


class ConversionError(AlohaKitError):
    """The conversion cannot go on; finished episodes stay."""


def stopped(error: OSError) -> ConversionError:
    """The error of a conversion that a full disk, or another failure of a file, ends."""
    return ConversionError(
        "{error}. Finished episodes stay; the same command goes on with the others", error=reason(error)
    )


@dataclass(frozen=True)
class Damaged:
    """An episode that cannot be read, and why."""

    number: int
    reason: str


Written = ExportRecord | Damaged


@dataclass(frozen=True)
class ConversionJob:
    """What a worker needs: the episodes and how they are written."""

    source: EpisodeSource
    exporter: EpisodeExporter
    lock: Path  # held while an episode is written: a worker may outlive a killed parent by one

    def write(self, number: int) -> Written:
        """Write an episode.

        Raises:
            AlohaKitError: the format cannot hold it, it does not fit the others, or a file cannot be written.
        """
        try:
            with self.lock.open("a") as lock, closing(self.source.episode(number)) as episode:
                fcntl.flock(lock, fcntl.LOCK_SH)
                record = ExportRecord.of(number, episode, self.source.identity(number))
                self.exporter.write(number, episode, record)
                record.complete(episode)
                return record
        except OSError as error:
            raise stopped(error) from error
        except EpisodeError as error:
            if isinstance(cause := error.__cause__, OSError) and cause.errno in _NO_ROOM:
                raise stopped(cause) from error
            return Damaged(number, error_text(error))


def write_all(job: ConversionJob, numbers: Iterable[int], workers: Workers) -> Iterator[Written]:
    """Write episodes; gives each as it is finished.

    Raises:
        ConversionError: a process died, or an episode does not fit the format; names it.
    """
    try:
        for _, written in map_unordered(job.write, numbers, workers):
            yield written
    except WorkError as error:
        raise ConversionError(error_text(error)) from error.__cause__
