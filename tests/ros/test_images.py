"""Images in messages: every encoding against colours worked out by hand or by Pillow; bad ones in clear words."""

from __future__ import annotations

import io
import struct
import zlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
from sensor_msgs.msg import CompressedImage, Image

from aloha_kit.core import ReadingError, StreamError
from aloha_kit.ros import image_messages
from aloha_kit.sync import images

STAMP = 1_700_000_000_123_456_789


def scene(height: int = 48, width: int = 64) -> np.ndarray:
    """Red on the left, blue below, smooth enough for JPEG to keep."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(230, 10, width)[None]
    image[..., 1] = 90
    image[..., 2] = np.linspace(10, 200, height)[:, None]
    return image


def raw(encoding: str, rows: np.ndarray, width: int, *, padding: int = 0, big: bool = False) -> Any:
    """A message of (H, bytes) rows, with `padding` bytes of rubbish after each."""
    padded = np.concatenate([rows, np.full((len(rows), padding), 0xEE, np.uint8)], axis=1)
    return SimpleNamespace(
        height=len(rows), width=width, encoding=encoding, is_bigendian=int(big), step=padded.shape[1],
        data=padded.tobytes(),
    )  # fmt: skip


def compressed(data: bytes, format: str = "jpeg") -> Any:
    return SimpleNamespace(format=format, data=data)


def pillow(image: np.ndarray, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, kind, **({"quality": 95} if kind == "JPEG" else {}), **options)
    return buffer.getvalue()


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "channels"),
    [("rgb8", (0, 1, 2)), ("bgr8", (2, 1, 0)), ("rgba8", (0, 1, 2, 1)), ("bgra8", (2, 1, 0, 1))],
)
def test_colours_come_out_as_rgb(encoding: str, channels: tuple[int, ...], padding: int) -> None:
    image = scene()
    rows = np.ascontiguousarray(image[..., list(channels)]).reshape(48, -1)
    got = images.decode(raw(encoding, rows, 64, padding=padding))
    np.testing.assert_array_equal(got, image)
    assert got.flags.writeable
    assert got.flags.owndata or got.base.flags.writeable


def test_grey_has_three_equal_channels() -> None:
    grey = scene()[..., 0]
    np.testing.assert_array_equal(images.decode(raw("mono8", grey, 64, padding=3)), np.stack([grey] * 3, axis=-1))


@pytest.mark.parametrize(
    ("encoding", "places"),
    [("yuyv", (0, 1, 2, 3)), ("yuv422_yuy2", (0, 1, 2, 3)), ("uyvy", (1, 0, 3, 2)), ("yuv422", (1, 0, 3, 2))],
)
@pytest.mark.parametrize(
    ("yuv", "rgb"),  # by the equations of BT.601 with Y from 16 to 235
    [
        ((81, 90, 240), (255, 0, 0)),
        ((145, 54, 34), (0, 255, 0)),
        ((41, 240, 110), (0, 0, 255)),
        ((126, 128, 128), (128,) * 3),
    ],
)
def test_webcam_colours(
    encoding: str, places: tuple[int, ...], yuv: tuple[int, int, int], rgb: tuple[int, int, int]
) -> None:
    y, u, v = yuv
    pair = np.zeros(4, np.uint8)
    pair[list(places)] = (y, u, y, v)
    got = images.decode(raw(encoding, np.tile(pair, (6, 4)), 8, padding=2))
    assert got.shape == (6, 8, 3)
    np.testing.assert_allclose(got.reshape(-1, 3), np.tile(rgb, (48, 1)), atol=3)


def test_jpeg_and_png_come_out_as_rgb() -> None:
    image = scene()
    for format in ("jpeg", "rgb8; jpeg compressed bgr8", "bgr8; jpeg compressed bgr8"):
        got = images.decode(compressed(pillow(image), format))
        assert np.abs(got.astype(int) - image).mean() < 3
    np.testing.assert_array_equal(images.decode(compressed(pillow(image, "PNG"), "png")), image)
    # a sender that left red and blue as they were declares it, and that is used
    got = images.decode(compressed(pillow(image[..., ::-1]), "rgb8; jpeg compressed rgb8"))
    assert np.abs(got.astype(int) - image).mean() < 3


def test_only_an_ordinary_jpeg_is_passed_on() -> None:
    data = pillow(scene())
    assert images.jpeg_bytes(compressed(data)) == data
    assert images.jpeg_bytes(compressed(data, "rgb8; jpeg compressed bgr8")) == data
    swapped, png = compressed(data, "rgb8; jpeg compressed rgb8"), compressed(pillow(scene(), "PNG"), "png")
    assert images.jpeg_bytes(swapped) is None
    assert images.jpeg_bytes(png) is None
    assert images.jpeg_bytes(raw("mono8", scene()[..., 0], 64)) is None
    assert images.jpegs({"a": compressed(data), "b": png}) == {"a": data}


def test_the_size_is_known_without_decoding() -> None:
    progressive = pillow(scene(40, 24), progressive=True)
    assert images.size(compressed(progressive)) == (40, 24)
    assert images.size(compressed(pillow(scene(40, 24)[..., 0]))) == (40, 24)
    assert images.size(compressed(pillow(scene(40, 24), "PNG"), "png")) == (40, 24)
    assert images.size(raw("mono8", scene()[..., 0], 64)) == (48, 64)


@pytest.mark.parametrize(("big", "order"), [(False, "<"), (True, ">")])
def test_depth_in_either_byte_order(big: bool, order: str) -> None:
    depth = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 21
    rows = depth.astype(f"{order}u2").view(np.uint8).reshape(48, -1)
    for encoding in ("16UC1", "mono16"):
        got = images.decode_depth(raw(encoding, rows, 64, padding=3, big=big))
        assert got.dtype == np.uint16
        np.testing.assert_array_equal(got, depth)
    metres = np.array([[0.0, 0.2504, np.nan, np.inf], [1.0, 0.2506, -1.0, 80.0]], np.float32)
    rows = metres.astype(f"{order}f4").view(np.uint8).reshape(2, -1)
    got = images.decode_depth(raw("32FC1", rows, 4, padding=1, big=big))
    assert got.tolist() == [[0, 250, 0, 0], [1000, 251, 0, 65535]]


def png16(depth: np.ndarray) -> bytes:
    """A PNG of 16-bit grey, by the format's own definition."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = depth.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in depth)
    head = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def test_compressed_depth() -> None:
    depth = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 21
    np.testing.assert_array_equal(images.decode_depth(compressed(png16(depth), "16UC1; png compressed")), depth)
    with_header = compressed(bytes(12) + png16(depth), "16UC1; compressedDepth png")
    np.testing.assert_array_equal(images.decode_depth(with_header), depth)
    with pytest.raises(StreamError, match="depth has to be a PNG of 16 bits in mm"):
        images.decode_depth(compressed(pillow(scene())))


