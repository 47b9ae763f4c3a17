"""Look at what was recorded, or do it again."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tqdm import tqdm
from tyro.conf import arg, OmitArgPrefixes, Positional

from aloha_kit.core import AlohaKitError, ConfigError, EpisodeError, nearest
from aloha_kit.core.files import make_folder
from aloha_kit.episode import Episode, list_episodes
from aloha_kit.episode.embodiment import ContractFlags
from aloha_kit.episode.external import allow_external
from aloha_kit.episode.schema import missing
from aloha_kit.episode.selection import select
from aloha_kit.replay.execute import execute
from aloha_kit.replay.pictures import draw_plots, draw_video
from aloha_kit.replay.recording import Recording
from aloha_kit.replay.rerun_log import save_rrd
from aloha_kit.replay.summary import summary


@dataclass(frozen=True)
class ReplayArgs:
    """Turn recorded episodes into videos, plots and a Rerun recording, or play them back on the rig.

    Reads our own episodes and those of ALOHA, ACT, Mobile ALOHA and Cobot Magic.
    """

    path: Positional[Path]
    """An episode file, or a folder of episodes."""
    output: Path | None = None
    """Where the files go; by default a folder `replay` beside the episodes."""
    view: Literal["none", "rerun"] = "none"
    """Open the Rerun viewer on the recordings afterwards."""
    execute: bool = False
    """Send the recorded actions to the rig, in simulation from the recorded seed, and report the tracking error."""
    task: str | None = None
    """Task (name or YAML) to execute in; by default the one in the file."""
    cameras: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = ()
    """Cameras to show; all by default."""
    rate_hz: float | None = None
    """Control rate, for files of other tools that do not say it, where the assumed one is wrong."""
    embodiment: OmitArgPrefixes[ContractFlags] = field(default_factory=ContractFlags)
    height: int = 480
    """Height of the pictures in the video, in pixels; at least 240, so that the plots can be read."""
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
        if self.height < 240:
            raise ConfigError(f"--height must be at least 240 pixels, given {self.height}")
        if self.rate_hz is not None and not 0 < self.rate_hz < math.inf:
            raise ConfigError(f"--rate_hz must be above 0, given {self.rate_hz:g}")


def run(args: ReplayArgs) -> list[Path]:
    """Do all of it; returns the files written.

    A damaged episode in a folder does not keep the others from being replayed.

    Raises:
        AlohaKitError: no episodes, an unknown camera or a damaged file (after all others are done).
    """
    allow_external(args.allow_external)
    episodes, contract = find_episodes(args.path), args.embodiment.load()
    output = make_folder(args.output or (args.path if args.path.is_dir() else args.path.parent) / "replay")
    written: list[Path] = []
    failures: list[AlohaKitError] = []
    for path in episodes:
        try:
            with Episode.open(path, contract, jpeg_order=args.embodiment.jpeg_order) as episode:
                written += _replay(Recording.of(episode, args.cameras, args.rate_hz), args, output)
        except AlohaKitError as failure:
            failures.append(failure)
    for file in written:
        print(file)
    if args.view == "rerun" and (recordings := [f for f in written if f.suffix == ".rrd"]):
        _open_viewer(recordings)
    if failures:
        done = f"\n({len(episodes) - len(failures)} of {len(episodes)} episodes were replayed)" if written else ""
        raise EpisodeError("\n".join(str(failure) for failure in failures) + done)
    return written


def find_episodes(path: Path) -> list[Path]:
    """The episode that `path` is, or those in the folder that it is.

    Raises:
        EpisodeError: neither; says what is there.
    """
    if path.is_dir():
        found = select(path)
        if not found.files:
            there = ", ".join(sorted(p.name for p in path.iterdir())[:20]) or "(nothing)"
            unused = f"; {found.text()}" if found.unused else ""
            raise EpisodeError(f"no episodes (episode_<i>.hdf5) in {path}; it holds: {there}{unused}")
        if text := found.text():
            print(text, file=sys.stderr)
        return list(found.files)
    if not path.exists():
        beside = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
        folders = [p for p in beside if p.is_dir() and list_episodes(p)]
        episodes = list_episodes(path.parent) if beside else []
        if path.is_symlink():
            raise EpisodeError(f"{missing(path)}; expected an episode")
        raise EpisodeError(f"no episode {path}. {nearest(path.name, [p.name for p in episodes + folders])}")
    return [path]


def _replay(recording: Recording, args: ReplayArgs, output: Path) -> list[Path]:
    print(summary(recording))
    written: list[Path] = []
    stem = output / recording.name
    if args.video and recording.cameras:
        with _bar(recording, "video") as bar:
            written.append(draw_video(recording, stem.with_suffix(".mp4"), args.height, bar.update))
    if args.plots:
        written += draw_plots(recording, stem)
    if args.rrd:
        with _bar(recording, "rerun") as bar:
            written.append(save_rrd(recording, stem.with_suffix(".rrd"), bar.update))
    if args.execute:
        result = execute(recording, args.task, realtime=args.realtime, release=args.release)
        print(result.text())
        written += result.save(recording, stem)
    return written


def _bar(recording: Recording, what: str) -> tqdm[None]:
    # disable=None: only on a terminal
    return tqdm(total=recording.frames, desc=f"{recording.name} {what}", unit="frame", leave=False, disable=None)


def _open_viewer(recordings: Sequence[Path]) -> None:
    # The viewer is its own process on the saved files: it outlives this one and needs no open connection.
    subprocess.Popen([sys.executable, "-m", "rerun", *map(str, recordings)])
