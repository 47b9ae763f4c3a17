"""Arguments of the episode tools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, cast, ClassVar

import tyro

from aloha_kit.core import cli
from aloha_kit.core.cli import CommandArgs
from aloha_kit.core.lang import marked, Message
from aloha_kit.core.value_checks import at_least
from aloha_kit.episode.bounds import Bounds
from aloha_kit.episode.edit_args import Edit, Labels, Source
from aloha_kit.storage.codec import JpegOrder
from aloha_kit.storage.contract_file import ContractFlags

AllowExternal = Annotated[bool, tyro.conf.arg(help="Also read files whose data lie outside of them.")]
Target = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="TARGET")]]
Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")]


@dataclass(frozen=True)
class ReadingArgs(CommandArgs):
    """Flags of the commands that read episodes and print what they find."""

    source: Source
    """A folder of episodes, or one file."""
    json: bool = False
    """Print JSON for programs."""
    embodiment: tyro.conf.OmitArgPrefixes[ContractFlags] = field(default_factory=ContractFlags)
    allow_external: AllowExternal = False


@dataclass(frozen=True)
class ParallelArgs(ReadingArgs):
    """Flags of the commands whose work on episodes is shared between processes."""

    workers: int = 1
    """Processes that read one episode each."""
    ray: str = ""
    """Address of a Ray cluster that reads them, in place of --workers; its machines have the same files."""

    def __post_init__(self) -> None:
        at_least(1, workers=self.workers)


@dataclass(frozen=True)
class Validate(ParallelArgs):
    """Check episodes: shapes, finite values, time, cameras, actions. Exit status 1 if one has an error."""

    EXAMPLE: ClassVar[str] = "data/sim_transfer_cube"
    MAIN_FLAGS: ClassVar[tuple[str, ...]] = (
        "json",
        "strict",
        "deep",
        "workers",
        "ray",
        "contract",
        "rig",
        "jpeg_order",
        "allow_external",
    )

    strict: bool = False
    """Count warnings as errors."""
    deep: bool = False
    """Read every byte and compare it with the checksums of the file."""
    bounds: Bounds = field(default_factory=Bounds)


@dataclass(frozen=True)
class Recover(CommandArgs):
    """Turn the journals of interrupted recordings into episodes. Exit status 1 if one could not be."""

    EXAMPLE: ClassVar[str] = "data/sim_transfer_cube"

    source: Source
    """A folder, or one episode_<i>.hdf5.partial."""
    json: bool = False
    """Print JSON for programs."""


@dataclass(frozen=True)
class Info(ParallelArgs):
    """Show length, cameras, size, success and task of each episode."""

    EXAMPLE: ClassVar[str] = "data/sim_transfer_cube"


@dataclass(frozen=True)
class Stats(ParallelArgs):
    """Mean, standard deviation and range of every dimension over all episodes."""

    EXAMPLE: ClassVar[str] = "data/sim_transfer_cube"


@dataclass(frozen=True)
class Export(CommandArgs):
    """Copy episodes: a part of them, or for the readers of other repositories. Sources are not changed.

    ACT reads what `--classic --raw` writes, ACT++ and Mobile ALOHA `--classic --mobile_aloha`, Cobot Magic
    `--classic --raw`.
    """

    EXAMPLE: ClassVar[str] = "data/sim_transfer_cube for_act --classic --raw"

    source: Source
    """A folder of episodes, or one file."""
    target: Target
    """The folder to copy into; created if missing, nothing in it is overwritten."""
    classic: bool = False
    """As many observations as actions (the last one dropped): for the data loader and the statistics of ACT, ACT++ and
    Cobot Magic."""
    raw: bool = False
    """Decode images into raw pixels: for ACT's and Cobot Magic's readers, which do not support JPEG."""
    jpeg: JpegOrder | None = None
    """Write all images as JPEG: standard, ordinary ones for any viewer, or mobile_aloha, red and blue exchanged, for
    Mobile ALOHA's and ACT++'s readers. Images that are so already are copied byte for byte."""
    mobile_aloha: bool = False
    """The same as --jpeg mobile_aloha, where the source has encoded images."""
    start: int = 0
    """The first action to keep."""
    stop: int | None = None
    """The first action after the copied ones; by default all are copied to the end."""
    embodiment: tyro.conf.OmitArgPrefixes[ContractFlags] = field(default_factory=ContractFlags)
    allow_external: AllowExternal = False

    def __post_init__(self) -> None:
        if self.raw and self.jpeg:
            raise ValueError(Message("--raw and --jpeg {jpeg} exclude each other; give one of them", jpeg=self.jpeg))


@dataclass(frozen=True)
class Adopt(CommandArgs):
    """Describe episodes whose files do not record their joints: writes contract.yaml and task.yaml beside them.

    Prints the measured ranges, prompts on a terminal for what the flags leave open, and ends with the next commands.
    """

    EXAMPLE: ClassVar[str] = "data/old --rig aloha --rate_hz 50"

    source: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DIR")]]
    """The folder of episodes."""
    rig: str | None = None
    """The rig they are of: a name in configs/rigs, or YAML. Gives the names, and the units unless they are given."""
    names: Names = ()
    """Names of the state's entries in order; or one name per arm (left right), whose joints are then numbered and whose
    last entry is its gripper."""
    action_names: Names = ()
    """Names of the action's entries, a base's included; by default the state's, and a base's velocities."""
    joints_unit: str | None = None
    """Unit of the joints: rad, deg, …"""
    gripper_unit: str | None = None
    """Unit of the grippers: "0 closed, 1 open", m, rad, …"""
    rate_hz: float | None = None
    """Control rate in Hz."""
    task: str | None = None
    """Name of the task."""
    instruction: str | None = None
    """The task in words."""
    output: Path | None = None
    """Where the two files go, if not beside the episodes."""
    overwrite: bool = False
    """Replace a contract.yaml and task.yaml that are there."""

    def __post_init__(self) -> None:
        if self.rig and self.names:
            raise ValueError(Message("--rig {rig} and --names both name the joints; give one of them", rig=self.rig))
        if self.rate_hz is not None and not 0 < self.rate_hz < float("inf"):
            raise ValueError(Message("--rate_hz must be above 0, given {rate_hz:g}", rate_hz=self.rate_hz))


@dataclass(frozen=True)
class Label(CommandArgs):
    """Set success, note, grade or instruction of recorded episodes. What is not given stays as it is.

    Each file is replaced by a labelled copy once that is whole; a damaged one is refused.
    """

    EXAMPLE: ClassVar[str] = "data/sim_transfer_cube/episode_0.hdf5 --success yes --grade 4"

    source: Source
    """A folder of episodes, or one file."""
    labels: tyro.conf.OmitArgPrefixes[Labels] = field(default_factory=Labels)
    allow_external: AllowExternal = False

    def __post_init__(self) -> None:
        if not self.labels.given:
            raise ValueError(Message("nothing to set; give --success, --note, --grade or --instruction"))


Command = Validate | Recover | Info | Stats | Export | Adopt | Label | Edit


def parse(argv: Sequence[str] | None = None) -> Command:
    """Turn flags into values; raises `UsageError`."""
    markers = (tyro.conf.OmitSubcommandPrefixes,)
    command = cli.parse(Command, "episode", argv, description=marked("Look after recorded episodes."), config=markers)
    return cast(Command, command)
