"""A training run's logs/log.txt: all that its terminal showed, session after session."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast, TextIO

from aloha_kit.core.errors import AlohaKitError
from aloha_kit.core.interrupt import signal_of

SNAPSHOT = "config.yaml"
"""Name of the file in a run's folder that holds all values the run was started with."""
LOG_FILE = "logs/log.txt"


@contextmanager
def run_log(folder: Path, title: str = "") -> Iterator[None]:
    """Append what is printed and logged inside to the run's logs/log.txt, and the error that ends it.

    Nothing is written before the run exists: until then the text is kept in memory, and a training that is refused
    leaves no file. States of the progress bar are left out, since metrics.csv holds their numbers.

    Args:
        folder: of the run.
        title: of this session, written with the date.
    """
    log = _LogFile(folder)
    if title:
        log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {title}\n")
    with _copied("stdout", log), _copied("stderr", log):
        try:
            yield
        except BaseException as error:
            log.write(_ending(error))
            raise


class _LogFile:
    """The file, from when the run's folder is complete on."""

    def __init__(self, folder: Path) -> None:
        self._snapshot, self._file = folder / SNAPSHOT, folder / LOG_FILE
        self._pending = ""

    def write(self, text: str) -> None:
        self._pending += text
        with suppress(OSError):  # a full disk does not end the training
            if self._pending and self._snapshot.is_file():
                self._file.parent.mkdir(exist_ok=True)
                with self._file.open("a", encoding="utf-8", errors="backslashreplace") as handle:
                    handle.write(self._pending)
                self._pending = ""


class _Copied:
    """A stream whose text goes into the log too."""

    def __init__(self, stream: TextIO, log: _LogFile) -> None:
        self._stream, self._log = stream, log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if not text.startswith("\r"):  # a progress bar
            self._log.write(text)
        return self._stream.write(text)


@contextmanager
def _copied(name: str, log: _LogFile) -> Iterator[None]:
    """Inside, `sys.stdout` or `sys.stderr` is also written to the log."""
    stream = getattr(sys, name)
    setattr(sys, name, cast(TextIO, _Copied(stream, log)))
    try:
        yield
    finally:
        setattr(sys, name, stream)


def _ending(error: BaseException) -> str:
    """Terminal message of an error that ends the training."""
    if isinstance(error, AlohaKitError):
        return f"error: {error}\n"
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted ({signal_of(error).name})\n"
    if isinstance(error, SystemExit):  # it was printed where it was raised
        return ""
    return "".join(traceback.format_exception(error))
