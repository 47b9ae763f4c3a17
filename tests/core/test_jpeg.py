"""The one JPEG codec: RGB in, an ordinary JPEG out, whose bytes are OpenCV's own."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from aloha_kit.core.jpeg import decode, encode_jpeg, encode_png, jpeg_header

RED = np.zeros((16, 24, 3), np.uint8)
RED[..., 0] = 200


def test_an_ordinary_jpeg_has_opencvs_bytes() -> None:
    data = encode_jpeg(RED, 90)
    assert data.tobytes() == cv2.imencode(".jpg", RED[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    header = jpeg_header(data.tobytes())
    assert (header.height, header.width, header.channels) == (16, 24, 3)
    pixels = decode(data.tobytes())
    assert pixels is not None
    assert pixels[..., 2].min() > 190  # blue first


def test_red_and_blue_are_exchanged_on_request() -> None:
    data = encode_jpeg(RED, 90, exchanged=True)
    assert data.tobytes() == cv2.imencode(".jpg", RED, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


@pytest.mark.parametrize(
    "image",
    [RED[..., 0], RED[..., :2], RED.astype(np.float32), RED[:0], np.zeros((2, 70000, 3), np.uint8)],
    ids=["grey", "two channels", "float", "empty", "wider than a JPEG"],
)
def test_what_is_no_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"^JPEG (takes|refused) .*"):
        encode_jpeg(image, 90)


def test_png_is_exact() -> None:
    image = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    assert np.array_equal(decode(encode_png(image)), image[..., ::-1])
    with pytest.raises(ValueError, match=r"^PNG takes \(height, width, 3\) uint8, given \(7, 5\) uint8$"):
        encode_png(image[..., 0])


def test_what_cannot_be_decoded_is_none() -> None:
    assert decode(b"") is None
    assert decode(b"\xff\xd8\xff nothing more") is None


def test_nobody_else_encodes_or_decodes() -> None:
    package = Path(__file__).parents[2] / "aloha_kit"
    files = [file for file in package.rglob("*.py") if re.search(r"cv2\.im(en|de)code\(", file.read_text())]
    assert [str(file.relative_to(package)) for file in files] == ["core/jpeg.py"]
