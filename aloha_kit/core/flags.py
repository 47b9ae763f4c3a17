"""Flags of a command and its `--help`, from the dataclass of its arguments.

tyro parses the same dataclass. Its own help lists every flag of a command at once; this one has an example, the flags
that matter, and the rest under `--help-all`.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import re
import shutil
import textwrap
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union

from tyro.conf import OmitArgPrefixes, Positional, Suppress, UseAppendAction

from aloha_kit.core.lang import marked, tr, wrap

SHORT = 14
"""Most flags of a command whose `--help` lists all."""

_WORDS = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}


@dataclass(frozen=True)
class Flag:
    """One flag or positional argument of a command."""

    name: str
    """As typed: `--task`, or `SOURCE` where it is positional."""
    metavar: str
    """Its value's form: `INT`, `{jpeg,raw}`, `H W`; empty for a switch."""
    text: str
    default: str
    """Its default as typed; empty where there is none to show."""
    required: bool
    group: str
    """First sentence of the nested dataclass that it belongs to; empty for the command's own."""
    aliases: tuple[str, ...] = ()
    """Older and other projects' names of it; accepted, and in no help."""
    repeatable: bool = False
    """Each time it is given adds a value."""

    @property
    def positional(self) -> bool:
        return not self.name.startswith("--")

    @property
    def switch(self) -> bool:
        return not self.metavar and not self.positional

    @property
    def negated(self) -> str:
        """The form that turns a switch off."""
        return re.sub(r"(?<=[.-])(\w+)$", r"no_\1", self.name)

    @property
    def accepted(self) -> tuple[str, ...]:
        """All that may be typed for it."""
        names = () if self.positional else (self.name, *self.aliases)
        return (*names, self.negated) if self.switch else names

    @property
    def form(self) -> str:
        """Flag as in a usage line or a list of flags: `--task TEXT`."""
        if self.switch and self.default:
            return f"{self.name}, {self.negated}"
        return f"{self.name} {self.metavar}".rstrip()


def commands(kind: Any) -> dict[str, Any]:
    """{subcommand: its dataclass} of a union of dataclasses; empty for one dataclass."""
    if typing.get_origin(kind) not in (Union, UnionType):
        return {}
    found = {}
    for member in typing.get_args(kind):
        of, marks = _unwrap(member)
        names = [mark.name for mark in marks if getattr(mark, "name", None)]
        found[names[0] if names else re.sub(r"(?<!^)(?=[A-Z])", "_", of.__name__).lower()] = of
    return found


def flags(kind: Any, default: Any = None, *, prefix: str = "", group: str = "") -> list[Flag]:
    """All flags of a dataclass: positional arguments, its own in its order, then those of its bases.

    Those of nested dataclasses are among them; `--lang` and `--log_level`, of the base of all commands, come last.

    Args:
        kind: the dataclass; of a generic one, with its parameters.
        default: an instance whose values are the defaults, in place of the class's.
    """
    cls = typing.get_origin(kind) or kind
    given = dict(zip(getattr(cls, "__parameters__", ()), typing.get_args(kind), strict=False))
    hints, texts = typing.get_type_hints(cls, include_extras=True), _texts(cls)
    found: list[Flag] = []
    for field in _own_first(cls):
        of, marks = _unwrap(hints[field.name])
        of = given.get(of, of) if isinstance(of, TypeVar) else of
        if Suppress in marks:
            continue
        value = _value(field, default)
        settings = next((mark for mark in marks if hasattr(mark, "metavar")), None)
        name = field.name if settings is None or settings.name is None else settings.name
        if dataclasses.is_dataclass(of):
            flat = OmitArgPrefixes in marks or not name
            nested = None if value is dataclasses.MISSING else value
            heading = _first_sentence(inspect.getdoc(of) or "")
            found += flags(of, nested, prefix=prefix if flat else f"{prefix}{name}.", group=heading)
            continue
        metavar = (settings and settings.metavar) or _metavar(of)
        if UseAppendAction in marks:
            metavar = metavar.split(" ")[0]
        positional = Positional in marks
        found.append(
            Flag(
                name=((settings and settings.metavar) or name.upper()) if positional else f"--{prefix}{name}",
                metavar="" if positional and typing.get_origin(of) is not Literal else metavar,
                text=(settings and settings.help) or texts.get(field.name, ""),
                default="" if value is dataclasses.MISSING else _shown(value),
                required=value is dataclasses.MISSING,
                group=group,
                aliases=tuple(settings.aliases or ()) if settings else (),
                repeatable=UseAppendAction in marks,
            )
        )
    return sorted(found, key=lambda flag: not flag.positional)


def _own_first(cls: type) -> list[dataclasses.Field[Any]]:
    """Fields of a dataclass, its own before those of its bases."""
    declared = [vars(base).get("__annotations__", ()) for base in cls.__mro__]
    return sorted(
        dataclasses.fields(cls),
        key=lambda field: next(depth for depth, names in enumerate(declared) if field.name in names),
    )


