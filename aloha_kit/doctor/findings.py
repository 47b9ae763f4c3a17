"""What the doctor says: findings, a verdict, a table for people and JSON for programs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from aloha_kit.core import counted

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
        """What is well, a line a subject; then warnings; then faults, nearest to the prompt; then the verdict."""
        width = max((len(finding.subject) for finding in self.findings), default=0)
        fine: dict[str, list[str]] = {}
        for finding in self.findings:
            if finding.level == "ok":
                fine.setdefault(finding.subject, []).append(finding.found)
        lines = [f"{MARKS['ok']}  {subject:<{width}}  {'; '.join(found)}" for subject, found in fine.items()]
        for level in ("warning", "fault"):
            for finding in self.findings:
                lines += _lines(finding, width) if finding.level == level else []
        faults, warnings = counted(self.count("fault"), "fault"), counted(self.count("warning"), "warning")
        kind = " (simulated)" if self.simulated else ""
        verdict = f"{'GO' if self.go else 'NO-GO'}: rig '{self.rig}'{kind} for task '{self.task}': {faults}, {warnings}"
        return "\n".join([*lines, "", verdict])


def _lines(finding: Finding, width: int) -> list[str]:
    indent = " " * (len(MARKS["ok"]) + width + 4)
    return [
        f"{MARKS[finding.level]}  {finding.subject:<{width}}  {finding.check}: {finding.found}",
        f"{indent}expected: {finding.expected}",
        f"{indent}to do: {finding.remedy}",
    ]
