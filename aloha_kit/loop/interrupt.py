"""SIGTERM ends an episode as Ctrl-C does: told to every observer, nothing lost."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Inside, SIGTERM raises `KeyboardInterrupt("SIGTERM")`; the handler before is put back afterwards.

    A process is stopped by SIGTERM when a machine shuts down, a service is restarted or roslaunch
    ends: by default Python dies there at once, arms torqued and the episode open. Signals reach the
    main thread only, so elsewhere this changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(signum).name)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
