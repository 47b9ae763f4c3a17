"""JPEGs decoded at a fraction of their size: how close that stays to decoding whole, as deployment does."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from aloha_kit.core import EpisodeError
from aloha_kit.data.camera_frames import decoded, DirectFrames, frame, resized, RGB
from aloha_kit.data.index import read_table
from aloha_kit.episode import Episode
from aloha_kit.formats import open_source
from aloha_kit.storage.codec import decode_image, encode_jpeg
from tests.synthetic import make, write

Image = npt.NDArray[np.uint8]


def detailed(height: int = 480, width: int = 640) -> Image:
    """Detail at all scales as in photographs (amplitude falls with 1 / frequency), each colour on its own: harsh."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1.0
    planes = [
        np.fft.irfft2(np.exp(2j * np.pi * rng.random(frequency.shape)) / frequency, (height, width)) for _ in range(3)
    ]
    image = np.stack(planes, axis=-1)
    return np.clip(128 + 50 * (image - image.mean()) / image.std(), 0, 255).astype(np.uint8)


def drawn(height: int = 480, width: int = 640) -> Image:
    """Flat areas with hard edges, as the simulation draws them."""
    image = np.full((height, width, 3), (90, 110, 130), np.uint8)
    rng = np.random.default_rng(1)
    for _ in range(12):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        cv2.circle(image, centre, int(rng.integers(10, 80)), rng.integers(0, 256, 3).tolist(), -1, cv2.LINE_AA)
    return image


@pytest.mark.parametrize(
    ("at_least", "expected"),
    [
        ((480, 640), (480, 640)),
        ((241, 320), (480, 640)),
        ((240, 320), (240, 320)),
        ((120, 161), (240, 320)),
        ((120, 160), (120, 160)),
        ((60, 80), (60, 80)),
        ((1, 1), (60, 80)),
        ((900, 900), (480, 640)),
    ],
)
def test_the_decoder_halves_as_long_as_enough_is_left(at_least: tuple[int, int], expected: tuple[int, int]) -> None:
    jpeg = encode_jpeg(drawn(), 95)
    padded = np.concatenate([jpeg, np.zeros(100, np.uint8)])  # as episodes keep them
    assert decode_image(padded, at_least=at_least).shape == (*expected, 3)


def test_sides_that_do_not_divide_are_decoded_whole() -> None:
    """A part of a pixel would shift the image."""
    assert decode_image(encode_jpeg(drawn(242, 324), 95), at_least=(30, 40)).shape == (121, 162, 3)
    assert decode_image(encode_jpeg(drawn(241, 320), 95), at_least=(30, 40)).shape == (241, 320, 3)


@pytest.mark.parametrize("order", ["mobile_aloha", "standard"])
def test_colours_keep_their_order(order: str) -> None:
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 200
    small = decode_image(encode_jpeg(red, 95, order), order, (8, 8))  # type: ignore[arg-type]
    assert np.abs(small.astype(int) - [200, 0, 0]).max() <= 3


def test_a_damaged_jpeg_is_named_whatever_the_size() -> None:
    with pytest.raises(EpisodeError, match="not a JPEG, PNG or WebP: 0 bytes"):
        decode_image(np.zeros(100, np.uint8), at_least=(8, 8))


@pytest.mark.parametrize(
    ("kind", "size", "mean", "naive"),
    [
        ("drawn", (120, 160), 0.2, 0.35),
        ("drawn", (60, 80), 0.3, 0.35),
        ("detailed", (120, 160), 1.25, 5.0),
        ("detailed", (96, 128), 1.0, 2.0),
        ("detailed", (60, 80), 1.25, 4.0),
        ("drawn", (240, 320), 0.2, 0.35),
        ("detailed", (240, 320), 3.2, 7.0),
        ("detailed", (480, 640), 0.0, 0.0),
    ],
)
def test_training_reads_what_deployment_reads(
    tmp_path: Path, kind: str, size: tuple[int, int], mean: float, naive: float
) -> None:
    """Mean absolute difference in grey levels (of 255) to the whole image resized as the network does it; and how far
    off decoding would be that only uses the wanted size."""
    episode = make(1, {"top": (480, 640)}, seed=0)
    episode.images["top"][0] = detailed() if kind == "detailed" else drawn()
    with Episode.open(write(tmp_path, episode, images="jpeg")) as opened:
        whole = resized(opened.image("top", 0), size).numpy().astype(float)
        ours = frame(opened, "top", 0, size, opened.image_size("top")).numpy()
        wanted_only = resized(opened.image("top", 0, at_least=size), size).numpy()
    assert np.abs(ours - whole).mean() <= mean
    assert np.abs(wanted_only - whole).mean() >= naive


