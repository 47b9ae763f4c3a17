"""Ctrl-C while a command still imports: nothing has begun, so it ends at once and without a traceback."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def quick_interrupts() -> Iterator[None]:
    """Inside, SIGINT ends the process as the system does (status 130 in a shell); for the imports of a command.

    An exception would come out of the middle of an import: a traceback, or an ImportError of an extension module. A
    signal that is ignored or handled by somebody stays so.
    """
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not ours or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
