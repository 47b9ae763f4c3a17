"""Arguments of the conversion of data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, cast, ClassVar, Literal

import tyro

from aloha_kit.core import cli
from aloha_kit.core.cli import CommandArgs
from aloha_kit.core.errors import command
from aloha_kit.core.lang import Message
from aloha_kit.core.value_checks import at_least
from aloha_kit.storage.contract_file import ContractFlags


@dataclass(frozen=True)
class ConvertArgs(CommandArgs):
    """Write the episodes of a data set in another format, and report what was carried and what was not.

    Episodes are read and written one image at a time by several processes. An interrupted conversion goes on when the
    same command is run again. TO appears when it is complete; an existing one is never written into.
    """

    EXAMPLE: ClassVar[str] = "data/sim_transfer_cube data/for_act --format act"
    MAIN_FLAGS: ClassVar[tuple[str, ...]] = ("from_format", "workers", "skip_damaged", "contract", "rig", "task")

    source: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="FROM")]]
    """The data set: a folder or a file."""
    target: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="TO")]]
    """The folder to write."""
    format: str = "hdf5"
    """Format to write: a name of the table in docs/formats.md, or my_package.module:Name."""
    from_format: str = "auto"
    """Format of the source: a name of the same table, or my_package.module:Name. auto: by its files."""
    workers: int = 1
    """Processes that convert one episode each."""
    ray: str = ""
    """Address of a Ray cluster that converts, in place of --workers; FROM and TO are on a disk they share."""
    task: str | None = None
    """ROS bags: the task (name or YAML) that gives rate, cameras and instruction; its rig too, without --rig."""
    num_episodes: int | None = None
    """Convert only so many episodes, the first ones."""
    curation: str = "auto"
    """Edits of the episodes: auto, those of the curation.yaml beside them; none, as they are recorded; or a file."""
    skip_damaged: bool = False
    """Leave out episodes that cannot be read, in place of stopping after the others."""
    images: Literal["jpeg", "raw"] | None = None
    """HDF5: how images are stored that are not JPEG already; jpeg by default."""
    codec: Literal["h264", "av1"] | None = None
    """Video: the codec; h264 by default."""
    crf: int | None = None
    """Video: quality on the codec's scale, lower is better."""
    quality: int | None = None
    """Shards: JPEG quality, 1 to 100, of images that are all encoded anew; by default JPEG is copied, others get 95."""
    json: bool = False
    """Print the whole report as JSON."""
    embodiment: tyro.conf.OmitArgPrefixes[ContractFlags] = field(default_factory=ContractFlags)

    def __post_init__(self) -> None:
        if self.target.parts[:1] and self.target.parts[0].endswith(":"):  # what pathlib makes of a URL's scheme
            raise ValueError(
                Message(
                    "TO is a folder, given a URL: write to a folder, then send it with `{command}`",
                    command=command("data", "push", "FOLDER", "URL"),
                )
            )
        at_least(1, workers=self.workers, num_episodes=self.num_episodes)
        if self.crf is not None and not 0 <= self.crf <= 63:
            raise ValueError(Message("--crf must be 0 to 63, given {crf}", crf=self.crf))
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ValueError(Message("--quality must be 1 to 100, given {quality}", quality=self.quality))

    def saved(self) -> str:
        return "finished episodes stay; the same command goes on with the others"


def parse(argv: Sequence[str] | None = None) -> ConvertArgs:
    """Turn flags into values; raises `UsageError`."""
    return cast(ConvertArgs, cli.parse(ConvertArgs, "convert", argv))