@pytest.mark.parametrize("image", [detailed(), drawn()], ids=["detailed", "drawn"])
@pytest.mark.parametrize("size", [(120, 160), (60, 80)])
def test_a_fraction_of_a_jpeg_is_halved_as_the_network_halves(
    tmp_path: Path, image: Image, size: tuple[int, int]
) -> None:
    """To a grey level, but for the outermost pixels, where half a tap is beyond the image."""
    episode, twice = make(1, {"top": (480, 640)}, seed=0), (2 * size[0], 2 * size[1])
    episode.images["top"][0] = image
    with Episode.open(write(tmp_path, episode, images="jpeg")) as opened:
        expected = resized(opened.image("top", 0, at_least=twice), size).numpy().astype(int)
        difference = np.abs(frame(opened, "top", 0, size, opened.image_size("top")).numpy() - expected)
    assert difference[:, 1:-1, 1:-1].max() <= 1
    assert difference.max() <= 6


@pytest.mark.parametrize("image", [detailed(), drawn()], ids=["detailed", "drawn"])
def test_half_of_a_jpeg_is_as_close_to_a_robots_image_as_the_whole(tmp_path: Path, image: Image) -> None:
    """Deployment reads images that were never encoded: the mean difference to those is not larger at half the size."""
    episode, size = make(1, {"top": (480, 640)}, seed=0), (240, 320)
    episode.images["top"][0] = image
    with Episode.open(write(tmp_path, episode, images="jpeg")) as opened:
        whole, ours = resized(opened.image("top", 0), size), frame(opened, "top", 0, size, opened.image_size("top"))
    robot = resized(image, size).numpy().astype(float)
    assert 0 < np.abs(ours.numpy() - robot).mean() <= np.abs(whole.numpy() - robot).mean()


@pytest.mark.parametrize("images", ["raw", "jpeg"])
def test_only_what_the_decoder_halved_is_smoothed(tmp_path: Path, images: Literal["raw", "jpeg"]) -> None:
    """Raw images are halved by the network's own filter, to the last digit; JPEG of the wanted size is not touched."""
    episode = make(1, {"top": (96, 128)}, seed=0)
    size = (48, 64) if images == "raw" else (96, 128)
    with Episode.open(write(tmp_path, episode, images=images)) as opened:
        assert torch.equal(
            frame(opened, "top", 0, size, opened.image_size("top")), resized(opened.image("top", 0), size)
        )


@pytest.mark.parametrize("channels_last", [True, False])
def test_an_image_of_a_source_is_not_changed(channels_last: bool) -> None:
    """A source may keep what it gave, or give what cannot be written to."""
    given, out = drawn(48, 64), RGB.empty(1, (48, 64), channels_last=channels_last)[0]
    before = given.copy()
    given.flags.writeable = False
    smoothed = decoded(lambda _: given, (96, 128), (48, 64))
    assert decoded(lambda _: given, (96, 128), (48, 64), out) is out
    assert torch.equal(out, smoothed)
    np.testing.assert_array_equal(given, before)
    assert not torch.equal(smoothed, resized(given, (48, 64)))


def test_a_frame_of_a_table_is_decoded_once_and_halved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorded size comes from the table: no other image is decoded for it."""
    write(tmp_path, make(4, {"top": (96, 128)}, seed=0), images="jpeg")
    frames = DirectFrames(read_table(open_source(tmp_path)), {"top": (48, 64)}, workers=1)
    read: list[tuple[int, int] | None] = []

    def counted(data: Any, order: Any, at_least: tuple[int, int] | None, out: Any) -> Image:
        read.append(at_least)
        return decode_image(data, order, at_least, out)

    monkeypatch.setattr("aloha_kit.storage.episode_images.decode_image", counted)
    assert frames.gather(np.arange(4))["top"].shape == (4, 3, 48, 64)
    assert read == [(48, 64)] * 4


def test_raw_images_come_whole(tmp_path: Path) -> None:
    with Episode.open(write(tmp_path, make(1, {"top": (48, 64)}, seed=0), images="raw")) as opened:
        assert opened.image("top", 0, at_least=(6, 8)).shape == (48, 64, 3)
