"""Worker processes that write one episode each."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from aloha_kit.core import AlohaKitError, EpisodeError
from aloha_kit.core.errors import reason
from aloha_kit.core.exporter import EpisodeExporter, ExportRecord
from aloha_kit.core.interrupt import interrupts_put_off
from aloha_kit.core.own_code import WorkerFailure
from aloha_kit.core.source import EpisodeSource

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # of the target: to read a file gives none of them


class ConversionError(AlohaKitError):
    """The conversion cannot go on; finished episodes stay."""


def stopped(error: OSError) -> ConversionError:
    """The error of a conversion that a full disk, or another failure of a file, ends."""
    return ConversionError(f"{reason(error)}. Finished episodes stay; the same command goes on with the others")


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
    lock: Path  # held by every worker

    def write(self, number: int) -> Written:
        """Write an episode.

        Raises:
            AlohaKitError: the format cannot hold it, it does not fit the others, or a file cannot be written.
        """
        try:
            with closing(self.source.episode(number)) as episode:
                record = ExportRecord.of(number, episode, self.source.identity(number))
                self.exporter.write(number, episode, record)
                record.complete(episode)
                return record
        except OSError as error:
            raise stopped(error) from error
        except EpisodeError as error:
            if isinstance(cause := error.__cause__, OSError) and cause.errno in _NO_ROOM:
                raise stopped(cause) from error
            return Damaged(number, str(error))


def write_all(job: ConversionJob, numbers: Iterable[int], workers: int) -> Iterator[Written]:
    """Write episodes, in several processes where `workers` is above 1; gives each as it is finished.

    Raises:
        ConversionError: a process died, or an episode does not fit the format; names it.
    """
    if workers == 1:
        yield from map(job.write, numbers)
        return
    pool: dict[Connection, tuple[SpawnProcess, int]] = {}
    following = iter(numbers)
    try:
        for number in following:
            pipe, process = _start(job)
            pool[pipe] = process, number
            pipe.send(number)
            if len(pool) == workers:
                break
        while pool:
            ready = wait(list(pool))
            for pipe in [pipe for pipe in pool if pipe in ready]:
                process, number = pool[pipe]
                yield _received(pipe, process, number)
                if (later := next(following, None)) is None:
                    pipe.close()
                    del pool[pipe]
                    process.join()
                else:
                    pool[pipe] = process, later
                    pipe.send(later)
    finally:
        for pipe, (process, _) in pool.items():
            pipe.close()
            process.terminate()  # an unfinished episode is written again
            process.join()


def _start(job: ConversionJob) -> tuple[Connection, SpawnProcess]:
    context = multiprocessing.get_context("spawn")  # a fork would share HDF5's state
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(job, theirs), daemon=True)
    with interrupts_put_off():
        process.start()
    theirs.close()  # so that a dead process shows as the end of its pipe
    return ours, process


def _received(pipe: Connection, process: SpawnProcess, number: int) -> Written:
    try:
        message: Written | WorkerFailure = pipe.recv()
    except (EOFError, OSError):
        process.join(timeout=10)
        raise ConversionError(
            f"a process died (exit code {process.exitcode}) at episode {number}. Out of memory? Try fewer --workers"
        ) from None
    if isinstance(message, WorkerFailure):
        raise ConversionError(message.text) from message.cause()
    return message


def _work(job: ConversionJob, pipe: Connection) -> None:
    """Write the episodes whose numbers come until the parent ends."""
    fcntl.flock(os.open(job.lock, os.O_RDWR | os.O_CLOEXEC), fcntl.LOCK_SH)  # until this process ends
    with contextlib.suppress(EOFError, OSError):
        while True:
            number = pipe.recv()
            try:
                pipe.send(job.write(number))
            except Exception as error:
                pipe.send(WorkerFailure.of(error))
