"""Checks of recorded images and depth: damaged, black, frozen, slow cameras."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from aloha_kit.core import EpisodeError
from aloha_kit.core.arm_models import by_arm
from aloha_kit.core.findings import Finding
from aloha_kit.core.lang import Message
from aloha_kit.episode.bounds import Bounds, finding, graded
from aloha_kit.storage.codec import whole
from aloha_kit.storage.paths import without_path
from aloha_kit.storage.reader import Episode
from aloha_kit.storage.vectors import names_of, runs

_SAMPLES = 8  # decoded frames per camera


def check_images(episode: Episode, bounds: Bounds) -> Iterator[Finding]:
    """Check that images can be decoded, have the contract's size, are not black, and change while joints move."""
    for camera in episode.cameras:
        frames = episode.rows(camera)
        if not frames:
            yield finding("error", "images", Message("camera '{camera}' has no frames", camera=camera))
            continue
        try:
            yield from _look(episode, camera, frames, bounds)
            yield from _compare(episode, camera, frames, bounds)
        except EpisodeError as error:
            yield finding("error", "images", without_path(error, episode.path))
    for camera in episode.depth_cameras:
        try:
            yield from _look_at_depth(episode, camera)
        except EpisodeError as error:
            yield finding("error", "depth", without_path(error, episode.path))


def _look_at_depth(episode: Episode, camera: str) -> Iterator[Finding]:
    """Read the depth of some rows and check its size, and that something was measured."""
    expected = episode.contract.depth_cameras.get(camera)
    chosen = np.unique(np.linspace(0, episode.frames - 1, _SAMPLES).round().astype(int))
    blank = 0
    for i in chosen.tolist():
        depth = episode.depth(camera, i)
        if expected is not None and depth.shape != expected:
            message = Message(
                "frame {i} of the depth of camera '{camera}' is {shape}, the contract {expected}",
                i=i,
                camera=camera,
                shape=depth.shape,
                expected=expected,
            )
            yield finding("error", "depth", message)
            return
        blank += not depth.any()
    message = Message(
        "depth of camera '{camera}' measures nothing in {blank} of {count} frames looked at",
        camera=camera,
        blank=blank,
        count=len(chosen),
    )
    yield from graded(blank / len(chosen), (1e-9, 1), "depth", message)


def _look(episode: Episode, camera: str, frames: int, bounds: Bounds) -> Iterator[Finding]:
    """Decode some frames and check their size and brightness."""
    expected = episode.contract.cameras.get(camera)
    chosen = np.unique(np.linspace(0, frames - 1, _SAMPLES).round().astype(int))
    black, flat = [], []
    for i in chosen.tolist():
        image = episode.image(camera, i)
        if expected is not None and image.shape[:2] != expected:
            yield finding(
                "error",
                "images",
                Message(
                    "frame {i} of camera '{camera}' is {shape}, the contract {expected}",
                    i=i,
                    camera=camera,
                    shape=image.shape[:2],
                    expected=expected,
                ),
            )
            return
        if image.max() <= bounds.black:
            black.append(i)
        elif np.ptp(image) <= bounds.black:
            flat.append(i)
    for count, check, word in ((len(black), "black", Message("black")), (len(flat), "flat", Message("of one colour"))):
        message = Message(
            "camera '{camera}' is {word} in {count} of {all} frames looked at",
            camera=camera,
            word=word,
            count=count,
            all=len(chosen),
        )
        yield from graded(count / len(chosen), (1e-9, 1), check, message)


def _compare(episode: Episode, camera: str, frames: int, bounds: Bounds) -> Iterator[Finding]:
    """Compare each frame with the one before: equal images are equal bytes, in JPEG too."""
    sums, stored = np.zeros(frames, np.int64), episode.image_format(camera)
    for i in range(frames):
        data = episode.encoded(camera, i)
        if stored.encoded and not whole(data):
            yield finding(
                "error",
                "images",
                Message("frame {i} of camera '{camera}' is not a whole JPEG, PNG or WebP", i=i, camera=camera),
            )
            return
        sums[i] = zlib.crc32(data)
    rows = min(frames, episode.frames)
    same = sums[1:rows] == sums[: rows - 1]
    joints = episode.qpos[:rows][:, _seen_joints(episode, camera)]
    if not same.any() or not np.isfinite(joints).all():
        return
    frozen = [
        (end - begin, begin)
        for begin, end in runs(same)
        if (end - begin) / episode.rate_hz >= bounds.frozen_s[0]
        and np.ptp(joints[begin : end + 1], axis=0).max(initial=0) > bounds.frozen_motion
    ]
    if frozen:
        length, begin = max(frozen)
        seconds = length / episode.rate_hz
        message = Message(
            "camera '{camera}' shows the same image for {seconds:.2f} s from row {begin} while joints move",
            camera=camera,
            seconds=seconds,
            begin=begin,
        )
        yield from graded(seconds, bounds.frozen_s, "frozen", message)
        return
    moving = np.abs(np.diff(joints, axis=0)).max(axis=1, initial=0) > bounds.frozen_motion / 10
    if moving.sum() >= 10 and same[moving].mean() > bounds.repeats:
        yield finding(
            "warning",
            "repeats",
            Message(
                "camera '{camera}' repeats {share:.0%} of its frames while joints move: slower than the control rate?",
                camera=camera,
                share=same[moving].mean(),
            ),
        )


def _seen_joints(episode: Episode, camera: str) -> npt.NDArray[np.int64]:
    """Columns of qpos whose motion must be visible in a camera: a wrist camera's own arm, all for the others."""
    names = names_of(episode, "qpos")
    arms = by_arm(names)
    words = camera.replace("wrist", "", 1)  # some joints are named wrist_…, and are no arm
    arm = next((arm for arm in arms if arm and arm in words), None) if "wrist" in camera else None
    wanted = [i for i in (range(len(names)) if arm is None else arms[arm]) if "gripper" not in names[i]]
    return np.array(wanted or range(len(names)), np.int64)
