"""Rendering of an episode as an MP4 and as plots."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aloha_kit.media.frames import BAD, caption, depth_image, FAINT, GOOD, Image, row
from aloha_kit.media.mp4 import Mp4Writer
from aloha_kit.media.plots import joint_traces, sensor_traces, Strip, timing
from aloha_kit.replay.recording import Recording

WIDEST = 1920  # pixels; a video wider than a screen is shown scaled down anyway
COLOURS = {"success": GOOD, "failure": BAD, "": FAINT}


def draw_video(recording: Recording, path: Path, height: int, advance: Callable[[int], object]) -> Path:
    """Write the frames of an episode, at its rate; returns `path`."""
    with Mp4Writer(path, recording.rate_hz) as video:
        for frame in video_frames(recording, height):
            video.add(frame)
            advance(1)
    return path


def video_frames(recording: Recording, height: int) -> Iterator[npt.NDArray[np.uint8]]:
    """All cameras and their depth side by side with a title, and joints and actions under a moving cursor.

    One frame an observation, (H, W, 3) RGB. The plot stands to the right of a single camera and below several.
    """
    episode = recording.episode
    farthest = {camera: int(episode.depth(camera, 0).max()) for camera in recording.depth_cameras}
    labels = [*recording.cameras, *(f"depth of {camera}" for camera in farthest)]

    def images(i: int) -> list[Image]:
        depth = [depth_image(episode.depth(camera, i), far) for camera, far in farthest.items()]
        return [*(episode.image(camera, i) for camera in recording.cameras), *depth]

    sizes = [image.shape[:2] for image in images(0)]
    aspect = sum(w / h for h, w in sizes)
    beside = aspect < 2
    width_left = WIDEST * 0.5 if beside else WIDEST - 4 * (len(sizes) - 1)
    height = min(height, int(width_left / aspect)) // 2 * 2
    first = row([np.zeros((h, w, 3), np.uint8) for h, w in sizes], height)
    box = (height, int(height * 4 / 3)) if beside else (max(200, int(first.shape[1] * 0.22)), first.shape[1])
    strip = Strip(recording.action, recording.qpos, recording.contract.action_names, recording.rate_hz, box)
    for i in range(recording.frames):
        yield _compose(recording, i, row(images(i), height, labels=labels), strip.at(i), beside)


def _compose(
    recording: Recording, i: int, images: npt.NDArray[np.uint8], plot: npt.NDArray[np.uint8], beside: bool
) -> npt.NDArray[np.uint8]:
    body = np.concatenate([images, plot], axis=1 if beside else 0)
    clock = f"{i / recording.rate_hz:6.2f} s   {i:>4} / {recording.frames - 1}"
    width = body.shape[1]
    verdict = recording.verdict
    title = caption(width - 250 - 110 * bool(verdict), recording.title)
    parts = [title, caption(250, "", clock)]
    if verdict:
        parts.append(caption(110, "", verdict, colour=COLOURS[verdict]))
    return np.concatenate([np.concatenate(parts, axis=1), body], axis=0)


def draw_plots(recording: Recording, stem: Path) -> list[Path]:
    """`<stem>_joints.png`; with sensors `<stem>_sensors.png`; with stamps of a real clock `<stem>_timing.png`."""
    title = " · ".join(part for part in (recording.title, recording.verdict) if part)
    joints = stem.with_name(f"{stem.name}_joints.png")
    figure = joint_traces(
        recording.action,
        recording.qpos,
        recording.contract.action_names,
        recording.rate_hz,
        title=title,
        labels=("action", "qpos"),
        units=recording.contract.units,
    )
    figure.savefig(joints)
    written = [joints]
    if recording.sensors:
        sensors = stem.with_name(f"{stem.name}_sensors.png")
        entries = {name: recording.entries(name) for name in recording.sensors}
        units = {name: recording.units(name) for name in recording.sensors}
        sensor_traces(recording.sensors, entries, units, recording.rate_hz, title=title).savefig(sensors)
        written.append(sensors)
    if "deadline" in recording.stamps and not recording.exact_timing:
        clock = stem.with_name(f"{stem.name}_timing.png")
        timing(recording.stamps, recording.rate_hz, title=title).savefig(clock)
        written.append(clock)
    return written
