"""Arguments of replay."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, cast, ClassVar, Literal

from tyro.conf import arg, OmitArgPrefixes, Positional

from aloha_kit.core import cli, UsageError
from aloha_kit.core.cli import CommandArgs
from aloha_kit.core.lang import Message
from aloha_kit.storage.contract_file import ContractFlags


@dataclass(frozen=True)
class ReplayArgs(CommandArgs):
    """Turn recorded episodes into videos, plots and a Rerun recording, or play them back on the rig.

    Reads our own episodes and those of ALOHA, ACT, Mobile ALOHA and Cobot Magic, and robomimic's data sets.
    """

    EXAMPLE: ClassVar[str] = "data/sim_transfer_cube --view rerun"
    MAIN_FLAGS: ClassVar[tuple[str, ...]] = (
        "output",
        "n",
        "video_path",
        "view",
        "execute",
        "task",
        "cameras",
        "rate_hz",
        "video",
        "plots",
        "rrd",
        "realtime",
        "release",
    )

    path: Positional[Path]
    """An episode file, or a folder of episodes."""
    format: str = "auto"
    """What the episodes are stored in: hdf5, pusht, pusht_keypoints, robomimic, robomimic_states (images rendered from
    the simulator's states), or your own class as my_package.module:Name. auto finds out for HDF5 files."""
    output: Path | None = None
    """Where the files go; by default a folder `replay` beside the episodes."""
    n: int | None = None
    """Replay only so many episodes, the first ones."""
    video_path: Path | None = None
    """Write one video of all episodes, without plots and Rerun recordings. Without stored images, those of a robomimic
    data set are rendered from its states, for which MuJoCo and robosuite are needed (`make robosuite`)."""
    view: Literal["none", "rerun"] = "none"
    """Open the Rerun viewer on the recordings afterwards."""
    execute: bool = False
    """Send the recorded actions to the rig, in simulation from the recorded seed, and report the tracking error."""
    task: str | None = None
    """Task (name or YAML) to execute in; by default the one in the file."""
    cameras: Annotated[tuple[str, ...], arg(metavar="NAME ...", aliases=("--render_image_names",))] = ()
    """Cameras to show; all by default."""
    rate_hz: float | None = None
    """Control rate, for files of other tools that do not record it, where the assumed one is wrong."""
    embodiment: OmitArgPrefixes[ContractFlags] = field(default_factory=ContractFlags)
    height: int = 480
    """Height of the images in the video, in pixels; at least 240, so that the plots can be read."""
    video: bool = True
    """Write an MP4."""
    plots: bool = True
    """Write PNG plots of joints and timing."""
    rrd: bool = True
    """Write a Rerun recording (.rrd)."""
    realtime: bool = False
    """Execute a simulated rig at the recorded rate instead of as fast as it computes."""
    release: bool = False
    """Let the torque of a rig's arms go after executing, once they are parked."""
    allow_external: bool = False
    """Also read files whose data lie outside of them (external links and storage, virtual data sets)."""

    def __post_init__(self) -> None:
        if self.n is not None and self.n < 1:
            raise ValueError(Message("--n must be at least 1, given {n}", n=self.n))
        if self.video_path is not None and (self.execute or self.view != "none"):
            raise ValueError(
                Message("--video_path writes one video and nothing else; give it without --execute and --view")
            )
        if self.video_path is not None and self.video_path.suffix.lower() != ".mp4":
            raise ValueError(Message("--video_path must end with .mp4, given {path}", path=self.video_path))
        if self.height < 240:
            raise ValueError(Message("--height must be at least 240 pixels, given {height}", height=self.height))
        if self.rate_hz is not None and not 0 < self.rate_hz < math.inf:
            raise ValueError(Message("--rate_hz must be above 0, given {rate_hz:g}", rate_hz=self.rate_hz))


def parse(argv: Sequence[str] | None = None) -> ReplayArgs:
    """Turn flags into values; raises `UsageError`."""
    return cast(ReplayArgs, cli.parse(ReplayArgs, "replay", _with_path(sys.argv[1:] if argv is None else argv)))


def _with_path(argv: Sequence[str]) -> list[str]:
    """The words with a path for ACT's own `--dataset_dir DIR --episode_idx 3`."""
    words, values = list(argv), {"--dataset_dir": "", "--episode_idx": ""}
    for flag in values:
        if flag in words[:-1]:
            at = words.index(flag)
            values[flag] = words[at + 1]
            del words[at : at + 2]
    folder, index = values.values()
    if index and not (folder and index.isdecimal()):
        raise UsageError(
            "--episode_idx takes a number, with the episodes' folder in --dataset_dir; given '{index}'", index=index
        )
    return [str(Path(folder) / f"episode_{index}.hdf5") if index else folder, *words] if folder else words
