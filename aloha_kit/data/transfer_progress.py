"""Progress of a transfer: a bar with rate and time left on a terminal, a line every half minute elsewhere."""

from __future__ import annotations

import logging
import sys
import threading
import time

from tqdm import tqdm

from aloha_kit.core import AlohaKitError, plural

_LOG = logging.getLogger(__name__)
_PLAIN_S = 30.0


class Stopped(AlohaKitError):  # noqa: N818 - a request, not a failure
    """The transfer is being ended; raised in its threads."""


class TransferProgress:
    """Bytes and files of a transfer. Threads may share it.

    Attributes:
        bytes: transferred so far, in this process.
    """

    def __init__(self, total: int, files: int, what: str) -> None:
        self.bytes = 0
        self._total, self._files, self._what, self._done = total, files, what, 0
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._began = self._reported = time.monotonic()
        self._bar = tqdm(desc=what, total=total, unit="B", unit_scale=True, disable=None)

    def __enter__(self) -> TransferProgress:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def add(self, count: int) -> None:
        """Count bytes; raises `Stopped` where the transfer is being ended."""
        self.require_running()
        with self._lock:
            self.bytes += count
            self._bar.update(count)

    def take_back(self, count: int) -> None:
        """Count bytes of an attempt that failed as not transferred."""
        with self._lock:
            self.bytes -= count
            self._bar.update(-count)

    def require_running(self) -> None:
        """Raise `Stopped` where the transfer is being ended."""
        if self._stopped.is_set():
            raise Stopped("the transfer is being ended")

    def finished(self) -> None:
        """Count a file."""
        self._done += 1
        now = time.monotonic()
        if not sys.stderr.isatty() and now - self._reported > _PLAIN_S and self.bytes:
            self._reported, left = now, (now - self._began) / self.bytes * max(0, self._total - self.bytes)
            files = f"{self._done} of {plural(self._files, 'file')}"
            _LOG.info("%s", f"{self._what}: {files}, {self.bytes / 1e6:.0f} MB, {left:.0f} s left")

    def stop(self) -> None:
        """End the threads that transfer: their next block raises `Stopped`."""
        self._stopped.set()
