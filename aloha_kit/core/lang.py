"""Messages in the operator's language, and the width of text in a terminal.

The English text in the code is the key of its translation (gettext). `locale/zh.po` holds the Chinese; after a change
of it, `msgfmt -c -o zh.mo zh.po` compiles what is loaded. What programs read (files, JSON, states on topics) stays
English.
"""

from __future__ import annotations

import contextlib
import gettext
import itertools
import os
import re
import sys
import textwrap
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast, get_args, Literal

Language = Literal["en", "zh"]

_CATALOGUES = Path(__file__).parent / "locale"
_catalogue = gettext.NullTranslations()  # of English
_PIECE = re.compile(r"\s+|[（《「『【“‘]*(?:[!-~]+|.)[，。；：、？！）》」』】”’…]*")
"""What stays in one line: a run of ASCII characters or one other, with the marks before and behind it."""


@contextlib.contextmanager
def language(name: Language) -> Iterator[None]:
    """Inside, the messages of this process are in a language."""
    global _catalogue
    before = _catalogue
    if name == "en":
        _catalogue = gettext.NullTranslations()
    else:
        with open(_CATALOGUES / f"{name}.mo", "rb") as file:
            _catalogue = gettext.GNUTranslations(file)
    try:
        yield
    finally:
        _catalogue = before


def chosen_language(words: Sequence[str]) -> Language:
    """Language of a command line: that of `--lang`, else of the locale. The parser refuses an unknown one."""
    parts = [part for word in words for part in word.split("=", 1)]
    for flag, value in itertools.pairwise(parts):
        for known in get_args(Language):
            if (flag, value) == ("--lang", known):
                return known  # type: ignore[no-any-return]
    return locale_language(os.environ, getattr(sys.stderr, "encoding", None) or "utf-8")


def locale_language(environ: Mapping[str, str], encoding: str) -> Language:
    """Chinese in a Chinese locale whose output can show it, else English.

    Args:
        environ: LC_ALL, LC_MESSAGES and LANG are read; the first that is not empty counts.
        encoding: of standard error.
    """
    name = next((environ[key] for key in ("LC_ALL", "LC_MESSAGES", "LANG") if environ.get(key)), "")
    if re.split(r"[_.@]", name)[0].lower() != "zh":
        return "en"
    try:
        "中文".encode(encoding)
    except (LookupError, UnicodeEncodeError):
        return "en"
    return "zh"


def tr(template: str, /, **fields: object) -> str:
    """A message in the operator's language, its `{fields}` filled in; a `Message` or an error as `shown`."""
    text = _catalogue.gettext(template) if template else ""  # the empty key is the catalogue's header
    for name, field in fields.items():
        if isinstance(field, (Message, BaseException)):
            fields[name] = shown(field)
    return text.format(**fields) if fields else text


def tr_plural(one: str, many: str, n: int, **fields: object) -> str:
    """A message about `n` things, which is a field of it: English has two forms, Chinese one."""
    return _catalogue.ngettext(one, many, n).format(n=n, **fields)


def marked(text: str) -> str:
    """The text itself, which `tr` translates where it is shown: for constants, and for what is stored in English."""
    return text


class Message(str):
    """English text that is stored as it is, and that `shown` translates, also after it was sent to another process."""

    template: str
    fields: dict[str, object]

    def __new__(cls, template: str, /, **fields: object) -> Message:
        fields = {
            name: error_text(field) if isinstance(field, BaseException) else field for name, field in fields.items()
        }
        message = super().__new__(cls, template.format(**fields) if fields else template)
        message.template, message.fields = template, fields
        return message

    def __getnewargs_ex__(self) -> tuple[tuple[object, ...], dict[str, object]]:
        return (self.template,), self.fields

    def translated(self) -> str:
        """The text in the operator's language."""
        return tr(self.template, **self.fields)


class Count(Message):
    """`1 episode`, `2 episodes`: a number of things, with the plural of its translation."""

    number: int
    thing: str

    def __new__(cls, number: int, thing: str) -> Count:
        template = f"{{n}} {thing}" if number == 1 else f"{{n}} {thing}s"
        count = cast(Count, super().__new__(cls, template, n=number))
        count.number, count.thing = number, thing
        return count

    def __getnewargs_ex__(self) -> tuple[tuple[object, ...], dict[str, object]]:
        return (self.number, self.thing), {}

    def translated(self) -> str:
        return tr_plural(f"{{n}} {self.thing}", f"{{n}} {self.thing}s", self.number)


_SEPARATORS = marked("; "), marked(", ")


class _Joined(Message):
    """Several messages in a row."""

    texts: Sequence[str]
    separator: str

    def __new__(cls, texts: Sequence[str], separator: str) -> _Joined:
        message = cast(_Joined, super().__new__(cls, separator.join(texts)))
        message.texts, message.separator = texts, separator
        return message

    def __getnewargs_ex__(self) -> tuple[tuple[object, ...], dict[str, object]]:
        return (self.texts, self.separator), {}

    def translated(self) -> str:
        return tr(self.separator).join(map(shown, self.texts))


def joined(texts: Sequence[str], separator: str = "; ") -> Message:
    """One message of several, separated by semicolons or as given."""
    return _Joined(texts, separator)


def error_text(error: BaseException) -> str:
    """Text of an error; a `Message` stays one."""
    first = next(iter(error.args), None)
    return first if isinstance(first, Message) else str(error)


def shown(text: object) -> str:
    """A `Message`, or an error whose text is one, in the operator's language; anything else as it is."""
    if isinstance(text, BaseException):
        text = error_text(text)
    return text.translated() if isinstance(text, Message) else str(text)


def width(text: str) -> int:
    """Columns of a terminal that a text takes: Chinese characters take two."""
    return len(text) if text.isascii() else sum(_columns(character) for character in text)


def cut(text: str, columns: int) -> str:
    """The beginning of a text that fits into so many columns."""
    while width(text) > columns:
        text = text[: -max(1, (width(text) - columns) // 2)]
    return text


def pad(text: str, columns: int) -> str:
    """A text with spaces behind it, so many columns wide."""
    return text + " " * max(0, columns - width(text))


def wrap(text: str, columns: int) -> list[str]:
    """Lines of a paragraph, at most so many columns wide; Chinese text breaks between any two characters."""
    if width(text) == len(text):
        return textwrap.wrap(text, columns, break_on_hyphens=False, break_long_words=False)
    lines = [""]
    for piece in _PIECE.findall(" ".join(text.split())):
        if lines[-1] and width((lines[-1] + piece).rstrip()) > columns:
            lines.append("")
        lines[-1] += piece if lines[-1] or not piece.isspace() else ""
    return [line.rstrip() for line in lines]


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
