"""Arguments of the checkpoint commands: info and export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast, ClassVar, Literal

from tyro.conf import arg, OmitSubcommandPrefixes, Positional

from aloha_kit.core import cli
from aloha_kit.core.cli import CommandArgs
from aloha_kit.core.lang import marked

Format = Literal["published", "lerobot", "onnx"]


@dataclass(frozen=True)
class Info(CommandArgs):
    """Describe a checkpoint: its family, sizes, cameras and rate, as far as it records them."""

    EXAMPLE: ClassVar[str] = "runs/sim_transfer_cube/act"

    ckpt: Positional[Path]
    """A run (its best checkpoint is taken), a checkpoint folder, LeRobot's or a published policy_best.ckpt."""


@dataclass(frozen=True)
class Export(CommandArgs):
    """Write a checkpoint for the programs of others.

    Only what they can express; anything else is refused, naming what differs.
    """

    EXAMPLE: ClassVar[str] = "runs/sim_transfer_cube/act published"

    ckpt: Positional[Path]
    """A run (its best checkpoint is taken), a checkpoint folder, or LeRobot's."""
    output: Positional[Path]
    """What is written: a folder, made if missing, or a file (onnx). Nothing is replaced."""
    format: Format = "published"
    """published: policy_best.ckpt and dataset_stats.pkl for the published ACT's imitate_episodes.py. lerobot: a folder
    that LeRobot's ACTPolicy loads. onnx: one file for other runtimes, compared with eager fp32 before it gets its
    name."""
    cameras: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = ()
    """Order of the cameras in the published script's camera_names; by name when not given."""


def parse(argv: Sequence[str] | None = None) -> Info | Export:
    """Turn flags into values; raises `UsageError`."""
    description = marked("Describe checkpoints, and write them for the programs of others.")
    command = cli.parse(Info | Export, "policies", argv, description=description, config=(OmitSubcommandPrefixes,))
    return cast(Info | Export, command)
