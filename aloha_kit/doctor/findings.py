"""What the doctor says: findings, a verdict, a table for people and JSON for programs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from aloha_kit.core import plural
from aloha_kit.core.findings import Finding, Level, MARKS


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
                lines += finding.lines(width) if finding.level == level else []
        faults, warnings = plural(self.count("fault"), "fault"), plural(self.count("warning"), "warning")
        kind = " (simulated)" if self.simulated else ""
        verdict = f"{'GO' if self.go else 'NO-GO'}: rig '{self.rig}'{kind} for task '{self.task}': {faults}, {warnings}"
        return "\n".join([*lines, "", verdict])
