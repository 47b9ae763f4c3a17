"""Start of a command: Ctrl-C while it still imports, when nothing has begun, ends it without a traceback; OpenMP's
threads wait without taking the cores from others."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def quick_interrupts() -> Iterator[None]:
    """Inside, SIGINT ends the process as the system does (status 130 in a shell); for the imports of a command.

    An exception would come out of the middle of an import: a traceback, or an ImportError of an extension module. A
    signal that is ignored or handled otherwise stays so.
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


def limit_spinning() -> None:
    """Let OpenMP's threads sleep after a short wait for one another, unless the environment sets it otherwise.

    OpenMP reads it when torch loads. By default its threads spin for milliseconds, which takes the cores from whatever
    they wait for: cameras, simulation, and beside other work the training itself (benchmarks/busy_machine.py).
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & set(os.environ):
        os.environ["OMP_WAIT_POLICY"] = "passive"  # every OpenMP
        os.environ["GOMP_SPINCOUNT"] = "1000"  # GNU's, which comes before its policy
