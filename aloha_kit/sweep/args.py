"""Command line of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast, ClassVar

import tyro
from tyro.conf import Positional

from aloha_kit.core import cli
from aloha_kit.core.cli import CommandArgs
from aloha_kit.core.lang import marked, Message
from aloha_kit.core.ray_cluster import LOCAL


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
    ray: Annotated[str | None, tyro.conf.arg(metavar="[ADDRESS]")] = None
    """Train on Ray Tune, several runs at a time: on this machine, or on the cluster at ADDRESS (HOST:PORT, or auto for
    the one that runs here), whose nodes share this folder and its paths."""
    cpus: float = 1.0
    """With --ray: CPUs that each run takes."""
    gpus: float = 0.0
    """With --ray: GPUs that each run takes; 0.5 lets two runs share one."""
    slurm: bool = False
    """Write a script for a Slurm job array, one job a run, in place of training here."""

    def __post_init__(self) -> None:
        if self.slurm and self.ray is not None:
            raise ValueError(Message("give --slurm or --ray, not both"))
        if not (self.cpus > 0 and self.gpus >= 0):
            raise ValueError(
                Message(
                    "--cpus must be above 0 and --gpus at least 0, given {cpus} and {gpus}",
                    cpus=f"{self.cpus:g}",
                    gpus=f"{self.gpus:g}",
                )
            )

    def saved(self) -> str:
        return marked("what was done is saved")


def parse(argv: Sequence[str] | None = None) -> SweepArgs:
    """Parse the flags; raises `UsageError`."""
    return cast(SweepArgs, cli.parse(SweepArgs, "sweep", cli.with_value(argv, LOCAL, "--ray")))
