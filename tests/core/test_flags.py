"""`--help` is an example and the flags that matter, `--help-all` is every flag that tyro parses."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import pytest
import tyro
from tyro.conf import arg, OmitArgPrefixes, Positional

from aloha_kit.core import cli, flags
from aloha_kit.core.cli import CommandArgs
from tests.core.test_cli import COMMANDS, SUBCOMMANDS

EVERY = [(name, *words) for name in COMMANDS for words in SUBCOMMANDS.get(name, [[]])]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")


def help_of(words: Sequence[str], flag: str) -> str:
    written = io.StringIO()
    with contextlib.redirect_stdout(written), pytest.raises(SystemExit) as end:
        importlib.import_module(f"aloha_kit.{words[0]}.args").parse([*words[1:], flag])
    assert not end.value.code
    return written.getvalue()


def example_of(words: Sequence[str]) -> str:
    (example,) = re.findall(r"(?m)^example:\n  (.*)$", help_of(words, "--help"))
    return str(example)


@dataclass
class Bounds:
    """How far. No further."""

    rate: tuple[float, float] = (0.5, 2.0)
    """Fraction."""


@dataclass(frozen=True, kw_only=True)
class Small(CommandArgs):
    """Do something small.

    With `care`.
    """

    EXAMPLE: ClassVar[str] = "here --size 3"

    source: Positional[str]
    """Where."""
    size: Annotated[int | None, arg(aliases=("--extent",))] = None
    """How large."""
    kind: Literal["a", "b"] | None = None
    """Which."""
    quick: bool = False
    """Go fast."""
    video: bool = True
    """Write one."""
    names: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = ()
    """What it is called."""
    bounds: Bounds = field(default_factory=Bounds)
    near: OmitArgPrefixes[Bounds] = field(default_factory=Bounds)


def test_the_whole_help_of_a_dataclass() -> None:
    assert (
        flags.help_text(Small, "small", whole=True)
        == """\
usage: small SOURCE [flags]

Do something small.

With care.

example:
  small here --size 3

flags:
  SOURCE                  Where. (required)
  --size INT              How large.
  --kind {a,b}            Which.
  --quick                 Go fast.
  --video, --no_video     Write one. (default: on)
  --names NAME ...        What it is called.
  --lang {en,zh}          Language of messages and of --help; by default the locale's (LC_ALL,
                          LC_MESSAGES, LANG), else English.
  --log_level {debug,info,warning,error}
                          Least severity of what is written to standard error. (default: info)

How far:
  --bounds.rate FLOAT FLOAT
                          Fraction. (default: 0.5 2.0)
  --rate FLOAT FLOAT      Fraction. (default: 0.5 2.0)

--no_NAME turns a flag without a value off."""
    )


def test_main_flags_are_those_of_help_and_the_rest_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flags, "SHORT", 3)
    monkeypatch.setattr(Small, "MAIN_FLAGS", ("kind", "bounds.rate"))
    text = flags.help_text(Small, "small", whole=False)
    assert re.findall(r"(?m)^  (--[\w.]+|[A-Z]+)", text) == ["SOURCE", "--kind", "--bounds.rate"]
    assert text.endswith("\n7 more flags: small --help-all")
    monkeypatch.setattr(Small, "MAIN_FLAGS", ("knid",))
    with pytest.raises(LookupError):
        flags.help_text(Small, "small", whole=False)


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_help_is_short_and_plain_and_its_example_parses(words: Sequence[str]) -> None:
    short, whole = help_of(words, "--help"), help_of(words, "--help-all")
    for text in (short, whole):
        assert not re.search(r"\{None|None\)", text)
        assert not set(text) & set("`│─╭\x1b")
        assert max(map(len, text.splitlines())) <= 110
    assert 2 <= len(re.findall(r"(?m)^  (?:--|[A-Z])", short)) <= flags.SHORT
    program = " ".join(("python", "-m", f"aloha_kit.{words[0]}", *words[1:]))
    example = example_of(words)
    assert example.startswith(f"{program} ")
    parsed = importlib.import_module(f"aloha_kit.{words[0]}.args").parse(shlex.split(example)[3:])
    assert isinstance(parsed, CommandArgs)


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_help_all_has_every_flag_that_is_parsed(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """tyro's own help, which our help replaces, is the list of what is parsed."""
    calls: list[tuple[Any, dict[str, Any]]] = []
    monkeypatch.setattr(cli, "_parsed", lambda kind, given, known, *more: calls.append((kind, more)))
    with contextlib.suppress(AttributeError, TypeError):  # of what works on the parsed arguments
        importlib.import_module(f"aloha_kit.{words[0]}.args").parse(shlex.split(example_of(words))[3:])
    ((kind, (default, config)),) = calls
    written = io.StringIO()
    subcommand = words[1:] or (("run",) if words[0] == "deploy" else ())
    with contextlib.redirect_stdout(written), pytest.raises(SystemExit):
        tyro.cli(kind, args=[*subcommand, "--help"], use_underscores=True, config=config, **default)
    named = re.findall(r"(?m)^[│ ] {0,2}(--\w.*?)(?:  | *│?$)", written.getvalue())
    parsed = {flag for names in named for flag in re.findall(r"--[\w.]+", names)}
    assert "--log_level" in parsed
    whole = help_of(words, "--help-all")
    shown = set(re.findall(r"--[\w.]+", whole))
    of = flags.commands(kind).get(next(iter(subcommand), ""), kind)
    hidden = {alias for flag in flags.flags(of, default.get("default")) for alias in flag.aliases}
    assert {flag for flag in parsed if flag.replace("no_", "", 1) not in parsed} - hidden <= shown
    assert not hidden & set(re.findall(r"(?m)^  (--[\w.]+)", whole))


def test_subcommands_are_listed() -> None:
    assert re.findall(r"(?m)^  ([\w-]+)(?: |$)", help_of(["episode"], "--help").partition("commands:")[2]) == [
        words[0] for words in SUBCOMMANDS["episode"]
    ]
    assert "\n  serve " in help_of(["deploy"], "--help")


HEAVY = {"torch", "mujoco", "dm_control", "rospy", "matplotlib", "av", "rerun", "scipy", "websockets", "tensorboard"}

EACH = """
import importlib, json, os, sys
import aloha_kit.core.cli, tyro  # what all have in common, once
for name, heavy in json.load(sys.stdin):
    child = os.fork()
    if not child:
        sys.stdout = open(os.devnull, "w")
        try:
            importlib.import_module(f"aloha_kit.{name}.__main__").main(["--help"])
        except SystemExit:
            pass
        application = {f"aloha_kit.{name}.app"} if name != "reproduce" else set()
        print(name, sorted((set(heavy) | application) & set(sys.modules)), file=sys.stderr)
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_help_imports_nothing_that_takes_long() -> None:
    given = json.dumps([(name, sorted(HEAVY)) for name in COMMANDS])
    done = subprocess.run([sys.executable, "-c", EACH], input=given, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == [f"{name} []" for name in COMMANDS]
