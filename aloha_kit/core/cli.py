"""Command line of every command: flags, log, exit status.

An application has `args.py` with `parse(argv)`, `app.py` with `run(args)`, and a `__main__.py` of three lines, whose
`aloha_kit.command.command` comes here.

Results go to standard output. Everything else (progress, notes, warnings) is logged with `logging` and goes to standard
error with the time.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import itertools
import logging
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast, ClassVar, Literal, TextIO

from aloha_kit.core import flags
from aloha_kit.core.errors import AlohaKitError, did_you_mean, UsageError
from aloha_kit.core.flags import Flag
from aloha_kit.core.interrupt import signal_of, sigterm_interrupts, status_of
from aloha_kit.core.lang import chosen_language, error_text, joined, Language, language, Message, shown, tr
from aloha_kit.core.own_code import own_code_error
from aloha_kit.startup import quick_interrupts

LOG = logging.getLogger("aloha_kit")

_HELP = {"-h", "--help", "--help-all", "--help_all"}


@dataclass(frozen=True, kw_only=True)
class CommandArgs:
    """Flags that every command has; the base of each application's arguments."""

    EXAMPLE: ClassVar[str]
    """Flags and values that can be tried, for `--help`."""
    MAIN_FLAGS: ClassVar[tuple[str, ...]] = ()
    """The about ten flags that `--help` lists, without their `--`; `--help-all` lists all."""

    lang: Language | None = None
    """Language of messages and of --help; by default the locale's (LC_ALL, LC_MESSAGES, LANG), else English."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity of what is written to standard error."""

    def saved(self) -> str:
        """Message about the work that an interruption of the command leaves; empty where there is none."""
        return ""


def run_application(name: str, argv: Sequence[str] | None) -> None:
    """Run `aloha_kit.NAME`: parse, log, run; ends the process with the status that `app.run` returns (None is 0)."""
    with language(chosen_language(sys.argv[1:] if argv is None else argv)), command_line() as command:
        with quick_interrupts():
            import tyro  # noqa: F401 - a tenth of a second

            parser = importlib.import_module(f"aloha_kit.{name}.args")
        args: CommandArgs = parser.parse(argv)
        LOG.setLevel(args.log_level.upper())
        with quick_interrupts():  # what takes seconds to import loads after the flags are known to be right
            application = importlib.import_module(f"aloha_kit.{name}.app")
        command.saved = args.saved()
        sys.exit(application.run(args))


def parse(
    kind: Any,
    name: str,
    argv: Sequence[str] | None,
    *,
    default: Any = None,
    description: str = "",
    usual: str = "",
    config: Sequence[Any] = (),
    start: str = "python -m aloha_kit.",
) -> Any:
    """Turn the flags of `python -m aloha_kit.NAME` into a `kind` (a dataclass, or a union of them: subcommands).

    `--help` and `--help-all` print and end the process.

    Args:
        default: an instance of the dataclass whose values count where a flag is not given.
        description: what a command with subcommands is for.
        usual: the subcommand that is meant where none is given.
        config: markers for `tyro.cli`.
        start: of the command, before its name.

    Raises:
        UsageError: a flag or a value that is none, or a flag under two names; one line, with the nearest flag where
            there is one.
    """
    program, given = f"{start}{name}", list(sys.argv[1:] if argv is None else argv)
    kinds = flags.commands(kind)
    chosen, footer = kind, ""
    if usual and given[:1] not in [[command] for command in kinds]:
        others = {command: of for command, of in kinds.items() if command != usual}
        chosen, footer = kinds[usual], "\n".join(["", *flags.commands_list(others)])
        given = [usual, *given]
    elif given and given[0] in kinds:
        chosen, program = kinds[given[0]], f"{program} {given[0]}"
    elif kinds and not _HELP & set(given):
        if given:
            close = did_you_mean(given[0], kinds)
            raise _usage(Message("no command '{name}'. {known}", name=given[0], known=close), program)
        raise _usage(Message("which command? Known: {names}", names=", ".join(kinds)), program)
    if wanted := _HELP & set(given):
        whole = not wanted & {"-h", "--help"}
        grouped = chosen in kinds.values() or not kinds
        text = flags.help_text(chosen, program, whole=whole, default=default, footer=footer) if grouped else ""
        print(text or flags.commands_text(kinds, program, description))
        sys.exit()
    known_flags = flags.flags(chosen, default)
    try:
        _require_known(given, known_flags)
        _require_one_name(given, known_flags)
        return _parsed(kind, given, known_flags, {} if default is None else {"default": default}, config)
    except (AlohaKitError, ValueError) as error:  # ValueError: a dataclass refused a value
        raise _usage(error, program) from None