def help_text(kind: Any, program: str, *, whole: bool, default: Any = None, footer: str = "") -> str:
    """`--help` of a command, or `--help-all` (`whole`).

    Args:
        kind: a dataclass with `EXAMPLE` and `MAIN_FLAGS`, see `core.cli.CommandArgs`.
        program: what is typed before the flags.
        footer: further lines, such as the other subcommands.

    Raises:
        LookupError: `MAIN_FLAGS` names a flag that does not exist.
    """
    cls, every = typing.get_origin(kind) or kind, flags(kind, default)
    named = {flag.name.removeprefix("--"): flag for flag in every}
    required = [flag for flag in every if flag.required]
    main = [*required, *(flag for flag in (named[name] for name in cls.MAIN_FLAGS) if flag not in required)]
    short = main if not whole and len(every) > SHORT else every
    given = sorted(required, key=lambda flag: flag.positional)
    usage = " ".join(flag.name if flag.positional else flag.form for flag in given)
    lines = [tr("usage: {command} [flags]", command=f"{program} {usage}".rstrip()), ""]
    lines += [*_paragraphs(inspect.getdoc(cls) or ""), "", tr("example:"), f"  {program} {cls.EXAMPLE}"]
    for group in dict.fromkeys(flag.group for flag in short):
        heading = marked("flags") if group == "" or short is main else group.rstrip(".")
        title = tr("{flags}:", flags=tr(heading))
        lines += ["", title] if heading != "flags" or title not in lines else []
        lines += [line for flag in short if flag.group == group for line in _entry(flag)]
    if len(short) < len(every):
        lines += ["", tr("{n} more flags: {program} --help-all", n=len(every) - len(short), program=program)]
    elif any(flag.switch for flag in every):
        lines += ["", tr("--no_NAME turns a flag without a value off.")]
    return "\n".join([*lines, *([footer] if footer else [])])


def commands_text(kinds: dict[str, Any], program: str, description: str) -> str:
    """`--help` of a command with subcommands."""
    first = next(iter(kinds))
    lines = [tr("usage: {program} COMMAND …", program=program), "", tr(description), ""]
    lines += [tr("example:"), f"  {program} {first} {kinds[first].EXAMPLE}", "", *commands_list(kinds)]
    return "\n".join([*lines, "", tr("flags of a command: {program} COMMAND --help", program=program)])


def commands_list(kinds: dict[str, Any]) -> list[str]:
    """Lines that name subcommands and what each does."""
    return [tr("commands:")] + [
        line
        for name, of in kinds.items()
        for line in _columns(name, tr(_first_sentence(_plain(inspect.getdoc(of) or ""))), 12)
    ]


def _unwrap(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type without `Annotated` and without `| None`, and what it was annotated with."""
    marks: tuple[Any, ...] = ()
    while True:
        if typing.get_origin(hint) is Annotated:
            hint, *more = typing.get_args(hint)
            marks = (*more, *marks)
        elif typing.get_origin(hint) in (Union, UnionType) and NoneType in typing.get_args(hint):
            rest = [member for member in typing.get_args(hint) if member is not NoneType]
            hint = Union[tuple(rest)]  # noqa: UP007 - of a list
        else:
            return hint, marks


def _metavar(of: Any) -> str:
    origin, inner = typing.get_origin(of), typing.get_args(of)
    if of is bool:
        return ""
    if origin is Literal:
        return "{" + ",".join(map(str, inner)) + "}"
    if origin is tuple:
        words = [_metavar(member) for member in inner if member is not ...]
        return f"{words[0]} ..." if ... in inner else " ".join(words)
    return _WORDS.get(of, "VALUE")


def _value(field: dataclasses.Field[Any], default: Any) -> Any:
    """The default of a field; `MISSING` where it has to be given."""
    if default is not None:
        return getattr(default, field.name)
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else ""
    if value is None or value == ():
        return ""
    return " ".join(map(_shown, value)) if isinstance(value, tuple) else str(value)


@functools.cache
def _texts(cls: type) -> dict[str, str]:
    """{field: the string literal below it}, of a class and its bases."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(node, ast.ClassDef)
        for field, below in zip(node.body, node.body[1:], strict=False):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = text
    return found


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.?!])\s", " ".join(text.split()), maxsplit=1)[0]


def _plain(text: str) -> str:
    return " ".join(text.replace("`", "").split())


def _width() -> int:
    return max(60, min(shutil.get_terminal_size((100, 24)).columns, 110))


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield ""
        yield from wrap(tr(_plain(paragraph)), _width())


def _entry(flag: Flag) -> Sequence[str]:
    note = tr("required") if flag.required else tr("default: {value}", value=flag.default) if flag.default else ""
    text = tr(_plain(flag.text))
    return _columns(flag.form, tr("{text} ({notes})", text=text, notes=note) if note else text, 26)


def _columns(left: str, right: str, column: int) -> list[str]:
    lines = wrap(right, _width() - column)
    if len(left) + 4 > column:
        return [f"  {left}", *(" " * column + line for line in lines)]
    return [f"  {left}".ljust(column) + (lines[0] if lines else ""), *(" " * column + line for line in lines[1:])]
