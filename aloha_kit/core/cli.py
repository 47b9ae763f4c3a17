"""How every command ends: a mistake in one line with status 1, an interruption with 130, 143 or 129, a pipe in silence.

def main(argv: Sequence[str] | None = None) -> None:
    with command_line():
        run(tyro.cli(Args, args=argv))
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, cast, TextIO

from aloha_kit.core.errors import AlohaKitError
from aloha_kit.core.interrupt import signal_of, sigterm_interrupts, status_of


@contextlib.contextmanager
def command_line(kept: str = "") -> Iterator[None]:
    """Run a command inside; end the process with one message and the status that scripts expect.

    - `AlohaKitError`, and a file that the system refuses (no permission, no room): "error: …" on stderr, status 1.
    - Ctrl-C, SIGTERM, SIGHUP: "interrupted", status 130, 143, 129; `kept` says what became of the work.
    - Output that nobody reads any more (`| head`): silent, status 141, as of a command that SIGPIPE ended.
    - Output that cannot be written (a full disk): one line on stderr, status 1.

    What a command prints is a report of its work, so output that fails never ends the work: it goes on, in silence.
    Characters that the terminal's encoding lacks are written as `\\u4e00`.
    """
    _open_standard_files()
    with _lenient("stdout") as output, _lenient("stderr"):
        try:
            with sigterm_interrupts():
                yield
        except SystemExit as end:
            if end.code:
                raise
        except AlohaKitError as error:
            sys.exit(f"error: {error}")
        except OSError as error:
            if error.filename is None:
                raise
            sys.exit(f"error: '{os.fsdecode(error.filename)}': {error.strerror or error}")
        except KeyboardInterrupt as interrupt:
            by = signal_of(interrupt)
            said = "interrupted" + (f" ({by.name})" if by != signal.SIGINT else "") + (f"; {kept}" if kept else "")
            print(said, file=sys.stderr)
            sys.exit(status_of(interrupt))
        output.flush()
        if isinstance(output.failure, BrokenPipeError):
            sys.exit(128 + signal.SIGPIPE)
        if output.failure is not None:
            sys.exit(f"error: standard output cannot be written: {output.failure.strerror or output.failure}")


def exit_status(command: Callable[[], int]) -> int:
    """Run `command` in a `command_line` and give its exit status, for callers that do not end with it."""
    try:
        with command_line():
            return command()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return int(end.code or 0)


class _Output:
    """A text stream that takes the first failure down and goes on in silence."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError as error:
            self._fail(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        self.failure = self.failure or error
        # what the stream still holds goes nowhere, or the interpreter would complain about it at its end
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())
            self._stream.flush()


@contextlib.contextmanager
def _lenient(name: str) -> Iterator[_Output]:
    """Inside, `sys.stdout` or `sys.stderr` neither fails nor refuses a character."""
    stream = getattr(sys, name)
    errors, reconfigure = getattr(stream, "errors", None), getattr(stream, "reconfigure", None)
    if reconfigure:
        reconfigure(errors="backslashreplace")
    output = _Output(stream)
    setattr(sys, name, cast(TextIO, output))
    try:
        yield output
    finally:
        output.flush()
        setattr(sys, name, stream)
        if reconfigure:
            reconfigure(errors=errors)


def _open_standard_files() -> None:
    """Open those of stdin, stdout and stderr that were closed (`>&-`) on the null device: the next file opened would
    take their number, and be written into by whoever writes to them."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for the process's life
