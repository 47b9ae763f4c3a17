"""Arguments of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, ClassVar

from tyro.conf import Positional

from aloha_kit.core import cli
from aloha_kit.core.cli import CommandArgs


@dataclass(frozen=True)
class ReportArgs(CommandArgs):
    """Write one self-contained HTML page about the episodes, policy, rollouts and replay of a folder."""

    EXAMPLE: ClassVar[str] = "demo"

    folder: Positional[Path]
    """Folder of the results."""
    output: Path | None = None
    """Where the page goes; report.html in the folder when not given."""


def parse(argv: Sequence[str] | None = None) -> ReportArgs:
    """Turn flags into values; raises `UsageError`."""
    return cast(ReportArgs, cli.parse(ReportArgs, "report", argv))
