"""Camera statistics: moments of the images that a training reads, each as the mean colours of a grid.

Small enough to save beside the weights, and sufficient to detect a changed light, camera or table later.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from aloha_kit.core.features import IMAGES
from aloha_kit.core.image_grid import describe
from aloha_kit.data.stats import Accumulator, END, Moments, START, Statistics

if TYPE_CHECKING:
    from aloha_kit.data.camera_frames import Frames
    from aloha_kit.data.index import EpisodeTable

SAMPLES = 2000  # frames a camera that training is described by
_BLOCK = 20  # frames held in memory at a time


def add_camera_statistics(
    stats: Statistics, table: EpisodeTable, frames: Frames | None, episodes: Sequence[int]
) -> Statistics:
    """Add the start poses, end poses and image statistics of some episodes to `stats`, for later comparison.

    Each camera is described by at most 2000 frames, spread evenly, or by what the source has stored of its images. What
    `stats` has already stays.
    """
    found: dict[str, Moments] = {}
    starts, lengths = table.starts[list(episodes)], table.lengths[list(episodes)]
    for key, rows in ((START, starts), (END, starts + lengths - 1)):
        if key not in stats:
            found |= Statistics.of(**{key: table.qpos[rows]}).moments
    missing = [camera for camera in table.cameras if f"{IMAGES}{camera}" not in stats]
    if frames is not None and missing:
        sums = _stored_grids(table, missing, episodes) or _described_frames(table, frames, missing, episodes)
        found |= {f"{IMAGES}{camera}": accumulator.moments() for camera, accumulator in sums.items()}
    return Statistics({**stats.moments, **found})


def _stored_grids(table: EpisodeTable, cameras: Sequence[str], episodes: Sequence[int]) -> dict[str, Accumulator]:
    """{camera: what the source has stored of its images}; empty where it lacks a camera."""
    sums = {camera: Accumulator() for camera in cameras}
    count = 0
    for episode in episodes:
        grids = table.source.image_grids(table.numbers[episode])
        if any(camera not in grids for camera in cameras):
            return {}
        for camera, accumulator in sums.items():
            accumulator.add(grids[camera])
            count += len(grids[camera])
    return sums if count else {}


def _described_frames(
    table: EpisodeTable, frames: Frames, cameras: Sequence[str], episodes: Sequence[int]
) -> dict[str, Accumulator]:
    """{camera: frames that are spread evenly over some episodes}."""
    rows = table.rows_of(episodes)
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), SAMPLES)).round().astype(np.int64))]
    sums = {camera: Accumulator() for camera in cameras}
    for start in range(0, len(rows), _BLOCK):
        images = frames.gather(rows[start : start + _BLOCK])
        for camera, accumulator in sums.items():
            accumulator.add(describe(images[camera].cpu().numpy()))
    return sums
