"""Commands of the package as child processes of an application that runs several, one after the other."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from aloha_kit.core.errors import AlohaKitError
from aloha_kit.core.files import make_folder

LOCK = ".lock"


class FolderInUseError(AlohaKitError):
    """A folder that another process works on."""


@dataclass(frozen=True)
class CommandResult:
    """Status and time of a command that has ended."""

    status: int
    seconds: float
    interrupted: str  # the signal that came to this process meanwhile; empty if there was none


class LockedFolder:
    """A locked folder. Every command inherits the lock, so it stays locked while a command outlives this process."""

    def __init__(self, lock: int) -> None:
        self._lock = lock

    def run(self, words: Sequence[str]) -> CommandResult:
        """Run `python -m words...` to its end.

        Ctrl-C, SIGTERM and SIGHUP are passed on as one SIGTERM each, on which all commands save their work and end.
        They run in a session of their own, or a terminal would send them a Ctrl-C as well.
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
        return CommandResult(status, time.monotonic() - began, interrupted)


@contextmanager
def locked(folder: Path, what: str) -> Iterator[LockedFolder]:
    """Lock a folder, which is made where it is missing, for one `what` at a time ("reproduction").

    Raises:
        ConfigError: it cannot be made or written to.
        FolderInUseError: another one, or a command that it started, uses it.
    """
    lock = os.open(make_folder(folder) / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            process = os.pread(lock, 32, 0).decode(errors="replace").strip()
            raise FolderInUseError(
                "another {what} uses '{folder}' (process {process}); wait for it or end it, or choose another "
                "place with --output",
                what=what,
                folder=folder,
                process=process or "?",
            ) from None
        os.pwrite(lock, f"{os.getpid():<10}\n".encode(), 0)
        yield LockedFolder(lock)
    finally:
        os.close(lock)


def flags_of(values: Mapping[str, Any]) -> list[str]:
    """Values as command-line flags; None is left out.

    >>> flags_of({"image_size": [96, 128], "augment": False, "amp": True, "cameras": None, "lr": 1e-4})
    ['--image_size', '96', '128', '--no_augment', '--amp', '--lr', '0.0001']
    """
    words: list[str] = []
    for key, value in values.items():
        if isinstance(value, bool):
            words.append(f"--{key}" if value else f"--no_{key}")
        elif isinstance(value, (list, tuple)):
            words += [f"--{key}", *map(str, value)]
        elif value is not None:
            words += [f"--{key}", str(value)]
    return words


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle interruptions by `handler`; ignored ones (nohup) stay ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    handled = [number for number, was in before.items() if was not in (signal.SIG_IGN, None)]
    for number in handled:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])
