"""Videos of exported episodes: encoded, decoded again, and their quality recorded."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from aloha_kit.core import ConfigError, EpisodeError
from aloha_kit.core.exporter import ExportRecord, WriteOptions
from aloha_kit.core.prefetch import prefetch
from aloha_kit.core.source import Image, RecordedEpisode
from aloha_kit.media.mp4 import Codec, Mp4Writer
from aloha_kit.media.video_files import quality

_CRF: dict[Codec, int] = {"h264": 23, "av1": 30}
_WORST = {"h264": 51, "av1": 63}  # of the codec's scale
_PRESET = {"h264": "veryfast", "av1": "12"}
_GOP = 2  # every second image a key frame, as LeRobot's own encoder: any image is quick to decode
_AHEAD = 4  # images that are read while one is encoded
_SAMPLES = 16  # images of which the quality is measured, a camera and episode


def codec_and_crf(options: WriteOptions) -> tuple[Codec, int]:
    """Codec and quality of videos, by default H.264 of crf 23.

    Raises:
        ConfigError: the quality is not on the codec's scale.
    """
    codec = options.codec or "h264"
    crf = _CRF[codec] if options.crf is None else options.crf
    if crf > _WORST[codec]:
        raise ConfigError("--crf of {codec} is 0 to {worst}, given {crf}", codec=codec, worst=_WORST[codec], crf=crf)
    return codec, crf


def write_video(
    episode: RecordedEpisode,
    camera: str,
    path: Path,
    record: ExportRecord,
    codec: Codec,
    crf: int,
    rate_hz: float,
    on_image: Callable[[Image], None] | None = None,
) -> None:
    """Encode the images of a camera that belong to actions, decode them again, and note the quality.

    A thread reads ahead, so that images are decoded and hashed while others are encoded.

    Args:
        on_image: called with every image.

    Raises:
        EpisodeError: another number of images is decoded than was encoded.
    """
    rows, kept = episode.length, {}
    every = max(1, rows // _SAMPLES)
    options: dict[str, Any] = {"crf": crf, "preset": _PRESET[codec], "gop": _GOP, "threads": 1}
    images = prefetch(record.pixels(episode, camera, rows), depth=_AHEAD)
    with Mp4Writer(path, rate_hz, codec=codec, **options) as video, closing(images):
        for i, image in enumerate(images):
            video.add(image)
            if on_image is not None:
                on_image(image)
            if i % every == 0:
                kept[i] = image
    count, decibels = quality(path, kept)
    if count != rows:
        raise EpisodeError(
            "{where}: {count} of {rows} images of '{camera}' are in its video",
            where=episode.where,
            count=count,
            rows=rows,
            camera=camera,
        )
    record.images[camera]["psnr_db"] = round(float(np.mean(decibels)), 2)
