"""Arguments of the checkpoint commands: info and export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast, ClassVar

from tyro.conf import arg, OmitSubcommandPrefixes, Positional

from aloha_kit.core import cli
from aloha_kit.core.cli import CommandArgs
from aloha_kit.core.lang import marked


@dataclass(frozen=True)
class Info(CommandArgs):
    """Describe a checkpoint: its family, sizes, cameras and rate, as far as it records them."""

    EXAMPLE: ClassVar[str] = "runs/sim_transfer_cube/act"

    ckpt: Positional[Path]
    """A run (its best checkpoint is taken), a checkpoint folder, or a published policy_best.ckpt."""


@dataclass(frozen=True)
class Export(CommandArgs):
    """Write policy_best.ckpt and dataset_stats.pkl of a checkpoint, for the published ACT's imitate_episodes.py.

    Only what its classes can express; anything else is refused, naming what differs.
    """

    EXAMPLE: ClassVar[str] = "runs/sim_transfer_cube/act published"

    ckpt: Positional[Path]
    """A run (its best checkpoint is taken) or a checkpoint folder."""
    folder: Positional[Path]
    """Where the two files go; made if missing, nothing in it is replaced."""
    cameras: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = ()
    """Order of the cameras in the script's camera_names; by name when not given."""


def parse(argv: Sequence[str] | None = None) -> Info | Export:
    """Turn flags into values; raises `UsageError`."""
    description = marked("Describe checkpoints, and write them for the published ACT.")
    command = cli.parse(Info | Export, "policies", argv, description=description, config=(OmitSubcommandPrefixes,))
    return cast(Info | Export, command)