def _usage(problem: str | Exception, program: str) -> UsageError:
    """The error of a wrong command line, in the operator's language, with where its flags are listed."""
    text = shown(problem).rstrip(".。")
    if text.endswith(("?", "？")):
        return UsageError(tr("{problem} See `{program} --help`", problem=text, program=program))
    return UsageError(tr("{problem}; see `{program} --help`", problem=text, program=program))


def with_value(argv: Sequence[str] | None, value: str, *names: str) -> list[str]:
    """The words of a command line, with `value` after a flag of these names that was given without one."""
    words = list(sys.argv[1:] if argv is None else argv)
    pairs = itertools.zip_longest(words, words[1:], fillvalue="--")
    bare = {flag: (flag, value) for flag in names}
    return [each for word, after in pairs for each in (bare.get(word, (word,)) if after[:2] == "--" else (word,))]


def _require_known(given: Sequence[str], known: Sequence[Flag]) -> None:
    """Raise `UsageError` for the first word that looks like a flag and is none."""
    accepted = {name: flag.name for flag in known for name in flag.accepted}
    for word in given:
        name = _underscored(word)
        if len(word) > 2 and word.startswith("--") and name not in accepted and not name.startswith("--tyro_"):
            # without the dashes, which are alike in all; 0.58 finds ckpt_dir for ckpt_path and bounds.black for black
            close = difflib.get_close_matches(name[2:], [each[2:] for each in accepted], n=1, cutoff=0.58)
            problem = Message("no flag {flag}", flag=word.partition("=")[0])
            if close:
                nearest = accepted[f"--{close[0]}"]
                problem = Message("{problem}; did you mean {known}?", problem=problem, known=nearest)
            raise UsageError(problem)


def _require_one_name(given: Sequence[str], known: Sequence[Flag]) -> None:
    """Raise `UsageError` for a flag that was given under two of its names."""
    words = [_underscored(word) for word in given]
    for flag in known:
        names = [name for name in dict.fromkeys(words) if name in (flag.name, *flag.aliases)]
        if len(names) > 1 and not flag.repeatable:
            raise UsageError("{flags} are the same flag; give one of them", flags=" and ".join(names))


def _underscored(word: str) -> str:
    """A flag as it is declared: without its value, and with `_` where `-` was typed."""
    return "--" + word.partition("=")[0].removeprefix("--").replace("-", "_") if word.startswith("--") else word


def _parsed(
    kind: Any, given: Sequence[str], known: Sequence[Flag], default: dict[str, Any], config: Sequence[Any]
) -> Any:
    """Configuration that `tyro.cli` parses from the words; raises `UsageError` with its message in one line."""
    import tyro

    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, args=given, use_underscores=True, config=tuple(config), **default)
    except SystemExit as end:
        if not end.code:
            raise
        refused = end.__context__  # by a dataclass: the error, or tyro's of it with the same text
        if refused is not None and isinstance(text := error_text(refused), Message):
            raise UsageError(text) from None
    problem = " ".join(re.sub(r"\x1b\[[0-9;]*m|[─│╭╮╰╯]|-{3,}", " ", complaint.getvalue()).split())
    absent = [flag for flag in known if flag.required and " ".join(flag.text.split())[:40] in problem]
    if "Missing from" in problem and absent:
        missing = [(flag.form, Message(" ".join(flag.text.split()))) for flag in absent]
        raise UsageError(joined([Message("{flag} is missing: {text}", flag=flag, text=text) for flag, text in missing]))
    if named := re.search(r"(?:Error parsing|for argument) '?(--)?([\w./-]+)", problem):
        names = set(named[2].replace("--", "").split("/"))
        for flag in known:
            if names & {name.removeprefix("--").lower() for name in (flag.name, *flag.accepted)}:
                raise UsageError(
                    "{flag} takes {form}, given {values}",
                    flag=flag.name,
                    form=flag.metavar or Message("no value"),
                    values=_values(given, flag),
                )
    if words := re.search(r"Unrecognized options: (.*?)(?:$| Perhaps| Available| For full| Argument)", problem):
        raise UsageError("unexpected: {words}", words=words[1])
    raise UsageError(re.sub(r"^.*?Error parsing \w+: ", "", problem).partition(" For full helptext")[0])


