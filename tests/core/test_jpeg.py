"""The one JPEG codec: RGB in, an ordinary JPEG out, whose bytes are OpenCV's own."""

import re
import struct
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest

from aloha_kit.core.jpeg import decode, decode_rgb, encode_jpeg, encode_png, jpeg_header

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


FRACTIONS = {
    1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8
}  # fmt: skip
SUBSAMPLING = {"4:4:4": 0x111111, "4:2:2": 0x211111, "4:4:0": 0x121111, "4:2:0": 0x221111, "4:1:1": 0x411111}


def textured(height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 1.5), np.uint8)


@pytest.mark.parametrize("fraction", FRACTIONS)
@pytest.mark.parametrize("progressive", [0, 1], ids=["baseline", "progressive"])
@pytest.mark.parametrize("subsampling", SUBSAMPLING)
def test_pixels_are_opencvs(subsampling: str, progressive: int, fraction: int) -> None:
    options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SUBSAMPLING[subsampling], cv2.IMWRITE_JPEG_PROGRESSIVE, progressive]
    for image in (textured(48, 72), textured(48, 72)[..., 0], textured(64, 8)):
        code = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 80, *options])[1]
        expected = cv2.imdecode(code, FRACTIONS[fraction])
        assert np.array_equal(decode_rgb(code.tobytes(), fraction=fraction), expected[..., ::-1])
        assert np.array_equal(decode_rgb(code.tobytes(), exchanged=True, fraction=fraction), expected)


@pytest.mark.parametrize("turned", range(1, 9))
def test_an_image_is_turned_as_its_camera_says(turned: int) -> None:
    """Exif's orientation: OpenCV applies it, libjpeg-turbo does not."""
    code = encode_jpeg(textured(24, 40), 90).tobytes()
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, turned, 0)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + entry + bytes(4)
    code = code[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + code[2:]
    assert jpeg_header(code).exif
    pixels = decode_rgb(code)
    assert np.array_equal(pixels, cv2.imdecode(np.frombuffer(code, np.uint8), cv2.IMREAD_COLOR)[..., ::-1])
    assert pixels is not None
    assert pixels.shape == ((24, 40, 3) if turned < 5 else (40, 24, 3))


def test_what_libjpeg_warns_of_is_decoded_as_opencv_does() -> None:
    whole = encode_jpeg(textured(48, 64), 90).tobytes()
    middle = len(whole) // 2
    damaged = {
        "cut off": whole[:middle],
        "foreign bytes before a marker": whole[:2] + b"\0\0" + whole[2:],
        "another image's end": whole[:middle] + whole[middle + 40 :],
        "no pixel": whole[: whole.index(b"\xff\xda")],
    }
    for name, data in damaged.items():
        expected, given = decode(data), decode_rgb(data)
        if expected is None:
            assert given is None, name
        else:
            assert np.array_equal(given, expected[..., ::-1]), name


def test_an_image_is_written_where_it_is_wanted() -> None:
    """Whoever decodes it, and only where it has that shape."""
    image = textured(48, 64)
    whole = encode_jpeg(image, 90).tobytes()
    warned_of = whole[: len(whole) // 2] + whole[len(whole) // 2 + 40 :]
    for data in (whole, warned_of, encode_png(image)):
        for exchanged in (False, True):
            expected, out = decode_rgb(data, exchanged=exchanged), np.zeros((48, 64, 3), np.uint8)
            assert decode_rgb(data, exchanged=exchanged, out=out) is out
            assert np.array_equal(out, expected)
    half, out = decode_rgb(whole, fraction=2), np.zeros((24, 32, 3), np.uint8)
    assert np.array_equal(decode_rgb(whole, fraction=2, out=out), half)
    assert np.array_equal(out, half)
    out[:] = 7
    found = decode_rgb(whole, out=out)
    assert np.array_equal(found, decode_rgb(whole))
    assert np.array_equal(out, np.full_like(out, 7))


def test_a_header_that_gives_too_many_pixels_is_refused() -> None:
    """65500x65500 pixels would be 13 GB."""
    code = bytearray(encode_jpeg(RED, 90).tobytes())
    frame = code.index(b"\xff\xc0") + 5
    code[frame : frame + 4] = struct.pack(">HH", 65500, 65500)
    assert jpeg_header(bytes(code)).height == 65500
    tracemalloc.start()
    assert decode_rgb(bytes(code)) is None
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def test_other_formats_are_decoded_by_opencv() -> None:
    image = textured(16, 24)
    assert np.array_equal(decode_rgb(encode_png(image)), image)
    assert np.array_equal(decode_rgb(encode_png(image[..., ::-1]), exchanged=True), image)
    assert decode_rgb(b"") is None
    assert decode_rgb(b"\xff\xd8\xff nothing more") is None


def test_nobody_else_encodes_or_decodes() -> None:
    package = Path(__file__).parents[2] / "aloha_kit"
    files = [file for file in package.rglob("*.py") if re.search(r"cv2\.im(en|de)code\(|simplejpeg", file.read_text())]
    assert [str(file.relative_to(package)) for file in files] == ["core/jpeg.py"]
