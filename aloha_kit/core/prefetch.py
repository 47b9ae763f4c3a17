"""Results of a function over items, computed ahead by a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


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
