"""Arguments of the editing tools. Edits are kept in curation.yaml; the episodes stay as they are recorded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from aloha_kit.core.cli import CommandArgs
from aloha_kit.core.lang import Message
from aloha_kit.storage.label import GRADES

Source = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="SOURCE")]]
Episodes = tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="EPISODE")]]
Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="EPISODE ...")]


@dataclass(frozen=True)
class Labels:
    """Labels of episodes."""

    success: Literal["yes", "no", "unknown"] | None = None
    """Whether the episode is a success; unknown removes the label."""
    note: str | None = None
    """Free text; an empty one removes the note."""
    grade: int | None = None
    """From 1, the worst, to 5, the best; 0 removes it."""
    instruction: str | None = None
    """The task in words."""

    def __post_init__(self) -> None:
        if self.grade is not None and self.grade != 0 and self.grade not in GRADES:
            raise ValueError(
                Message(
                    "--grade must be {lowest} to {highest}, or 0 for none, given {grade}",
                    lowest=GRADES[0],
                    highest=GRADES[-1],
                    grade=self.grade,
                )
            )

    @property
    def given(self) -> dict[str, bool | int | str | None]:
        """The labels to write, as `label.label` takes them."""
        found: dict[str, bool | int | str | None] = {}
        if self.success is not None:
            found["success"] = {"yes": True, "no": False, "unknown": None}[self.success]
        names = ("note", "grade", "instruction")
        return found | {name: value or None for name in names if (value := getattr(self, name)) is not None}


@dataclass(frozen=True, kw_only=True)
class CopyArgs(CommandArgs):
    """Flags of the tools that can write a copy."""

    copy: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Write the edited episodes to this new folder, in place of keeping the edit in curation.yaml."""
    format: str | None = None
    """Format of the copy, see docs/formats.md; by default the source's."""
    workers: int = 1
    """Processes that copy one episode each."""

    def __post_init__(self) -> None:
        if self.copy is None and (self.format is not None or self.workers != 1):
            raise ValueError(Message("--format and --workers are for --copy DIR"))


@dataclass(frozen=True, kw_only=True)
class EditArgs(CopyArgs):
    """Flags of the tools that edit one data set."""

    source: Source
    """The data set: a folder or a file of any format."""
    from_format: str = "auto"
    """Format of the data set; auto: by its files."""
    undo: bool = False
    """Take edits of this kind back."""


@dataclass(frozen=True, kw_only=True)
class Merge(CopyArgs):
    """Read several data sets as one; names the differences between them.

    The new folder holds a curation.yaml that names the data sets. They stay where they are.
    """

    EXAMPLE: ClassVar[str] = "data/monday data/tuesday --into data/both"

    sources: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="SOURCE")]]
    """The data sets, at least two."""
    into: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """The new folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.sources) < 2:
            raise ValueError(Message("give at least two data sets to merge, given {count}", count=len(self.sources)))
        if twice := [place for place in self.sources if self.sources.count(place) > 1]:
            raise ValueError(Message("'{twice}' is given twice", twice=twice[0]))
        if (self.into is None) == (self.copy is None):
            raise ValueError(Message("give --into DIR for a folder that names the data sets, or --copy DIR for a copy"))


@dataclass(frozen=True, kw_only=True)
class Split(EditArgs):
    """Choose the episodes for validation, by a fraction or by name. A copy is two data sets, train and val."""

    EXAMPLE: ClassVar[str] = "data/sim_transfer_cube --val_fraction 0.2"

    val_fraction: float | None = None
    """The part of the episodes that is drawn for validation."""
    seed: int = 0
    """Seed of the draw."""
    val: Names = ()
    """The episodes for validation: names, numbers, or ranges such as 10-19."""
    train: Names = ()
    """The episodes to train on; the others are for validation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [self.val_fraction is not None, bool(self.val), bool(self.train)]
        if sum(given) != 1 and not self.undo:
            raise ValueError(Message("give one of --val_fraction, --val and --train"))
        if self.val_fraction is not None and not 0 < self.val_fraction < 1:
            raise ValueError(
                Message(
                    "--val_fraction must be between 0 and 1, given {val_fraction:g}", val_fraction=self.val_fraction
                )
            )


