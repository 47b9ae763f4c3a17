"""Replay of recorded episodes: videos, plots, Rerun recordings, execution on a rig."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from aloha_kit.core import AlohaKitError, EpisodeError
from aloha_kit.core.files import make_folder
from aloha_kit.core.lang import error_text, joined, Message, shown
from aloha_kit.core.source import EpisodeSource
from aloha_kit.formats import AUTO, format_of, open_source, ReadOptions
from aloha_kit.media.mp4 import Mp4Writer
from aloha_kit.replay.args import ReplayArgs
from aloha_kit.replay.episode_summary import summary
from aloha_kit.replay.execute import execute
from aloha_kit.replay.recording import Recording
from aloha_kit.replay.rendering import draw_plots, draw_video, video_frames
from aloha_kit.replay.rerun_log import save_rrd
from aloha_kit.storage.external_data import allow_external

_LOG = logging.getLogger(__name__)


def run(args: ReplayArgs) -> None:
    """Replay every episode; prints the files written.

    A damaged episode in a folder does not keep the others from being replayed.

    Raises:
        AlohaKitError: no episodes, an unknown camera or a damaged file (after all others are done).
    """
    allow_external(args.allow_external)
    source = _source(args)
    if source.unused:
        _LOG.info("%s", shown(source.unused))
    if args.video_path is not None:
        print(_one_video(source, args.video_path, args.height, args.cameras, args.rate_hz))
        return
    output = make_folder(args.output or (args.path if args.path.is_dir() else args.path.parent) / "replay")
    written: list[Path] = []
    failures: list[AlohaKitError] = []
    for number in range(len(source)):
        try:
            with closing(source.episode(number)) as episode:
                recording = Recording.of(episode, args.cameras, args.rate_hz)
                print(summary(recording))
                stem = output / recording.name
                height = args.height if args.video else None
                files = _draw(recording, stem, height, plots=args.plots, rrd=args.rrd)
                if args.execute:
                    result = execute(recording, args.task, realtime=args.realtime, release=args.release)
                    print(result.text())
                    files += result.save(recording, stem)
                written += files
        except AlohaKitError as failure:
            failures.append(failure)
    for file in written:
        print(file)
    if args.view == "rerun" and (recordings := [f for f in written if f.suffix == ".rrd"]):
        _open_viewer(recordings)
    if failures:
        done = [Message("({n} of {all} episodes were replayed)", n=len(source) - len(failures), all=len(source))]
        texts = [*map(error_text, failures), *(done if written else [])]
        raise EpisodeError(joined(texts, "\n")) from failures[0]


def _source(args: ReplayArgs) -> EpisodeSource:
    """The episodes; those of a robomimic data set without images rendered from its states, for one video."""
    options = ReadOptions(args.embodiment.load(), args.embodiment.jpeg_order, first=args.n)
    kind = format_of(args.path, images=args.video_path is not None) if args.format == AUTO else args.format
    return open_source(args.path, kind=kind, options=options)


def _one_video(source: EpisodeSource, path: Path, height: int, cameras: Sequence[str], rate_hz: float | None) -> Path:
    """Write one video of all episodes, one after the other; returns `path`.

    Raises:
        EpisodeError: an episode without images, or with others than those before it, or a damaged one.
    """
    video: Mp4Writer | None = None
    with contextlib.ExitStack() as stack:
        for number in range(len(source)):
            with closing(source.episode(number)) as episode:
                recording = Recording.of(episode, cameras, rate_hz)
                if not recording.cameras:
                    raise EpisodeError(
                        "{episode} has no images for --video_path {path}", episode=episode.where, path=path
                    )
                if video is None:
                    video = stack.enter_context(Mp4Writer(path, recording.rate_hz))
                print(summary(recording))
                with _bar(recording, "video") as bar:
                    for frame in video_frames(recording, height):
                        try:
                            video.add(frame)
                        except ValueError as error:  # another size
                            raise EpisodeError(
                                "{episode} does not fit into one video: {error}", episode=episode.where, error=error
                            ) from error
                        bar.update(1)
    return path


def _draw(recording: Recording, stem: Path, height: int | None, *, plots: bool, rrd: bool) -> list[Path]:
    """Write the files that show an episode; returns their paths.

    Args:
        height: of the images in the video, in pixels; None for no video.
    """
    written: list[Path] = []
    if height is not None and recording.cameras:
        with _bar(recording, "video") as bar:
            written.append(draw_video(recording, stem.with_suffix(".mp4"), height, bar.update))
    if plots:
        written += draw_plots(recording, stem)
    if rrd:
        with _bar(recording, "rerun") as bar:
            written.append(save_rrd(recording, stem.with_suffix(".rrd"), bar.update))
    return written


def _bar(recording: Recording, what: str) -> tqdm[None]:
    # disable=None: only on a terminal
    return tqdm(total=recording.frames, desc=f"{recording.name} {what}", unit="frame", leave=False, disable=None)


def _open_viewer(recordings: Sequence[Path]) -> None:
    # The viewer is its own process on the saved files: it outlives this one and needs no open connection.
    subprocess.Popen([sys.executable, "-m", "rerun", *map(str, recordings)])
