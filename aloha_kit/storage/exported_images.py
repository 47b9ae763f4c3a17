"""Conversion of the images of an exported copy."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from aloha_kit.storage.codec import encode_jpeg, image_kind, jpeg_order_of, JpegOrder
from aloha_kit.storage.hdf5 import set_attribute
from aloha_kit.storage.reader import Episode

_QUALITY = 95  # of JPEG that has to be encoded anew: beside the camera's own loss it adds little


def are_written_anew(episode: Episode, *, raw: bool, jpeg: JpegOrder | None) -> bool:
    """Whether the copy needs image data sets that differ from the source's."""
    plain = all(episode.image_format(camera).plain for camera in episode.cameras)
    if episode.moved or not plain or (raw and episode.compressed):
        return True
    mixed = any(not episode.image_format(camera).encoded for camera in episode.cameras)
    return jpeg is not None and (mixed or episode.jpeg_order != jpeg or episode.image_kind != "jpeg")


def write(target: Any, episode: Episode, frames: tuple[int, int], *, raw: bool, jpeg: JpegOrder | None) -> None:
    """Write frames [begin, end) of every camera, and the attributes and lengths that go with them.

    With `raw` as (H, W, 3) uint8; with `jpeg` as padded JPEG rows of that order; with neither, JPEG stays JPEG and
    everything else becomes raw pixels, so that nothing is lost.
    """
    order, encoded_anew = jpeg or episode.jpeg_order, False
    lengths: list[list[int]] = []
    for camera in episode.cameras:
        place = f"observations/images/{camera}"
        kept = _kind(episode, camera) == "jpeg"
        if raw or not (kept or jpeg):
            data = target.create_dataset(place, (frames[1] - frames[0], *episode.image_size(camera), 3), np.uint8)
            for row, i in enumerate(range(*frames)):
                data[row] = episode.image(camera, i)
            continue
        with tempfile.TemporaryFile(dir=Path(target.filename).parent) as spool:  # memory stays bounded
            lengths.append([])
            for i in range(*frames):
                code, anew = _jpeg(episode, camera, i, order)
                encoded_anew |= not kept or anew
                lengths[-1].append(spool.write(code))
            spool.seek(0)
            longest = max(lengths[-1])
            data = target.create_dataset(place, (len(lengths[-1]), longest), np.uint8, chunks=(1, longest))
            for row, length in enumerate(lengths[-1]):
                data[row] = np.frombuffer(spool.read(length).ljust(longest, b"\0"), np.uint8)
    target.attrs["compress"] = bool(lengths)
    if lengths:
        target["compress_len"] = np.array(lengths, np.float32)
        if jpeg is not None or episode.jpeg_order_source != "guessed":
            set_attribute(target, "jpeg_order", order)
    if encoded_anew:
        target.attrs["jpeg_quality"] = _QUALITY
    if "camera_names" not in target.attrs and episode.cameras:
        set_attribute(target, "camera_names", list(episode.cameras))


def _kind(episode: Episode, camera: str) -> str | None:
    encoded = episode.image_format(camera).encoded and episode.rows(camera) > 0
    return image_kind(episode.encoded(camera, 0)) if encoded else None


def _jpeg(episode: Episode, camera: str, i: int, order: JpegOrder) -> tuple[bytes, bool]:
    """Frame i as JPEG of an order, and whether it had to be encoded."""
    code = episode.encoded(camera, i) if episode.image_format(camera).encoded else b""
    if image_kind(code) == "jpeg" and (jpeg_order_of(code) or episode.jpeg_order) == order:
        return code, False
    return encode_jpeg(episode.image(camera, i), _QUALITY, order).tobytes(), True
