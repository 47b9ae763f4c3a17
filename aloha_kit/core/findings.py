"""Finding: one thing that was checked, how it is, how it should be, and what to do where the two differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "info", "warning", "error"]
MARKS: dict[Level, str] = {"ok": "ok     ", "info": "info   ", "warning": "WARNING", "error": "ERROR  "}


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
        indent = " " * (len(MARKS["ok"]) + width + 4)
        return [
            f"{MARKS[self.level]}  {self.subject:<{width}}  {self.check}: {self.found}",
            f"{indent}expected: {self.expected}",
            f"{indent}to do: {self.remedy}",
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
