"""Arguments of the examination of a rig."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast, ClassVar

from tyro.conf import arg

from aloha_kit.core import cli
from aloha_kit.core.cli import CommandArgs
from aloha_kit.core.value_checks import at_least


@dataclass(frozen=True, kw_only=True)
class DoctorArgs(CommandArgs):
    """Check that a rig is fit to record and deploy a task: every stream, motor, bus and disk; nothing moves.

    Exit status 0 is GO, 1 is NO-GO.
    """

    EXAMPLE: ClassVar[str] = "--task aloha_transfer_cube"

    task: Annotated[str | None, arg(aliases=("--task_name",))] = None
    """Task: a name in configs/tasks or a YAML path; by default that of the simulated rig or recorder that runs, else
    aloha_transfer_cube."""
    rig: str | None = None
    """Rig, in place of the task's: a name in configs/rigs or a YAML path."""
    seconds: float = 5.0
    """Seconds of every stream that are measured."""
    reference: Path | None = None
    """Folder of reference images that the cameras are recognised by."""
    save_reference: Path | None = None
    """Folder to save the present images in as references."""
    dataset_dir: Path | None = None
    """Where episodes go, in place of the task's folder."""
    json: bool = False
    """Print JSON instead of a table."""

    def __post_init__(self) -> None:
        at_least(1, seconds=self.seconds)


def parse(argv: Sequence[str] | None = None) -> DoctorArgs:
    """Turn flags into values; raises `UsageError`."""
    return cast(DoctorArgs, cli.parse(DoctorArgs, "doctor", argv))
