"""Rows to batches, one step ahead of the training loop."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from aloha_kit.data.batch import Batch
from aloha_kit.data.frames import Frames
from aloha_kit.data.index import EpisodeTable

Ints = npt.NDArray[np.int64]
T = TypeVar("T")
U = TypeVar("U")


class Loader:
    """Gathers batches by indexing whole arrays: no Python runs per sample."""

    def __init__(self, table: EpisodeTable, frames: Frames | None, chunk_size: int, *, pin: bool = False) -> None:
        """`frames` None for policies without cameras; `pin` keeps batches in page-locked memory for a GPU."""
        self._table = table
        self._frames = frames
        self._chunk_size = chunk_size
        self._pin = pin

    def batch(self, rows: Ints) -> Batch:
        """The observations at B rows and the `chunk_size` actions that follow each."""
        actions, is_pad = self._table.chunks(rows, self._chunk_size)
        batch = Batch(
            qpos=torch.from_numpy(self._table.qpos[rows]),
            images=self._frames.gather(rows) if self._frames is not None else {},
            actions=torch.from_numpy(actions),
            is_pad=torch.from_numpy(is_pad),
        )
        if self._table.environment_state is not None:
            batch["environment_state"] = torch.from_numpy(self._table.environment_state[rows])
        return _pinned(batch) if self._pin else batch


def prefetch(function: Callable[[T], U], items: Iterable[T], depth: int = 2) -> Generator[U, None, None]:
    """`map(function, items)`, computed by a thread up to `depth` results ahead; its errors are raised here.

    Closing the iterator (or leaving the loop over it) ends the thread.
    """
    results: queue.Queue[tuple[U | None, BaseException | None]] = queue.Queue(depth)
    stop = threading.Event()

    def put(result: U | None, error: BaseException | None) -> None:
        while not stop.is_set():
            try:
                results.put((result, error), timeout=0.1)
                break
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                if stop.is_set():
                    return
                put(function(item), None)
            put(None, StopIteration())
        except BaseException as error:
            put(None, error)

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            result, error = results.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield result  # type: ignore[misc]
    finally:
        stop.set()
        thread.join()


def _pinned(batch: Batch) -> Batch:
    pinned = Batch(
        qpos=batch["qpos"].pin_memory(),
        images={camera: image.pin_memory() for camera, image in batch["images"].items()},
        actions=batch["actions"].pin_memory(),
        is_pad=batch["is_pad"].pin_memory(),
    )
    if "environment_state" in batch:
        pinned["environment_state"] = batch["environment_state"].pin_memory()
    return pinned
