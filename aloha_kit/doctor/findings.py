"""What the doctor says: findings, a verdict, a table for people and JSON for programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["ok", "warning", "fault"]
MARKS: dict[Level, str] = {"ok": "ok     ", "warning": "WARNING", "fault": "FAULT  "}


@dataclass(frozen=True)
class Finding:
    """One thing looked at: how it is, how it should be, and what to do where the two differ."""

    level: Level
    check: str  # "rate", "stamps", "picture", …
    subject: str  # the stream, arm, bus or folder
    found: str
    expected: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class About:
    """What is being looked at; its methods say what was found there."""

    check: str
    subject: str

    def ok(self, found: str) -> Finding:
        return Finding("ok", self.check, self.subject, found)

    def warning(self, found: str, expected: str, remedy: str) -> Finding:
        return Finding("warning", self.check, self.subject, found, expected, remedy)

    def fault(self, found: str, expected: str, remedy: str) -> Finding:
        return Finding("fault", self.check, self.subject, found, expected, remedy)

    def graded(self, value: float, limits: tuple[float, float], found: str, expected: str, remedy: str) -> Finding:
        """A warning from the first limit on, a fault from the second, ok below."""
        if value < limits[0]:
            return self.ok(found)
        return (self.fault if value >= limits[1] else self.warning)(found, expected, remedy)


def troubles(*findings: Finding) -> list[Finding]:
    """Those that are not ok."""
    return [finding for finding in findings if finding.level != "ok"]


@dataclass(frozen=True)
class Report:
    """All findings about one rig."""

    task: str
    rig: str
    simulated: bool
    findings: tuple[Finding, ...]

    @property
    def go(self) -> bool:
        """Whether nothing forbids recording: warnings do not."""
        return not any(finding.level == "fault" for finding in self.findings)

    def count(self, level: Level) -> int:
        return sum(finding.level == level for finding in self.findings)

    def to_mapping(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "verdict": "go" if self.go else "no-go",
            "task": self.task,
            "rig": self.rig,
            "simulated": self.simulated,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
        }

    def text(self) -> str:
        """A line each, faults last so that they end up above the prompt; then the verdict."""
        width = max((len(finding.subject) for finding in self.findings), default=0)
        lines = [line for finding in _worst_last(self.findings) for line in _lines(finding, width)]
        faults, warnings = self.count("fault"), self.count("warning")
        counts = f"{faults} fault{'s' * (faults != 1)}, {warnings} warning{'s' * (warnings != 1)}"
        kind = " (simulated)" if self.simulated else ""
        verdict = f"{'GO' if self.go else 'NO-GO'}: rig '{self.rig}'{kind} for task '{self.task}': {counts}"
        return "\n".join([*lines, "", verdict])


def _worst_last(findings: Iterable[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: list(MARKS).index(finding.level))


def _lines(finding: Finding, width: int) -> list[str]:
    lines = [f"{MARKS[finding.level]}  {finding.check:<9} {finding.subject:<{width}}  {finding.found}"]
    indent = " " * (len(MARKS["ok"]) + 13)
    if finding.expected:
        lines.append(f"{indent} {'':<{width}}  expected: {finding.expected}")
    if finding.remedy:
        lines.append(f"{indent} {'':<{width}}  to do: {finding.remedy}")
    return lines
