"""The command line of a reproduction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from tyro.conf import Positional

from aloha_kit.core import ConfigError
from aloha_kit.reproduce.stages import SEEDS_APART


@dataclass(frozen=True)
class ReproduceArgs:
    """Make a published result of ACT again: record demonstrations, train, evaluate, write a table.

    Every stage is a command that works by itself, and is printed. Interrupted or run again, it goes on where it
    stopped: what is done is not done again, and further seeds can be added.
    """

    task: Positional[Literal["transfer_cube", "insertion"]]
    """Hand a cube from one arm to the other, or put a peg into a socket in the air."""
    preset: str = "cpu"
    """A name in configs/reproduce, or a YAML path: paper (as published, on a GPU), fast (one GPU, minutes), cpu."""
    seeds: tuple[int, ...] = (0,)
    """Training seeds. All learn from the same demonstrations; each is evaluated on starts of its own."""
    num_rollouts: int = 200
    """Rollouts of each seed's policy."""
    output: Path | None = None
    """Folder of everything that is made; runs/reproduce/TASK_PRESET when not given."""
    device: str | None = None
    """Where networks run, in place of the preset's: cpu, cuda, cuda:1."""
    force: bool = False
    """Run a preset that is meant for a GPU also without one, however long that takes."""
    dry_run: bool = False
    """Only print the commands, and which of them are done."""
    update_readme: bool = False
    """When all is done, keep the result in train/results and renew the table of train/README.md (in a checkout)."""

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"--seeds must be distinct numbers from 0 on, given {' '.join(map(str, self.seeds))}")
        if not 1 <= self.num_rollouts <= SEEDS_APART:
            raise ValueError(f"--num_rollouts must be 1 to {SEEDS_APART}, given {self.num_rollouts}")


def parse(argv: Sequence[str] | None = None) -> ReproduceArgs:
    """Flags to values; `--help` and mistakes end the process as usual, naming the nearest flag.

    Raises:
        ConfigError: a value that cannot be.
    """
    try:
        return tyro.cli(ReproduceArgs, prog="python -m aloha_kit.reproduce", args=argv, use_underscores=True)
    except ValueError as error:
        raise ConfigError(str(error)) from error
