"""Images of other types and shapes are converted exactly and reported, or refused by what they are."""

import re
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from aloha_kit.core import EpisodeError
from aloha_kit.data.camera_frames import DirectFrames, frame, resized
from aloha_kit.data.index import read_table
from aloha_kit.episode import Episode
from aloha_kit.episode.validate import validate
from aloha_kit.formats import open_source
from tests.storage.foreign import aloha, STEPS
from tests.storage.recording import Rig

CAMERA = "cam_high"
Pixels = np.ndarray  # (T, H, W, 3) uint8, what was drawn


def drawn() -> Pixels:
    rig = Rig()
    return np.stack([rig.image(CAMERA, i) for i in range(STEPS)])


def stored(folder: Path, data: np.ndarray, dtype: object = None, depth: object = None) -> Path:
    """An ALOHA file whose one camera is `data` as it is."""
    path = folder / "episode_0.hdf5"
    aloha(path, Rig())
    with h5py.File(path, "r+") as file:
        del file["observations/images"]
        file.create_dataset(f"observations/images/{CAMERA}", data=data, dtype=dtype)
        if depth is not None:
            file["observations/images_depth/cam_high"] = depth
    return path


def grey(pixels: Pixels) -> Pixels:
    return np.stack([pixels[..., 1]] * 3, axis=-1)


def alpha(pixels: Pixels) -> np.ndarray:
    return np.concatenate([pixels, np.full_like(pixels[..., :1], 77)], axis=-1)


def first(pixels: np.ndarray) -> np.ndarray:
    return pixels.transpose(0, 3, 1, 2)


CONVERTED: dict[str, tuple[Callable[[Pixels], np.ndarray], Callable[[Pixels], Pixels], str]] = {
    "grey without an axis": (lambda p: p[..., 1], grey, "grey repeated in three channels"),
    "one channel": (lambda p: p[..., 1:2], grey, "grey repeated in three channels"),
    "one channel first": (lambda p: first(p[..., 1:2]), grey, "channel axis moved to the end, grey repeated"),
    "channels first": (first, lambda p: p, r"uint8 \(frames, 3, 24, 32\) read as uint8 RGB: channel axis moved"),
    "four channels": (alpha, lambda p: p, "fourth channel dropped"),
    "four channels first": (lambda p: first(alpha(p)), lambda p: p, "channel axis moved to the end, fourth channel"),
    "float64 0 to 1": (lambda p: p / 255, lambda p: p, r"float64 .* values times 255$"),
    "float32 0 to 1, first": (lambda p: first((p / 255).astype(np.float32)), lambda p: p, "values times 255$"),
    "float16 0 to 1": (lambda p: (p / 255).astype(np.float16), lambda p: p, "values times 255$"),
    "float32 0 to 255": (lambda p: p.astype(np.float32), lambda p: p, "values from 0 to 255 kept"),
    "int64": (lambda p: p.astype(np.int64), lambda p: p, r"int64 .* values from 0 to 255 kept"),
    "uint16 that fits": (lambda p: p.astype(np.uint16), lambda p: p, "values from 0 to 255 kept"),
    "grey float": (lambda p: p[..., 1] / 255, grey, "values times 255, grey repeated"),
}


@pytest.mark.parametrize("kind", CONVERTED)
def test_converted_exactly_and_reported(tmp_path: Path, kind: str) -> None:
    make, expect, reported = CONVERTED[kind]
    pixels = drawn()
    path, expected = stored(tmp_path, make(pixels)), expect(pixels)
    with Episode.open(path) as episode:
        assert episode.image_size(CAMERA) == pixels.shape[1:3]
        for i in (0, 7, STEPS - 1):
            image = episode.image(CAMERA, i)
            assert (image.dtype, image.flags.c_contiguous) == (np.uint8, True)
            np.testing.assert_array_equal(image, expected[i])
    verdict = validate(path)
    assert verdict.level == "ok", verdict.findings
    assert [f.level for f in verdict.findings] == ["info"]
    assert re.search(reported, verdict.findings[0].found), verdict.findings[0].found
    table = read_table(open_source(path))
    assert verdict.findings[0].found in table.notes[0]
    batch = DirectFrames(table, {CAMERA: (24, 32)}, 1).gather(np.array([3, 20]))[CAMERA].numpy()
    np.testing.assert_array_equal(batch, expected[[3, 20]].transpose(0, 3, 1, 2))


