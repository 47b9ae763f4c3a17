"""Arguments of teleoperation and parking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, cast, ClassVar

from tyro.conf import arg

from aloha_kit.core import cli
from aloha_kit.core.cli import CommandArgs
from aloha_kit.core.lang import Message


@dataclass(frozen=True, kw_only=True)
class TeleopArgs(CommandArgs):
    """Let the leaders move the followers, without recording; Ctrl-C ends it: the followers stay and the leaders lock.

    With --park the followers move to their rest pose instead.
    """

    EXAMPLE: ClassVar[str] = "--task aloha_transfer_cube"

    task: Annotated[str | None, arg(aliases=("--task_name",))] = None
    """Task, for its rig and control rate: a name in configs/tasks or a YAML path; by default that of the simulated rig
    or recorder that runs, else aloha_transfer_cube."""
    rig: str | None = None
    """Rig, in place of the task's: a name in configs/rigs or a YAML path."""
    countdown_s: float = 2.0
    """Seconds between closing the leader grippers and the release of the leaders."""
    park: bool = False
    """Move the followers slowly to their rest pose."""
    park_s: float = 4.0
    """Seconds of each of the two moves to it."""
    view: Annotated[str | None, arg(metavar="[HOST:PORT]")] = None
    """Show cameras, joints, limits and skew while it runs: on this screen, or at HOST:PORT where `rerun` runs; NAME.rrd
    writes them into files."""
    release: bool = False
    """With --park: switch the torque off once they have arrived."""

    def saved(self) -> str:
        return "the followers hold"

    def __post_init__(self) -> None:
        if self.release and not self.park:
            raise ValueError(Message("--release goes with --park: arms that are not parked would fall"))
        if self.countdown_s < 0 or not self.park_s > 0:
            raise ValueError(
                Message(
                    "need --countdown_s ≥ 0 and --park_s > 0, given {countdown_s:g} and {park_s:g}",
                    countdown_s=self.countdown_s,
                    park_s=self.park_s,
                )
            )


def parse(argv: Sequence[str] | None = None) -> TeleopArgs:
    """Turn flags into values; raises `UsageError`."""
    return cast(TeleopArgs, cli.parse(TeleopArgs, "teleop", cli.with_value(argv, "screen", "--view")))