def _values(given: Sequence[str], flag: Flag) -> str:
    """The words that were given to a flag, for a message."""
    values: list[str] = []
    starts = [0] if flag.positional else [i + 1 for i, word in enumerate(given) if _underscored(word) in flag.accepted]
    for start in starts:
        _, equals, value = given[start - 1].partition("=") if start else ("", "", "")
        values = [value] if equals else list(itertools.takewhile(lambda word: not word.startswith("--"), given[start:]))
    return " ".join(values) or Message("nothing")


class _Ending:
    """Work that an interruption leaves, for the message about it."""

    def __init__(self, saved: str) -> None:
        self.saved = saved


@contextlib.contextmanager
def command_line(saved: str = "") -> Iterator[_Ending]:
    """Run a command inside; end the process with one message and the status that scripts expect.

    - `AlohaKitError`, a file that the system refuses (no permission, no room), and an exception of the user's own code
      (a plug-in): "error: …" on stderr, status 1, and with `--log_level debug` its traceback; `UsageError` (wrong
      flags): the same with status 2. Any other exception is a fault of this package and keeps its traceback.
    - Ctrl-C, SIGTERM, SIGHUP: "interrupted", status 130, 143, 129; `saved` states what was saved.
    - Output that is no longer read (`| head`): silent, status 141, as of a command that SIGPIPE ended.
    - Output that cannot be written (a full disk): one line on stderr, status 1.

    Inside, what the package logs goes to stderr. What a command prints is a report of its work, so output that fails
    never ends the work: it goes on, in silence. Characters that the terminal's encoding lacks are written as `\\u4e00`.
    """
    ending = _Ending(saved)
    _open_standard_files()
    with _lenient("stdout") as output, _lenient("stderr"), _logging():
        try:
            with sigterm_interrupts():
                yield ending
        except SystemExit as end:
            if end.code:
                raise
        except UsageError as error:
            sys.stderr.write(f"error: {shown(error)}\n")
            sys.exit(2)
        except Exception as error:
            if (message := _message(error)) is None:
                raise
            if LOG.isEnabledFor(logging.DEBUG):
                LOG.debug("%s", "".join(traceback.format_exception(error)).rstrip())
            sys.exit(f"error: {message}")
        except KeyboardInterrupt as interrupt:
            by = signal_of(interrupt)
            ended = tr("interrupted") + (f" ({by.name})" if by != signal.SIGINT else "")
            sys.stderr.write(ended + (f"; {tr(ending.saved)}" if ending.saved else "") + "\n")
            sys.exit(status_of(interrupt))
        output.flush()
        if isinstance(output.failure, BrokenPipeError):
            sys.exit(128 + signal.SIGPIPE)
        if output.failure is not None:
            sys.exit(f"error: standard output cannot be written: {output.failure.strerror or output.failure}")


def _message(error: Exception) -> str | None:
    """The line that a command ends with; None for a fault of this package, which keeps its traceback."""
    if isinstance(error, AlohaKitError):
        return shown(error)
    if own := own_code_error(error):
        return str(own)
    if isinstance(error, OSError) and error.filename is not None:
        return f"'{os.fsdecode(error.filename)}': {error.strerror or error}"
    return None


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
    """Text stream that records its first failure and then ignores further ones."""

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
