"""Runs a stage's command in a folder that is worked on by one reproduction at a time."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from aloha_kit.core import AlohaKitError
from aloha_kit.core.files import make_folder

LOCK = ".lock"


class ReproductionError(AlohaKitError):
    """A reproduction cannot go on; what is done stays."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    seconds: float
    interrupted: str  # by which signal we were asked to stop meanwhile; empty if by none


class Workplace:
    """A folder under lock; every command inherits it, so a folder stays locked while one of them outlives us."""

    def __init__(self, lock: int) -> None:
        self._lock = lock

    def run(self, words: Sequence[str]) -> Ended:
        """`python -m words...`, to its end. Ctrl-C, SIGTERM and SIGHUP are passed on as one SIGTERM each, which all
        commands take as a request to leave things in order; they run in a session of their own, or a terminal would
        send them a Ctrl-C besides.
        """
        process: subprocess.Popen[bytes] | None = None
        interrupted = ""

        def pass_on(signum: int, frame: FrameType | None) -> None:
            nonlocal interrupted
            interrupted = signal.Signals(signum).name
            if process is not None:
                process.terminate()

        began = time.monotonic()
        with _handled_by(pass_on):
            process = subprocess.Popen(
                [sys.executable, "-m", *words], start_new_session=True, pass_fds=(self._lock,), stdin=subprocess.DEVNULL
            )
            os.pwrite(self._lock, f"{process.pid:<10}\n".encode(), 0)
            if interrupted:
                process.terminate()
            status = process.wait()
        return Ended(status, time.monotonic() - began, interrupted)


@contextmanager
def workplace(folder: Path) -> Iterator[Workplace]:
    """The folder, made where it is missing.

    Raises:
        ConfigError: it cannot be made or written to.
        ReproductionError: another reproduction, or a command that it started, is at work in it.
    """
    lock = os.open(make_folder(folder) / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            process = os.pread(lock, 32, 0).decode(errors="replace").strip()
            raise ReproductionError(
                f"another reproduction is at work in '{folder}'{f' (process {process})' if process else ''}; "
                "wait for it or end it, or choose another place with --output"
            ) from None
        os.pwrite(lock, f"{os.getpid():<10}\n".encode(), 0)
        yield Workplace(lock)
    finally:
        os.close(lock)


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Inside, interruptions go to `handler`; those that are ignored (nohup) stay ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    mine = [number for number, was in before.items() if was not in (signal.SIG_IGN, None)]
    for number in mine:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, before[number])