@dataclass(frozen=True, kw_only=True)
class Trim(EditArgs):
    """Leave out steps at the beginning and the end of episodes."""

    EXAMPLE: ClassVar[str] = "data/sim_transfer_cube 3 7 --start 20 --stop 380"

    episodes: Episodes = ()
    """Names, numbers, or ranges such as 10-19; all by default."""
    start: int = 0
    """The first action to keep, by its recorded number."""
    stop: int | None = None
    """The first action after the kept ones."""
    still: bool = False
    """Leave out the steps at both ends in which nothing moves."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.still and (self.start or self.stop is not None):
            raise ValueError(Message("--still finds the steps itself; give it without --start and --stop"))
        if not (self.still or self.undo or self.start or self.stop is not None):
            raise ValueError(Message("nothing to leave out; give --start, --stop or --still"))
        if self.start < 0 or (self.stop is not None and self.stop <= self.start):
            raise ValueError(
                Message(
                    "--start and --stop must be 0 <= start < stop, given {start} and {stop}",
                    start=self.start,
                    stop=self.stop,
                )
            )


@dataclass(frozen=True, kw_only=True)
class Drop(EditArgs):
    """Leave episodes out. Their files stay."""

    EXAMPLE: ClassVar[str] = "data/sim_transfer_cube 3 10-19"

    episodes: Episodes = ()
    """Names, numbers, or ranges such as 10-19."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.episodes and not self.undo:
            raise ValueError(Message("which episodes? Give names, numbers, or ranges such as 10-19"))


@dataclass(frozen=True, kw_only=True)
class Relabel(EditArgs):
    """Set success, note, grade or instruction without changing files; `label` writes them into HDF5 files."""

    EXAMPLE: ClassVar[str] = "data/sim_transfer_cube 3 --success no --note slipped"

    episodes: Episodes = ()
    """Names, numbers, or ranges such as 10-19; all by default."""
    labels: tyro.conf.OmitArgPrefixes[Labels] = Labels()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.labels.given and not self.undo:
            raise ValueError(Message("nothing to set; give --success, --note, --grade or --instruction"))


@dataclass(frozen=True, kw_only=True)
class RenameCamera(EditArgs):
    """Give a camera another name."""

    EXAMPLE: ClassVar[str] = "data/old cam_high top"

    old: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="OLD")]]
    """The camera's present name."""
    new: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="NEW")]] = ""
    """Its new name; not given with --undo."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.new) == self.undo:
            raise ValueError(Message("give OLD and NEW, or the present name with --undo"))


@dataclass(frozen=True, kw_only=True)
class Resize(EditArgs):
    """Read images in another size. A copy has them in it."""

    EXAMPLE: ClassVar[str] = "data/sim_transfer_cube --size 240 320"

    size: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="HEIGHT WIDTH")] = None
    """Height and width in pixels."""
    cameras: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """The cameras; all by default."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.size is None) != self.undo:
            raise ValueError(Message("give --size HEIGHT WIDTH, or --undo"))
        if self.size is not None and min(self.size) < 1:
            raise ValueError(
                Message("--size must be at least 1 1, given {height} {width}", height=self.size[0], width=self.size[1])
            )


@dataclass(frozen=True, kw_only=True)
class Reorder(EditArgs):
    """Put episodes first, in the order given; the others follow in their own."""

    EXAMPLE: ClassVar[str] = "data/sim_transfer_cube 5 2 7"

    episodes: Episodes = ()
    """Names, numbers, or ranges such as 10-19."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.episodes) == self.undo:
            raise ValueError(Message("give the episodes that come first, or --undo"))


Edit = (
    Merge
    | Split
    | Trim
    | Drop
    | Relabel
    | Annotated[RenameCamera, tyro.conf.subcommand(name="rename-camera")]
    | Resize
    | Reorder
)
