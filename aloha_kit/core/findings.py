"""Finding: one thing that was checked, how it is, how it should be, and what to do where the two differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "error"]
MARKS: dict[Level, str] = {"ok": "ok     ", "warning": "WARNING", "error": "ERROR  "}


@dataclass(frozen=True)
class Finding:
    """One thing looked at: how it is, how it should be, and what to do where the two differ."""

    level: Level
    check: str  # "rate", "stamps", "image", …
    subject: str  # the stream, joint, arm, bus or folder
    found: str
    expected: str = ""
    remedy: str = ""

    def lines(self, width: int) -> list[str]:
        """For people, subjects filled up to `width`."""
        indent = " " * (len(MARKS["ok"]) + width + 4)
        return [
            f"{MARKS[self.level]}  {self.subject:<{width}}  {self.check}: {self.found}",
            f"{indent}expected: {self.expected}",
            f"{indent}to do: {self.remedy}",
        ]


@dataclass(frozen=True)
class About:
    """What is being looked at; its methods say what was found there."""

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
    """Those that are not ok."""
    return [finding for finding in findings if finding.level != "ok"]
