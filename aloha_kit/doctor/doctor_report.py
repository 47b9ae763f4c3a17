"""Report of an examination: findings, GO or NO-GO, a table for people and JSON for programs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from aloha_kit.core.findings import Finding, Level, mark
from aloha_kit.core.lang import marked, pad, tr, tr_plural, width


@dataclass(frozen=True)
class DoctorReport:
    """All findings about one rig."""

    task: str
    rig: str
    simulated: bool
    findings: tuple[Finding, ...]

    @property
    def go(self) -> bool:
        """Whether nothing forbids recording: warnings do not."""
        return not any(finding.level == "error" for finding in self.findings)

    def count(self, level: Level) -> int:
        return sum(finding.level == level for finding in self.findings)

    def to_mapping(self) -> dict[str, Any]:
        """Mapping for JSON."""
        return {
            "verdict": "GO" if self.go else "NO-GO",
            "task": self.task,
            "rig": self.rig,
            "simulated": self.simulated,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
        }

    def text(self) -> str:
        """Lines for people: what is ok, by subject; warnings; errors, nearest to the prompt; GO or NO-GO."""
        columns = max((width(finding.subject) for finding in self.findings), default=0)
        fine: dict[str, list[str]] = {}
        for finding in self.findings:
            if finding.level == "ok":
                fine.setdefault(finding.subject, []).append(finding.found)
        lines = [f"{mark('ok')}  {pad(subject, columns)}  {tr('; ').join(found)}" for subject, found in fine.items()]
        for level in ("warning", "error"):
            for finding in self.findings:
                lines += finding.lines(columns) if finding.level == level else []
        verdict = tr(
            marked("{verdict}: rig '{rig}' (simulated) for task '{task}': {errors}, {warnings}")
            if self.simulated
            else marked("{verdict}: rig '{rig}' for task '{task}': {errors}, {warnings}"),
            verdict="GO" if self.go else "NO-GO",
            rig=self.rig,
            task=self.task,
            errors=tr_plural("{n} error", "{n} errors", self.count("error")),
            warnings=tr_plural("{n} warning", "{n} warnings", self.count("warning")),
        )
        return "\n".join([*lines, "", verdict])