def test_bad_images_are_named() -> None:
    with pytest.raises(StreamError, match=r"encoding 'rgb' cannot be read\. Did you mean 'rgb8'\? Known: bgr8, bgra8"):
        images.decode(raw("rgb", scene().reshape(48, -1), 64))
    with pytest.raises(StreamError, match=r"encoding 'rgb8' cannot be read\..*Known: 16UC1, 32FC1, mono16"):
        images.decode_depth(raw("rgb8", scene().reshape(48, -1), 64))
    short = raw("rgb8", scene().reshape(48, -1), 64)
    short.data = short.data[:-1]
    with pytest.raises(StreamError, match=r"48 rows, 64 columns, rgb8 and 192 bytes a row cannot have 9215 bytes"):
        images.decode(short)
    narrow = raw("rgb8", scene()[..., :2].reshape(48, -1), 64)
    with pytest.raises(StreamError, match="128 bytes a row cannot have 6144 bytes; expected 9216"):
        images.decode(narrow)
    data = pillow(scene())
    for torn in (data[: len(data) // 2], data[:-2]):
        for read in (images.decode, images.size):
            with pytest.raises(StreamError, match=r"the camera sent a JPEG that was cut off: \d+ bytes ending"):
                read(compressed(torn))
    with pytest.raises(StreamError, match="5 bytes of 'jpeg' beginning 68 65 6c 6c 6f are none"):
        images.decode(compressed(b"hello"))
    filled = compressed(data + bytes(100))  # a camera that sends its whole buffer
    assert images.decode(filled).shape == (48, 64, 3)


def test_lazy_images_are_decoded_once_and_only_when_requested() -> None:
    torn = compressed(pillow(scene())[:-2])
    lazy = images.LazyImages({"cam_high": compressed(pillow(scene())), "cam_low": torn})
    assert list(lazy) == ["cam_high", "cam_low"]
    assert len(lazy) == 2
    assert "cam_low" in lazy
    assert lazy["cam_high"] is lazy["cam_high"]
    with pytest.raises(StreamError, match="camera 'cam_low': the camera sent a JPEG that was cut off"):
        lazy["cam_low"]
    with pytest.raises(KeyError):
        lazy["cam_left"]


@pytest.mark.parametrize("big", [False, True])
def test_built_messages_survive_the_wire(big: bool) -> None:
    def sent(message: Any) -> Any:
        buffer = io.BytesIO()
        message.serialize(buffer)
        return type(message)().deserialize(buffer.getvalue())

    image = scene()
    got = sent(image_messages.to_image(image, "rgb8", STAMP, "cam_high"))
    assert isinstance(got, Image)
    assert (got.height, got.width, got.step, got.encoding) == (48, 64, 192, "rgb8")
    assert (got.header.stamp.secs, got.header.stamp.nsecs) == (1_700_000_000, 123_456_789)
    assert got.header.frame_id == "cam_high"
    np.testing.assert_array_equal(images.decode(got), image)
    depth = (np.arange(48 * 64).reshape(48, 64) * 13).astype(">u2" if big else "<u2")
    got = sent(image_messages.to_image(depth, "16UC1", STAMP))
    assert got.is_bigendian == big
    np.testing.assert_array_equal(images.decode_depth(got), depth)
    got = sent(image_messages.to_compressed(image, STAMP))
    assert isinstance(got, CompressedImage)
    assert got.header.stamp.to_nsec() == STAMP
    assert np.abs(np.asarray(PIL.Image.open(io.BytesIO(got.data))).astype(int) - image).mean() < 3
    assert len(sent(image_messages.to_compressed(image, STAMP, quality=20)).data) < len(got.data)
    assert (
        images.jpeg_bytes(sent(image_messages.to_compressed(b"\xff\xd8\xff as it is", STAMP)))
        == b"\xff\xd8\xff as it is"
    )


def test_an_empty_message_and_a_giant_header_are_reported_and_not_decoded() -> None:
    for read in (images.decode, images.decode_depth, images.size):
        with pytest.raises(ReadingError, match=r"^the camera sent an empty message$"):
            read(compressed(b""))
    giant = bytearray(pillow(scene()))
    at = giant.index(b"\xff\xc0")
    giant[at + 5 : at + 9] = struct.pack(">HH", 65500, 65500)
    assert images.size(compressed(bytes(giant))) == (65500, 65500)  # which the contract's size refuses
    with pytest.raises(StreamError, match=r"bytes of '.*' beginning ff d8 ff e0 .* are none"):
        images.decode(compressed(bytes(giant)))
