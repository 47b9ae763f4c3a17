"""Arguments of the commands for data sets: published ones, and those in stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast, ClassVar

from tyro.conf import arg, OmitSubcommandPrefixes, Positional

from aloha_kit.core import cli
from aloha_kit.core.cli import CommandArgs
from aloha_kit.core.lang import marked

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
    """List the published data sets (size, licence, checksum and address), or what a store holds."""

    EXAMPLE: ClassVar[str] = "s3://robots/cube"

    place: Positional[Annotated[str, arg(metavar="URL")]] = ""
    """A store, such as s3://bucket/folder; the published data sets where it is left out."""
    json: bool = False
    """Print JSON for programs."""


@dataclass(frozen=True)
class _Transfer(CommandArgs):
    """Flags of the commands that transfer files."""

    def __post_init__(self) -> None:
        if (jobs := getattr(self, "jobs", 1)) < 1:
            raise ValueError(f"--jobs must be at least 1, given {jobs}")

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
    jobs: int = 8
    """Files that are sent at the same time."""
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
    jobs: int = 8
    """Files that are fetched at the same time."""
    check: bool = False
    """Read files that are there already and compare their SHA-256, too."""


Command = Fetch | Ls | Push | Pull


def parse(argv: Sequence[str] | None = None) -> Command:
    """Turn flags into values; raises `UsageError`."""
    description = marked("Download published data sets, and keep data sets in stores.")
    command = cli.parse(Command, "data", argv, description=description, config=(OmitSubcommandPrefixes,))
    return cast(Command, command)
