"""Arguments of diagnosis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast, ClassVar

from tyro.conf import arg, Positional

from aloha_kit.core import cli
from aloha_kit.core.cli import CommandArgs


@dataclass(frozen=True)
class DiagnoseArgs(CommandArgs):
    """Find why rollouts failed: compare their log and episode with what their policy was trained on.

    Checks late steps, old observations, chunk boundaries, joints and images unlike training, and the safety
    guard's interventions. Writes diagnose.json, and an image beside the episode of each rollout that did not succeed.
    """

    EXAMPLE: ClassVar[str] = "runs/sim_transfer_cube/act/deploy"

    rollouts: Positional[Path]
    """A rollout's episode, or a folder of them."""
    format: str = "auto"
    """Format of the rollouts: hdf5, robomimic, or `my_package.module:Name` of an EpisodeSource; auto finds out."""
    ckpt: Annotated[Path | None, arg(aliases=("--ckpt_dir",))] = None
    """The run or checkpoint whose policy acted, in place of the one that the rollout names."""
    output: Path | None = None
    """Folder for diagnose.json and the images; by default that of the rollouts."""


def parse(argv: Sequence[str] | None = None) -> DiagnoseArgs:
    """Turn flags into values; raises `UsageError`."""
    return cast(DiagnoseArgs, cli.parse(DiagnoseArgs, "diagnose", argv))
