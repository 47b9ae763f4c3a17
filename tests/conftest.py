"""What every test needs of the process it runs in."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """A shell that runs us in the background has us, and whatever we start, ignore Ctrl-C; tests send it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
