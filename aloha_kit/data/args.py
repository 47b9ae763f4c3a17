"""Arguments of the commands for data sets: published ones, manifests, and stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, cast, ClassVar

from tyro.conf import arg, OmitArgPrefixes, OmitSubcommandPrefixes, Positional

from aloha_kit.core import cli
from aloha_kit.core.cli import CommandArgs
from aloha_kit.core.lang import marked, Message
from aloha_kit.core.value_checks import at_least
from aloha_kit.storage.contract_file import ContractFlags

Url = Positional[Annotated[str, arg(metavar="URL")]]
Folder = Positional[Annotated[Path, arg(metavar="DIR")]]


@dataclass(frozen=True)
class Fetch(CommandArgs):
    """Download a published data set and verify it. An interrupted download goes on when the command is run again."""

    EXAMPLE: ClassVar[str] = "lift_ph"

    name: Positional[Annotated[str, arg(metavar="NAME")]]
    """The data set: a name that `ls` lists."""
    folder: Annotated[Path | None, arg(metavar="DIR")] = None
    """Where its files go; data/NAME by default."""
    mirror: str = ""
    """Host in place of the published one, such as https://my.mirror; the rest of the address stays."""

    def saved(self) -> str:
        return marked("what was downloaded is kept; the same command goes on")


@dataclass(frozen=True)
class Ls(CommandArgs):
    """List the episodes of a manifest, the files of a store, or the published data sets."""

    EXAMPLE: ClassVar[str] = "data/manifest.parquet --where success"

    place: Positional[Annotated[str, arg(metavar="PLACE")]] = ""
    """A manifest, or a store such as s3://bucket/folder; the published data sets where it is left out."""
    json: bool = False
    """Print JSON for programs."""
    where: str = ""
    """Episodes of a manifest: those for which this expression of its columns holds, as pandas evaluates it."""
    output: Annotated[Path | None, arg(aliases=("-o",), metavar="FILE")] = None
    """Write the episodes that are listed as a manifest of their own."""

    def __post_init__(self) -> None:
        if (self.where or self.output) and not self.place.endswith(".parquet"):
            raise ValueError(
                Message("--where and --output are for a manifest (.parquet), given '{place}'", place=self.place)
            )


@dataclass(frozen=True)
class Manifest(CommandArgs):
    """List data sets in one Parquet file, a row an episode. Run again, only what changed is read."""

    EXAMPLE: ClassVar[str] = "data/sim_transfer_cube -o data/manifest.parquet"
    MAIN_FLAGS: ClassVar[tuple[str, ...]] = ("output", "validate", "skip_sha256", "workers", "ray", "contract", "rig")

    places: Positional[Annotated[tuple[Path, ...], arg(metavar="DIR")]]
    """The data sets: folders or files of any format that is read here."""
    output: Annotated[Path, arg(aliases=("-o",), metavar="FILE")]
    """The manifest; one that is there is brought up to date. `push` sends manifest.parquet of a data set's folder."""
    validate: bool = False
    """Validate HDF5 episodes, for the column verdict."""
    skip_sha256: bool = False
    """Do not read files whole for their SHA-256, which `push` then does."""
    workers: int = 1
    """Processes that read one episode each."""
    ray: str = ""
    """Address of a Ray cluster that reads them, in place of --workers; its machines have the same files."""
    embodiment: OmitArgPrefixes[ContractFlags] = field(default_factory=ContractFlags)

    def __post_init__(self) -> None:
        at_least(1, workers=self.workers)
        if self.output.suffix != ".parquet":
            raise ValueError(Message("--output must end with .parquet, given {output}", output=self.output))
        if not self.places:
            raise ValueError(Message("give the folders of data sets"))

    def saved(self) -> str:
        return marked("what was read is kept; the same command goes on")


@dataclass(frozen=True, kw_only=True)
class _Transfer(CommandArgs):
    """Flags of the commands that transfer files."""

    jobs: int = 8
    """Files that are transferred at the same time."""

    def __post_init__(self) -> None:
        at_least(1, jobs=self.jobs)

    def saved(self) -> str:
        return marked("what was transferred is kept; the same command goes on")


@dataclass(frozen=True)
class Push(_Transfer):
    """Send a data set to a store. Nothing in the store is replaced. Run again, an interrupted transfer goes on."""

    EXAMPLE: ClassVar[str] = "data/sim_transfer_cube s3://robots/cube"

    folder: Folder
    """The data set's folder."""
    url: Url
    """The store: s3://bucket/folder, sftp://host/folder, file:///mnt/share/folder, or another URL of fsspec."""
    check: bool = False
    """Read each file back once it is sent, and compare its SHA-256."""


@dataclass(frozen=True)
class Pull(_Transfer):
    """Fetch a data set from a store; each file is verified. Run again, an interrupted transfer goes on."""

    EXAMPLE: ClassVar[str] = "s3://robots/cube data/cube"

    url: Url
    """The store that `push` sent it to."""
    folder: Folder
    """The folder that it goes to. A file that is there with another content is not replaced."""
    check: bool = False
    """Read files that are there already and compare their SHA-256, too."""
    where: str = ""
    """Leave out the files of episodes for which this expression of the manifest's columns does not hold."""


Command = Fetch | Ls | Manifest | Push | Pull


def parse(argv: Sequence[str] | None = None) -> Command:
    """Turn flags into values; raises `UsageError`."""
    description = marked("Download published data sets, list episodes in manifests, and keep them in stores.")
    command = cli.parse(Command, "data", argv, description=description, config=(OmitSubcommandPrefixes,))
    return cast(Command, command)