def test_floats_that_are_no_multiples_are_rounded_and_reported(tmp_path: Path) -> None:
    pixels = drawn()
    path = stored(tmp_path, (pixels / 255 + np.where(pixels < 200, 0.0012, 0)).astype(np.float32))
    with Episode.open(path) as episode:
        np.testing.assert_array_equal(episode.image(CAMERA, 0), pixels[0])
        assert "values times 255, rounded" in episode.notes[0]


REFUSED: dict[str, tuple[Callable[[Pixels], np.ndarray], str]] = {
    "16-bit colour": (lambda p: p.astype(np.uint16) * 257, "uint16 values from 0 to .*: 16-bit colour, expected 0 to"),
    "complex": (lambda p: p.astype(np.complex64), r"images are complex64 \(frames, 24, 32, 3\), expected numbers"),
    "booleans": (lambda p: p > 100, "images are bool"),
    "negative": (lambda p: p.astype(np.int16) - 128, "int16 values from -128 to"),
    "-1 to 1": (lambda p: (p / 127.5 - 1).astype(np.float32), "float32 values from -1 to .*, expected 0 to 1"),
    "too bright": (lambda p: p * 2.0, "float64 values from 0 to .*, expected 0 to 255"),
    "not whole": (lambda p: p * 0.7, "float64 values up to .* that are not whole"),
    "not finite": (lambda p: np.where(p > 200, np.nan, p / 255), "values from nan"),
    "two channels": (lambda p: p[..., :2], r"images are uint8 \(frames, 24, 32, 2\), expected 1, 3 or 4 channels"),
    "five channels": (lambda p: p[..., [0, 1, 2, 0, 1]], "expected 1, 3 or 4 channels"),
    "either axis": (lambda p: p[:, :3], r"\(frames, 3, 32, 3\): either axis may be that of the channels"),
    "five axes": (lambda p: p[:, None], r"images are uint8 \(frames, 1, 24, 32, 3\), expected \(frames, height"),
    "no pixels": (lambda p: p[:, :0], r"images are uint8 \(frames, 0, 32, 3\), without a pixel"),
    "two strings a row": (
        lambda p: np.full((STEPS, 2), b"\xff\xd8\xff"),
        r"images are \|S3 \(frames, 2\), expected numbers",
    ),
    "a table of floats": (lambda p: p.reshape(STEPS, -1) / 255, r"images are float64 \(frames, 2304\)"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_by_what_it_is(tmp_path: Path, kind: str) -> None:
    make, reported = REFUSED[kind]
    path = stored(tmp_path, make(drawn()))
    with Episode.open(path) as episode, pytest.raises(EpisodeError, match=f"camera '{CAMERA}': .*{reported}"):
        episode.image(CAMERA, 0)
    errors = [f.found for f in validate(path).findings if f.level == "error"]
    assert len(errors) == 1
    with pytest.raises(EpisodeError, match=reported):
        read_table(open_source(path))
    assert read_table(open_source(path), cameras=[]).cameras == ()  # the rest of the file can be used


def test_a_frame_unlike_those_looked_at_is_refused_when_it_is_read(tmp_path: Path) -> None:
    pixels = drawn() / 255
    pixels[3] *= 255
    with Episode.open(stored(tmp_path, pixels)) as episode:
        episode.image(CAMERA, 0)
        with pytest.raises(
            EpisodeError, match=r"frame 3 of camera 'cam_high' cannot be used: float64 values from 0 to"
        ):
            episode.image(CAMERA, 3)


def test_nothing_else_than_rgb_is_resized(tmp_path: Path) -> None:
    """OpenCV wrote one plane of three and left the others as the memory was; torch repeated one channel."""
    for shape in ((24, 32), (24, 32, 1), (24, 32, 4), (3, 24, 32)):
        with pytest.raises(ValueError, match="must be"):
            resized(np.zeros(shape, np.uint8), (24, 32))
    with pytest.raises(ValueError, match="float32"):
        resized(np.zeros((24, 32, 3), np.float32), (24, 32))  # type: ignore[arg-type]
    with Episode.open(stored(tmp_path, drawn()[..., :1])) as episode:
        planes = frame(episode, CAMERA, 5, (24, 32), (24, 32)).numpy()
    np.testing.assert_array_equal(planes, np.stack([drawn()[5, ..., 0]] * 3))


# ---- encoded rows


def coded(kind: str, images: Pixels | list[np.ndarray], *options: int) -> list[bytes]:
    return [cv2.imencode(f".{kind}", image, list(options))[1].tobytes() for image in images]


def rows(codes: list[bytes], how: str) -> tuple[np.ndarray, object]:
    longest = max(map(len, codes)) + 3
    if how == "strings":
        return np.array(codes, f"S{longest}"), None
    if how == "opaque":
        return np.array([np.void(code.ljust(longest, b"\0")) for code in codes]), None
    if how == "variable":
        data = np.empty(len(codes), object)
        data[:] = [np.frombuffer(code, np.uint8) for code in codes]
        return data, h5py.vlen_dtype(np.uint8)
    padded = np.stack([np.frombuffer(code.ljust(longest, b"\0"), np.uint8) for code in codes])
    return {"padded": padded, "padded, one more axis": padded[..., None], "int8": padded.view(np.int8)}[how], None


LOSSLESS = {"png": (), "webp": (cv2.IMWRITE_WEBP_QUALITY, 101)}
HOW = ("strings", "opaque", "variable", "padded", "padded, one more axis", "int8")


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", LOSSLESS)
def test_encoded_rows_are_read_to_the_pixel(tmp_path: Path, kind: str, how: str) -> None:
    pixels = drawn()
    codes = coded(kind, pixels, *LOSSLESS[kind])
    assert kind == "png" or any(code.endswith(b"\0") for code in codes), "the test would not see a zero lost at the end"
    data, dtype = rows(codes, how)
    path = stored(tmp_path, data, dtype)
    with Episode.open(path) as episode:
        assert (episode.compressed, episode.layout, episode.length) == (True, "mobile_aloha", STEPS)
        for i, (image, code) in enumerate(zip(pixels, codes, strict=True)):
            np.testing.assert_array_equal(episode.image(CAMERA, i), image)
            assert episode.encoded(CAMERA, i) == code
    assert validate(path).level == "ok"
    with Episode.open(path, jpeg_order="standard") as episode:
        np.testing.assert_array_equal(episode.image(CAMERA, 4), pixels[4, ..., ::-1])


@pytest.mark.parametrize("how", HOW)
def test_jpeg_rows(tmp_path: Path, how: str) -> None:
    codes = coded("jpg", drawn(), cv2.IMWRITE_JPEG_QUALITY, 50)
    data, dtype = rows(codes, how)
    path = stored(tmp_path, data, dtype)
    with Episode.open(path) as episode:
        for i in (0, STEPS - 1):
            assert episode.jpeg(CAMERA, i) == codes[i]
            np.testing.assert_array_equal(episode.image(CAMERA, i), cv2.imdecode(np.frombuffer(codes[i], np.uint8), 1))
    assert validate(path).level == "ok"


def test_strings_that_end_at_a_zero_are_read_whole(tmp_path: Path) -> None:
    """HDF5 keeps C strings too, and gives them up to the first zero byte when it converts them."""
    codes = coded("png", drawn())
    longest = max(map(len, codes)) + 1
    path = stored(tmp_path, drawn())
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(longest)
    kind.set_strpad(h5py.h5t.STR_NULLTERM)
    with h5py.File(path, "r+") as file:
        del file[f"observations/images/{CAMERA}"]
        data = h5py.h5d.create(file["observations/images"].id, CAMERA.encode(), kind, h5py.h5s.create_simple((STEPS,)))
        data.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array(codes, f"S{longest}"), mtype=kind)
    with Episode.open(path) as episode:
        np.testing.assert_array_equal(episode.image(CAMERA, 9), drawn()[9])


def test_encoded_grey_and_alpha_are_converted_and_reported(tmp_path: Path) -> None:
    pixels = drawn()
    for number, (kind, images, expected, reported) in enumerate(
        (
            ("png", pixels[..., 1], grey(pixels), "PNG read as RGB: grey repeated in three channels"),
            ("png", alpha(pixels), pixels, "PNG read as RGB: transparency dropped"),
            ("webp", alpha(pixels), pixels, "WebP read as RGB: transparency dropped"),
            ("jpg", np.full((STEPS, 24, 32), 90, np.uint8), None, "JPEG of one channel read as RGB: grey repeated"),
            ("png", pixels, pixels, ""),
            ("webp", pixels, pixels, ""),
            ("jpg", pixels, None, ""),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        with Episode.open(stored(folder, *rows(coded(kind, images), "strings"))) as episode:
            if expected is not None and kind == "png":
                np.testing.assert_array_equal(episode.image(CAMERA, 2), expected[2])
            assert episode.image(CAMERA, 2).shape == (24, 32, 3)
            notes = [n for n in episode.notes if "compress" not in n and n != episode.jpeg_order_note]
            assert [f"{CAMERA}: {reported}" in note for note in notes] == ([True] if reported else [])


def test_encoded_rows_of_other_kinds_are_refused_by_name(tmp_path: Path) -> None:
    pixels = drawn()
    cmyk = bytes.fromhex("ffd8 ffc0 0014 08 0018 0020 04 011100 021100 031100 041100 ffda 0000 ffd9")
    for number, (codes, reported) in enumerate(
        (
            (coded("png", pixels.astype(np.uint16) * 257), "a PNG of 16 bits a channel, expected 8"),
            (coded("bmp", pixels), "not a JPEG, PNG or WebP but a BMP: .* beginning 42 4d"),
            (coded("tiff", pixels), "not a JPEG, PNG or WebP but a TIFF"),
            ([cmyk] * STEPS, "a JPEG of 4 channels of 8 bits, expected 1 or 3 of 8"),
            ([b"aGVsbG8="] * STEPS, "not a JPEG, PNG or WebP"),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = stored(folder, *rows(codes, "strings"))
        with (
            Episode.open(path) as episode,
            pytest.raises(EpisodeError, match=f"frame 0 of camera '{CAMERA}' .*{reported}"),
        ):
            episode.image(CAMERA, 0)
        with pytest.raises(EpisodeError, match=reported):
            read_table(open_source(path))
        assert validate(path).level == "error"


# ---- depth


def depths() -> np.ndarray:
    rig = Rig()
    return np.stack([rig.depth_image(i) for i in range(STEPS)])


@pytest.mark.parametrize("how", ["strings", "variable", "padded"])
def test_depth_as_png_rows(tmp_path: Path, how: str) -> None:
    path = stored(tmp_path, drawn())
    data, dtype = rows(coded("png", depths()), how)
    with h5py.File(path, "r+") as file:
        file.create_dataset("observations/images_depth/cam_high", data=data, dtype=dtype)
    with Episode.open(path) as episode:
        np.testing.assert_array_equal(episode.depth(CAMERA, 5), depths()[5])
        assert "read as 16-bit PNG of depth in mm" in episode.notes[0]


@pytest.mark.parametrize(
    ("change", "reported"),
    [
        (lambda d: d[..., None], ""),
        (lambda d: d.astype(np.float64), ""),
        (lambda d: d.astype(np.int32), ""),
        (lambda d: d / 1000, "float64 values that are not whole, up to .*: expected mm, not m"),
        (lambda d: -d.astype(np.int32) - 1, "int32 values from -.* expected 0 to 65535 mm"),
        (lambda d: np.stack([d] * 3, axis=-1), r"depth is uint16 \(frames, .*, 3\), expected uint16"),
    ],
)
def test_depth_of_other_types(tmp_path: Path, change: Callable[[np.ndarray], np.ndarray], reported: str) -> None:
    with Episode.open(stored(tmp_path, drawn(), depth=change(depths()))) as episode:
        if not reported:
            np.testing.assert_array_equal(episode.depth(CAMERA, 5), depths()[5])
            return
        with pytest.raises(EpisodeError, match=reported):
            episode.depth(CAMERA, 5)


def test_rows_of_numbers_of_any_length_are_no_images(tmp_path: Path) -> None:
    data = np.empty(STEPS, object)
    data[:] = [np.arange(5.0)] * STEPS
    path = stored(tmp_path, data, h5py.vlen_dtype(np.float64))
    with (
        Episode.open(path) as episode,
        pytest.raises(EpisodeError, match="camera 'cam_high': rows are float64"),
    ):
        episode.image(CAMERA, 0)
    assert [f.level for f in validate(path).findings] == ["error"]
