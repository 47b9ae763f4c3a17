"""Finding: one thing that was checked, how it is, how it should be, and what to do where the two differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from aloha_kit.core.lang import marked, pad, shown, tr

Level = Literal["ok", "info", "warning", "error"]
_MARKS: dict[Level, str] = {
    "ok": marked("ok"),
    "info": marked("info"),
    "warning": marked("WARNING"),
    "error": marked("ERROR"),
}


def mark(level: Level) -> str:
    """Mark at the start of a finding's line, seven columns wide."""
    return pad(tr(_MARKS[level]), 7)


@dataclass(frozen=True)
class Finding:
    """One result of a check: how it is, how it should be, and what to do where the two differ.

    Of validated files `found` is the whole message: `subject`, `expected` and `remedy` are empty.
    """

    level: Level
    check: str  # "rate", "stamps", "image", …
    subject: str  # the stream, joint, arm, bus or folder
    found: str
    expected: str = ""
    remedy: str = ""

    def lines(self, width: int) -> list[str]:
        """Text of three lines, the subject padded to `width`."""
        start = f"{mark(self.level)}  {pad(shown(self.subject), width)}  "
        indent = " " * (7 + width + 4)
        return [
            start + tr("{check}: {found}", check=tr(self.check), found=self.found),
            indent + tr("expected: {expected}", expected=self.expected),
            indent + tr("to do: {remedy}", remedy=self.remedy),
        ]


@dataclass(frozen=True)
class About:
    """Maker of findings about one subject."""

    check: str
    subject: str

    def ok(self, found: str) -> Finding:
        return Finding("ok", self.check, self.subject, found)

    def warning(self, found: str, expected: str, remedy: str) -> Finding:
        return Finding("warning", self.check, self.subject, found, expected, remedy)

    def error(self, found: str, expected: str, remedy: str) -> Finding:
        return Finding("error", self.check, self.subject, found, expected, remedy)

    def graded(self, value: float, limits: tuple[float, float], found: str, expected: str, remedy: str) -> Finding:
        """A warning from the first limit on, an error from the second, ok below."""
        if value < limits[0]:
            return self.ok(found)
        return (self.error if value >= limits[1] else self.warning)(found, expected, remedy)


def problems(*findings: Finding) -> list[Finding]:
    """The findings that are not ok."""
    return [finding for finding in findings if finding.level != "ok"]
