"""Processes that leave Ctrl-C to the one that started them."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def interrupts_put_off() -> Iterator[None]:
    """Inside, Ctrl-C waits. A process started inside never gets it, not even while it imports: the parent decides.

    The process inherits the mask; the handler is for a signal that another thread of this process takes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    late: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda signum, frame: late.append(signum))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if late:
        raise KeyboardInterrupt
