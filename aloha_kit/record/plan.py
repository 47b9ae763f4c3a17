"""What a session on a rig is to record, and what it came to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aloha_kit.config import RigConfig, TaskConfig
from aloha_kit.core import plural
from aloha_kit.record.take import Verdict
from aloha_kit.storage import recovery


@dataclass(frozen=True)
class Plan:
    """What is recorded, and where to."""

    task: TaskConfig
    rig: RigConfig
    folder: Path
    wanted: int  # good episodes in the folder
    seed: int = 0  # of the first episode on a simulated rig; later ones count up and leave out what is there
    images: Literal["jpeg", "raw"] = "jpeg"
    quality: int = 95
    auto: bool = False  # begin without being told


@dataclass(frozen=True)
class SessionResult:
    """What a session came to."""

    folder: Path
    present: int  # good episodes in the folder now
    wanted: int
    verdicts: tuple[Verdict, ...]  # of this session's takes, in their order
    interrupted: str = ""  # by which signal; empty if it was not
    fault: str = ""  # why it had to end; empty when it did not have to

    def text(self) -> str:
        """A few lines for people."""
        lines = [f"{self.present} of {plural(self.wanted, 'episode')} in {self.folder}"]
        counts = {verdict: self.verdicts.count(verdict) for verdict in dict.fromkeys(self.verdicts)}
        if counts:
            lines.append("this time: " + ", ".join(f"{number} {verdict}" for verdict, number in counts.items()))
        if self.present < self.wanted:
            lines.append("the same command goes on from here")
        if hint := recovery.hint(self.folder):
            lines.append(hint)
        return "\n".join(lines)
