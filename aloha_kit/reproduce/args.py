"""Command line of a reproduction."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast, ClassVar, Literal

from tyro.conf import Positional, Suppress

from aloha_kit.core import cli
from aloha_kit.core.cli import CommandArgs
from aloha_kit.core.lang import Message
from aloha_kit.reproduce.stages import SEEDS_APART


@dataclass(frozen=True)
class ReproduceArgs(CommandArgs):
    """Reproduce a published result: record demonstrations, train, evaluate, write a table.

    Every stage is a command that works by itself, and is printed. Interrupted or run again, it goes on where it
    stopped: finished stages are not repeated, and further seeds can be added.
    """

    EXAMPLE: ClassVar[str] = "transfer_cube --preset cpu --num_rollouts 50"

    task: Positional[
        Literal[
            "transfer_cube",
            "insertion",
            "insertion_human",
            "pusht_keypoints",
            "pusht_state",
            "pusht_image",
            "lift",
            "lift_image",
        ]
    ]
    """Hand a cube from one arm to the other, put a peg into a socket in the air (also from human-like demonstrations),
    push a T-shaped block, or lift a cube (robosuite's, in the environment of `make robosuite`)."""
    preset: str = "cpu"
    """A name in configs/reproduce, or a YAML path: paper (as published, on a GPU), fast (one GPU, minutes), cpu,
    cpu_quick (two cores, minutes), cpu_ten (ten demonstrations); for Push-T pusht_bc, pusht_mip, … (a policy each), for
    Lift lift_bc_rnn and lift_diffusion."""
    seeds: tuple[int, ...] = (0,)
    """Training seeds. All train on the same demonstrations; each is evaluated on its own start states."""
    num_rollouts: int = 200
    """Rollouts of each seed's policy."""
    episodes: Path | None = None
    """Demonstrations recorded before, which several presets may share: validated and used where they are, in place of
    recording. They must be what the preset records; their time is not part of the result."""
    output: Path | None = None
    """Folder of all files; runs/reproduce/TASK_PRESET when not given."""
    device: str | None = None
    """Device of the networks, in place of the preset's: cpu, cuda, cuda:1."""
    force: bool = False
    """Run a preset for a GPU also without one, however long that takes."""
    dry_run: bool = False
    """Only print the commands, and which of them are done."""
    update_readme: bool = False
    """At the end, save the result in train/results and renew the table of train/README.md (in a checkout)."""

    words: Suppress[tuple[str, ...]] = ()
    """The flags as they were given, to repeat them in a message."""

    def saved(self) -> str:
        again = shlex.join(["python", "-m", "aloha_kit.reproduce", *self.words])
        return f"what is done is saved. Go on with:\n{again}"

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(
                Message(
                    "--seeds must be distinct numbers from 0 on, given {seeds}", seeds=" ".join(map(str, self.seeds))
                )
            )
        if not 1 <= self.num_rollouts <= SEEDS_APART:
            raise ValueError(
                Message(
                    "--num_rollouts must be 1 to {seeds_apart}, given {num_rollouts}",
                    seeds_apart=SEEDS_APART,
                    num_rollouts=self.num_rollouts,
                )
            )


def parse(argv: Sequence[str] | None = None) -> ReproduceArgs:
    """Parse the flags; raises `UsageError`."""
    given = sys.argv[1:] if argv is None else argv
    return replace(cast(ReproduceArgs, cli.parse(ReproduceArgs, "reproduce", given)), words=tuple(given))
