"""Rows to batches, one step ahead of the training loop."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from typing import Any, cast, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aloha_kit.data.batch import Batch
from aloha_kit.data.camera_frames import Frames
from aloha_kit.data.chunks import Chunks
from aloha_kit.data.index import EpisodeTable

Ints = npt.NDArray[np.int64]
T = TypeVar("T")
U = TypeVar("U")


class Loader:
    """Gathers batches by indexing whole arrays: no Python runs per sample."""

    def __init__(
        self,
        table: EpisodeTable,
        frames: Frames | None,
        chunk_size: int,
        *,
        n_obs_steps: int = 1,
        goal: bool = False,
        pin: bool = False,
    ) -> None:
        """`frames` None for policies without cameras; `n_obs_steps` observations end with each row, with
        `goal` that of the episode's last step is in front of them; `pin` gathers into
        page-locked memory, from which a GPU takes batches while it computes. Frames that live on the GPU stay there."""
        self._table = table
        self._frames = frames
        self._chunks = Chunks(table, chunk_size)
        self._steps, self._goal = n_obs_steps, goal
        self._pin = pin

    def batch(self, rows: Ints, whole: Ints | None = None) -> Batch:
        """The observations at B rows and the `chunk_size` actions that follow each; `whole` are the rows of the batch
        that these are a piece of."""
        actions, is_pad = self._chunks(rows)
        seen = rows if self._steps == 1 else self._table.history(rows, self._steps)
        if self._goal:
            seen = np.concatenate([self._table.last_rows(rows)[:, None], seen.reshape(len(rows), -1)], axis=1)
        vectors = {name: self._tensor(values[seen]) for name, values in self._table.vectors.items()}
        future = {"actions": self._tensor(actions), "is_pad": self._tensor(is_pad)}
        batch = cast(Batch, {**vectors, "images": self._images(seen), **future})
        if whole is not None:
            batch["valid_rows"] = self._tensor(np.array(self._chunks.present(whole).mean(), np.float32))
        return batch

    def _images(self, rows: Ints) -> dict[str, Tensor]:
        if self._frames is None:
            return {}
        images = self._frames.gather(rows.reshape(-1), pin=self._pin)
        return images if rows.ndim == 1 else {name: i.reshape(*rows.shape, *i.shape[1:]) for name, i in images.items()}

    def _tensor(self, values: npt.NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(values)
        return tensor.pin_memory() if self._pin else tensor


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
