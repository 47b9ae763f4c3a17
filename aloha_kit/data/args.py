"""Arguments of the commands for published data sets."""

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
    """List the published data sets: size, licence, checksum and address."""

    EXAMPLE: ClassVar[str] = "--json"

    json: bool = False
    """Print JSON for programs."""


def parse(argv: Sequence[str] | None = None) -> Fetch | Ls:
    """Turn flags into values; raises `UsageError`."""
    description = marked("Download published data sets.")
    command = cli.parse(Fetch | Ls, "data", argv, description=description, config=(OmitSubcommandPrefixes,))
    return cast(Fetch | Ls, command)
