"""The shell of every command: flags, log, exit status.

An application has `args.py` with `parse(argv)`, `app.py` with `run(args)`, and a `__main__.py` of three lines, whose
`aloha_kit.startup.command` comes here.

Results go to standard output. Everything else (progress, notes, warnings) is logged with `logging` and goes to standard
error with the time.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast, Literal, TextIO

from aloha_kit.core.errors import AlohaKitError, UsageError
from aloha_kit.core.interrupt import signal_of, sigterm_interrupts, status_of
from aloha_kit.startup import quick_interrupts

LOG = logging.getLogger("aloha_kit")


@dataclass(frozen=True, kw_only=True)
class CommandArgs:
    """Flags that every command has; the base of each application's arguments."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity of what is written to standard error."""

    def kept(self) -> str:
        """What becomes of the work when the command is interrupted, for the message; empty where there is none."""
        return ""


def run_application(name: str, argv: Sequence[str] | None) -> None:
    """Run `aloha_kit.NAME`: parse, log, run; ends the process with the status that `app.run` returns (None is 0)."""
    with command_line() as command:
        with quick_interrupts():
            import tyro  # noqa: F401 - a tenth of a second

            parser = importlib.import_module(f"aloha_kit.{name}.args")
        args: CommandArgs = parser.parse(argv)
        LOG.setLevel(args.log_level.upper())
        with quick_interrupts():  # what takes seconds to import loads after the flags are known to be right
            application = importlib.import_module(f"aloha_kit.{name}.app")
        command.kept = args.kept()
        sys.exit(application.run(args))


def parse(kind: Any, name: str, argv: Sequence[str] | None, **options: Any) -> Any:
    """Turn the flags of `python -m aloha_kit.NAME` into a `kind` (a dataclass, or a union of them: subcommands).

    `--help` prints and ends the process. `options` are passed on to `tyro.cli`.

    Raises:
        UsageError: a flag or a value that is none; one line, with the nearest flag where there is one.
    """
    import tyro

    program, given = f"python -m aloha_kit.{name}", None if argv is None else list(argv)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, prog=program, args=given, use_underscores=True, **options)
    except SystemExit as end:
        if not end.code:
            raise
        problem = _one_line(complaint.getvalue())
    except (AlohaKitError, ValueError) as error:  # a dataclass refused a value
        problem = str(error)
    raise UsageError(f"{problem.rstrip('.')}; see `{program} --help`")


def _one_line(box: str) -> str:
    """What tyro writes in a box or between rules, without its frame, title, and hints at the help."""
    sections: list[list[str]] = [[]]
    for line in re.sub(r"\x1b\[[0-9;]*m", "", box).strip().splitlines()[1:]:
        if re.search(r"[─-]{3} *[╯│]?$", line):  # a rule, or the end
            sections.append([])
        else:
            sections[-1] += re.sub(r"^│|│$", "", line).split()
    parts = [" ".join(section) for section in sections if section]
    told = [
        re.sub(r"^Perhaps you meant:.*", f"did you mean {_flags(part)}?", part)
        for part in parts
        if not part.startswith(("For full helptext", "Argument helptext"))
    ]
    return re.sub(r"^Error parsing \w+: ", "", "; ".join(told))


def _flags(part: str) -> str:
    """The flags that tyro lists with their types, help texts and defaults."""
    return " or ".join(dict.fromkeys(re.findall(r"(?<!\S)--\w+", part)))


class _Ending:
    """What the message about an interruption says of the work."""

    def __init__(self, kept: str) -> None:
        self.kept = kept


@contextlib.contextmanager
def command_line(kept: str = "") -> Iterator[_Ending]:
    """Run a command inside; end the process with one message and the status that scripts expect.

    - `AlohaKitError`, and a file that the system refuses (no permission, no room): "error: …" on stderr, status 1;
      `UsageError` (wrong flags): the same with status 2.
    - Ctrl-C, SIGTERM, SIGHUP: "interrupted", status 130, 143, 129; `kept` says what became of the work.
    - Output that nobody reads any more (`| head`): silent, status 141, as of a command that SIGPIPE ended.
    - Output that cannot be written (a full disk): one line on stderr, status 1.

    Inside, what the package logs goes to stderr. What a command prints is a report of its work, so output that fails
    never ends the work: it goes on, in silence. Characters that the terminal's encoding lacks are written as `\\u4e00`.
    """
    ending = _Ending(kept)
    _open_standard_files()
    with _lenient("stdout") as output, _lenient("stderr"), _logging():
        try:
            with sigterm_interrupts():
                yield ending
        except SystemExit as end:
            if end.code:
                raise
        except UsageError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except AlohaKitError as error:
            sys.exit(f"error: {error}")
        except OSError as error:
            if error.filename is None:
                raise
            sys.exit(f"error: '{os.fsdecode(error.filename)}': {error.strerror or error}")
        except KeyboardInterrupt as interrupt:
            by = signal_of(interrupt)
            ended = "interrupted" + (f" ({by.name})" if by != signal.SIGINT else "")
            print(ended + (f"; {ending.kept}" if ending.kept else ""), file=sys.stderr)
            sys.exit(status_of(interrupt))
        output.flush()
        if isinstance(output.failure, BrokenPipeError):
            sys.exit(128 + signal.SIGPIPE)
        if output.failure is not None:
            sys.exit(f"error: standard output cannot be written: {output.failure.strerror or output.failure}")


class _Stderr(logging.Handler):
    """Log lines such as `09:30:00 warning: …`, above the progress bar where one is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        stamp = time.strftime("%H:%M:%S", time.localtime(record.created))
        tqdm.write(f"{stamp} {level}{record.getMessage()}", file=sys.stderr)
        sys.stderr.flush()


@contextlib.contextmanager
def _logging() -> Iterator[None]:
    """Inside, what the package logs from `info` on goes to stderr."""
    handler, level = _Stderr(), LOG.level
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(level)


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
