"""Command line of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, ClassVar

from tyro.conf import Positional

from aloha_kit.core import cli
from aloha_kit.core.cli import CommandArgs
from aloha_kit.core.lang import marked


@dataclass(frozen=True)
class SweepArgs(CommandArgs):
    """Train with every combination of values from one file, and compare the runs in one table.

    The file has two keys: `flags`, those of every training, and `grid`, a list of values for each flag that varies (or
    several such grids). Interrupted or run again, runs that are done are skipped and the others go on.
    """

    EXAMPLE: ClassVar[str] = "grid.yaml --dry_run"

    grid: Positional[Path]
    """YAML file of the grid."""
    output: Path | None = None
    """Folder of all runs and of the table; runs/sweep/NAME_OF_THE_FILE when not given."""
    dry_run: bool = False
    """Only list the runs, their commands, and which of them are done."""
    only: tuple[int, ...] | None = None
    """Numbers of the runs to train, as listed; all when not given."""
    slurm: bool = False
    """Write a script for a Slurm job array, one job a run, in place of training here."""

    def saved(self) -> str:
        return marked("what was done is saved")


def parse(argv: Sequence[str] | None = None) -> SweepArgs:
    """Parse the flags; raises `UsageError`."""
    return cast(SweepArgs, cli.parse(SweepArgs, "sweep", argv))
