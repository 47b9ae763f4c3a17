"""Flags of the commands that run a trained policy: deployment, the policy server and evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import arg

from aloha_kit.config.match_checkpoint import renames
from aloha_kit.core.cli import CommandArgs
from aloha_kit.core.lang import marked, Message


@dataclass(frozen=True, kw_only=True)
class PolicyFlags(CommandArgs):
    """Flags of every command that runs a trained policy."""

    LOWEST: ClassVar[Mapping[str, float]] = {}
    """{flag: least value}, of all entries where it has several."""

    device: str | None = None
    """Where the network runs; by default cuda where there is one, else cpu."""
    image_size: Annotated[tuple[int, int] | None, arg(metavar="H W")] = None
    """Height and width of the policy's images, where the checkpoint lacks them (published ACT)."""
    cameras: Annotated[tuple[str, ...] | None, arg(metavar="NAME ...")] = None
    """Cameras that the policy reads, in its training's order, where the checkpoint lacks them (published ACT); by
    default the task's."""
    goal: Annotated[str | None, arg(metavar="PLACE[:EPISODE][@STEP]")] = None
    """Goal observation of a policy that reads one (goal_mode): a step of a recorded episode of any format, by default
    its last. Of a place with several episodes, EPISODE is one, from 0."""
    rig: str | None = None
    """The rig (name or YAML) whose joints the policy's numbers are, where the checkpoint lacks their names and units
    (LeRobot)."""
    contract: Path | None = None
    """Names, units and rate of the policy's numbers, in place of --rig: a YAML file, as `episode adopt` writes it."""
    instruction: str | None = None
    """Instruction of a policy that reads one (text_encoder), in place of the task's."""
    rename: Annotated[tuple[str, ...], arg(metavar="POLICY=RIG ...")] = ()
    """Cameras that the rig names otherwise than the policy, such as top=cam_high."""

    def saved(self) -> str:
        return marked("what was done is saved")

    def __post_init__(self) -> None:
        for name, lowest in {"image_size": 1, **self.LOWEST}.items():
            given = getattr(self, name)
            values = given if isinstance(given, tuple) else (given,)
            if given is not None and min(values) < lowest:
                raise ValueError(
                    Message(
                        "--{name} must be at least {lowest}, given {values}",
                        name=name,
                        lowest=lowest,
                        values=" ".join(map(str, values)),
                    )
                )
        renames(self.rename)
