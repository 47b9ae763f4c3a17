"""One function over many items: in this process, in several processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Generic, TypeVar

from aloha_kit.core.errors import AlohaKitError, reason
from aloha_kit.core.interrupt import interrupts_put_off
from aloha_kit.core.lang import Message
from aloha_kit.core.own_code import WorkerFailure
from aloha_kit.core.ray_cluster import ray_cluster

T = TypeVar("T")
R = TypeVar("R")

_IN_FLIGHT = 2  # tasks of Ray that are submitted for each of its cores


class WorkError(AlohaKitError):
    """An item failed, or its process died; the other items may be unfinished."""


@dataclass(frozen=True)
class Workers:
    """Where work is done.

    Attributes:
        processes: of this machine; with one, the work is done in this process.
        ray: address of a Ray cluster (`HOST:PORT`, `auto` or `local`), which then does the work. Its machines have the
            same files under the same paths, and this package in the same version. Relative paths mean what they mean
            here.
    """

    processes: int = 1
    ray: str = ""

    def at_most(self, items: int) -> Workers:
        """Workers without more processes than there are items."""
        return replace(self, processes=min(self.processes, max(1, items)))


def map_unordered(work: Callable[[T], R], items: Iterable[T], workers: Workers) -> Iterator[tuple[T, R]]:
    """(item, its result), as they are finished.

    Args:
        work: is sent to other processes once, with pickle; the items one by one.

    Raises:
        WorkError: another process failed or died; names the item. In this process, what `work` raises.
        ConfigError: Ray is not installed, or not at this address.
    """
    if workers.ray:
        return _over_ray(work, items, workers.ray)
    if workers.processes == 1:
        return ((item, work(item)) for item in items)
    return _over_processes(work, items, workers.processes)


def map_in_order(work: Callable[[T], R], items: Iterable[T], workers: Workers) -> Iterator[R]:
    """Results in the order of the items, each as soon as those before it are there; see `map_unordered`."""
    early: dict[int, R] = {}
    following = 0
    for (number, _), result in map_unordered(_Numbered(work), enumerate(items), workers):
        early[number] = result
        while following in early:
            yield early.pop(following)
            following += 1


@dataclass(frozen=True)
class _Numbered(Generic[T, R]):
    work: Callable[[T], R]

    def __call__(self, numbered: tuple[int, T]) -> R:
        return self.work(numbered[1])


def _over_processes(work: Callable[[T], R], items: Iterable[T], count: int) -> Iterator[tuple[T, R]]:
    pool: dict[Connection, tuple[SpawnProcess, T]] = {}
    following = iter(items)
    try:
        for item in following:
            pipe, process = _start(work)
            pool[pipe] = process, item
            pipe.send(item)
            if len(pool) == count:
                break
        while pool:
            for pipe in [each for each in wait(list(pool)) if isinstance(each, Connection)]:
                process, item = pool[pipe]
                yield item, _received(pipe, process, item)
                try:
                    later = next(following)
                except StopIteration:
                    pipe.close()
                    del pool[pipe]
                    process.join()
                else:
                    pool[pipe] = process, later
                    pipe.send(later)
    finally:
        for pipe, (process, _) in pool.items():
            pipe.close()
            process.terminate()  # what it does is done again
            process.join()


def _start(work: Callable[[T], R]) -> tuple[Connection, SpawnProcess]:
    context = multiprocessing.get_context("spawn")  # a fork would share HDF5's state
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(work, theirs), daemon=True)
    with interrupts_put_off():
        process.start()
    theirs.close()  # so that a dead process shows as the end of its pipe
    return ours, process


def _received(pipe: Connection, process: SpawnProcess, item: object) -> Any:
    try:
        message = pipe.recv()
    except (EOFError, OSError):
        process.join(timeout=10)
        raise WorkError(
            "a process died (exit code {code}) at {item}. Out of memory? Try fewer --workers",
            code=process.exitcode,
            item=_named(item),
        ) from None
    if isinstance(message, WorkerFailure):
        raise WorkError(message.text) from message.cause()
    return message


def _serve(work: Callable[[T], R], pipe: Connection) -> None:
    """Work on the items that come until the parent ends."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            item = pipe.recv()
            try:
                pipe.send(work(item))
            except Exception as error:
                pipe.send(WorkerFailure.of(error))


def _over_ray(work: Callable[[T], R], items: Iterable[T], address: str) -> Iterator[tuple[T, R]]:
    with ray_cluster(address) as ray:
        cores = ray.cluster_resources().get("CPU", 1)
        shared = ray.put(work)
        task, here = ray.remote(_attempted), os.getcwd()
        most = max(1, _IN_FLIGHT * int(cores))
        waiting: dict[Any, T] = {}
        following = iter(items)
        while True:
            while len(waiting) < most and (later := next(following, _END)) is not _END:
                waiting[task.remote(shared, later, here)] = later
            if not waiting:
                return
            ready, _ = ray.wait(list(waiting))
            for reference in ready:
                item = waiting.pop(reference)
                yield item, _result(ray, reference, item)


_END: Any = object()


def _attempted(work: Callable[[Any], Any], item: Any, folder: str) -> Any:
    with contextlib.suppress(OSError):  # a machine without this folder has no files of relative paths
        os.chdir(folder)
    try:
        return work(item)
    except Exception as error:
        return WorkerFailure.of(error)


def _result(ray: Any, reference: Any, item: object) -> Any:
    try:
        result = ray.get(reference)
    except ray.exceptions.RayError as error:
        raise WorkError("Ray gave no result of {item}: {error}", item=_named(item), error=reason(error)) from error
    if isinstance(result, WorkerFailure):
        raise WorkError(result.text) from result.cause()
    return result


def _named(item: object) -> str:
    return Message("item {item}", item=item) if isinstance(item, int) else str(item)
