"""A JPEG that a camera sent stays as it is, and every reader sees its colours."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import dm_env
import h5py
import numpy as np
import PIL.Image
import pytest

from aloha_kit.core import EpisodeError, Subset
from aloha_kit.episode import Episode
from aloha_kit.episode.validate import validate
from aloha_kit.storage.export import export
from aloha_kit.storage.recovery import recover
from tests.episode.command import main
from tests.storage.recording import feed, outcome, Rig, writer_for

NAMES = ("cam_high", "cam_left_wrist", "cam_right_wrist")


def jpeg(image: np.ndarray, **options: Any) -> bytes:
    """An ordinary JPEG, not from our encoder."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, "JPEG", **{"quality": 97, "subsampling": 0, **options})
    return buffer.getvalue()


class Untouched(Mapping[str, Any]):
    """Images that must not be read."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def __getitem__(self, name: str) -> Any:
        raise AssertionError(f"'{name}' was decoded")

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class JpegRig(Rig):
    """The cameras in `sending` give JPEG (and only that where all do), the others pixels."""

    sending: tuple[str, ...] = NAMES

    def sent(self, camera: str, row: int) -> bytes:
        return jpeg(self.image(camera, row))

    def observation(self, row: int) -> Any:
        observation = super().observation(row)
        observation["images_jpeg"] = {name: self.sent(name, row) for name in self.sending}
        if self.sending == NAMES:
            observation["images"] = Untouched(NAMES)
        return observation


def close(got: np.ndarray, wanted: np.ndarray) -> bool:
    return float(np.abs(got.astype(int) - wanted.astype(int)).mean()) < 4


def keep(folder: Path, rig: Rig, steps: int = 12, **settings: Any) -> Path:
    writer = writer_for(folder, rig, **settings)
    feed(writer, rig, steps)
    writer.on_end(outcome(steps))
    return writer.path


def test_bytes_are_kept_and_colours_are_right(tmp_path: Path) -> None:
    rig = JpegRig()
    path = keep(tmp_path, rig)
    with Episode.open(path) as episode, h5py.File(path) as file:
        assert episode.attrs["jpeg_order"] == episode.jpeg_order == "standard"
        assert "jpeg_quality" not in episode.attrs
        assert episode.attrs["compress"]
        for number, camera in enumerate(NAMES):
            for row in range(13):
                assert episode.jpeg(camera, row) == rig.sent(camera, row)
                assert file["compress_len"][number, row] == len(rig.sent(camera, row))
            assert close(episode.image(camera, 5), rig.image(camera, 5))
            assert not close(episode.image(camera, 5)[..., ::-1], rig.image(camera, 5)), "the test would not see a swap"
            assert episode.image_size(camera) == rig.sizes[camera]
    verdict = validate(path)
    assert not [finding for finding in verdict.findings if finding.level == "error"], verdict.findings


def test_a_recovered_journal_has_the_same_bytes(tmp_path: Path) -> None:
    rig = JpegRig()
    writer = writer_for(tmp_path / "running", rig)
    feed(writer, rig, 9)
    while writer.written < 9:
        time.sleep(0.01)
    (tmp_path / "dead").mkdir()
    journal = tmp_path / "dead" / "episode_0.hdf5.partial"
    shutil.copy(f"{writer.path}.partial", journal)  # as a killed recorder leaves it
    writer.discard()
    found = recover(journal)
    assert (found.outcome, found.steps) == ("recovered", 9)
    with Episode.open(tmp_path / "dead" / "episode_0.hdf5") as episode:
        assert [episode.jpeg("cam_high", row) for row in range(10)] == [rig.sent("cam_high", row) for row in range(10)]
        assert close(episode.image("cam_high", 9), rig.image("cam_high", 9))
        assert "interrupted" in episode.attrs["reason"]


def test_cameras_that_send_pixels_beside_one_that_sends_jpeg(tmp_path: Path) -> None:
    rig = JpegRig()
    rig.sending = ("cam_left_wrist",)
    with Episode.open(keep(tmp_path, rig)) as episode:
        for row in (0, 12):
            assert episode.jpeg("cam_left_wrist", row) == rig.sent("cam_left_wrist", row)
            for camera in NAMES:
                assert close(episode.image(camera, row), rig.image(camera, row))


def test_a_frame_that_is_no_jpeg_is_encoded_like_the_rest(tmp_path: Path) -> None:
    """A camera node that changes to PNG, or a raw topic that takes over, in the middle of an episode."""
    rig = JpegRig()
    writer = writer_for(tmp_path, rig)
    writer.on_reset(dm_env.restart(rig.observation(0)))
    pixels = {**Rig.observation(rig, 1), "images_jpeg": {}}
    writer.on_step(rig.action(0), dm_env.transition(0.0, pixels))
    writer.on_step(rig.action(1), dm_env.transition(0.0, rig.observation(2)))
    writer.on_end(outcome(2))
    with Episode.open(writer.path) as episode:
        assert [episode.jpeg("cam_high", row) == rig.sent("cam_high", row) for row in range(3)] == [True, False, True]
        assert all(close(episode.image("cam_high", row), rig.image("cam_high", row)) for row in range(3))


def test_an_episode_that_began_with_pixels_stays_in_its_channel_order(tmp_path: Path) -> None:
    rig = JpegRig()
    rig.sending = ("cam_high",)
    writer = writer_for(tmp_path, rig)
    writer.on_reset(dm_env.restart(Rig.observation(rig, 0)))
    writer.on_step(rig.action(0), dm_env.transition(0.0, rig.observation(1)))
    writer.on_end(outcome(1))
    with Episode.open(writer.path) as episode:
        assert episode.jpeg_order == "mobile_aloha"
        assert episode.attrs["jpeg_quality"] == 95
        assert all(close(episode.image("cam_high", row), rig.image("cam_high", row)) for row in range(2))


def test_raw_episodes_decode(tmp_path: Path) -> None:
    rig = JpegRig()
    rig.sending = ("cam_high",)
    with Episode.open(keep(tmp_path, rig, images="raw")) as episode:
        np.testing.assert_array_equal(episode.image("cam_high", 3), rig.image("cam_high", 3))
        assert "jpeg_order" not in episode.attrs


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: jpeg(np.zeros((30, 32, 3), np.uint8)),
         r"camera 'cam_high' gave a JPEG of \(30, 32\), expected \(24, 32\) \(height, width\)"),
        (lambda data: data[:-2], r"camera 'cam_high' gave a JPEG that was cut off: \d+ bytes ending .* expected ff d9"),
        (lambda data: b"\x89PNG\r\n\x1a\n", r"camera 'cam_high' gave no JPEG: 8 bytes beginning 89 50 4e 47"),
        (lambda data: b"\xff\xd8\xff\xd9", "camera 'cam_high' gave a JPEG without a frame header: 4 bytes"),
    ],
    ids=["size", "cut off", "png", "empty"],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_the_rest_is_kept(tmp_path: Path, spoil: Any, message: str) -> None:
    rig = JpegRig()
    writer = writer_for(tmp_path, rig)
    feed(writer, rig, 3)
    bad = rig.observation(4)
    bad["images_jpeg"]["cam_high"] = spoil(bad["images_jpeg"]["cam_high"])
    with pytest.raises(EpisodeError, match=message):
        writer.on_step(rig.action(3), dm_env.transition(0.0, bad))
    writer.on_end(outcome(3, error=True, reason="camera"))
    with Episode.open(writer.path) as episode:
        assert episode.length == 3
    first = writer_for(tmp_path, rig)
    with pytest.raises(EpisodeError, match=message):
        first.on_reset(dm_env.restart(bad))


@pytest.mark.parametrize("options", [{"progressive": True}, {"comment": b"x" * 7000}, {"optimize": True}])
def test_jpegs_of_other_makes(tmp_path: Path, options: dict[str, Any]) -> None:
    class Other(JpegRig):
        def sent(self, camera: str, row: int) -> bytes:
            return jpeg(self.image(camera, row), **options)

    rig = Other()
    with Episode.open(keep(tmp_path, rig, 2)) as episode:
        assert episode.jpeg("cam_high", 1) == rig.sent("cam_high", 1)
        assert close(episode.image("cam_high", 1), rig.image("cam_high", 1))


def test_a_buffer_filled_up_with_zeros_and_a_grey_image(tmp_path: Path) -> None:
    class Grey(JpegRig):
        def sent(self, camera: str, row: int) -> bytes:
            return jpeg(self.image(camera, row)[..., 1]) + bytes(50 + row)

    rig = Grey()
    path = keep(tmp_path, rig)
    with Episode.open(path) as episode:
        assert episode.jpeg("cam_high", 4) == rig.sent("cam_high", 4).rstrip(b"\0")
        assert close(episode.image("cam_high", 4), np.stack([rig.image("cam_high", 4)[..., 1]] * 3, axis=-1))
    assert not [f for f in validate(path).findings if f.check == "images"]


def test_export_for_readers_that_do_not_know_the_order(tmp_path: Path) -> None:
    rig = JpegRig()
    keep(tmp_path / "a", rig)
    assert main(["export", str(tmp_path / "a"), str(tmp_path / "b"), "--mobile_aloha", "--start", "2"]) == 0
    copy = tmp_path / "b" / "episode_0.hdf5"
    with Episode.open(copy) as episode, h5py.File(copy) as file:
        assert (episode.length, episode.frames, episode.jpeg_order) == (10, 11, "mobile_aloha")
        assert episode.attrs["jpeg_quality"] == 95
        for number, camera in enumerate(NAMES):
            plain = cv2.imdecode(file[f"observations/images/{camera}"][4], cv2.IMREAD_COLOR)
            assert close(plain, rig.image(camera, 6))
            np.testing.assert_array_equal(episode.image(camera, 4), plain)
            assert file["compress_len"][number, 4] == len(episode.jpeg(camera, 4) or b"")
    assert not [f for f in validate(copy).findings if f.level == "error"]
    raw = export(tmp_path / "a" / "episode_0.hdf5", tmp_path / "c", raw=True, stop=3)
    with h5py.File(raw) as file:
        assert "jpeg_order" not in file.attrs
        assert close(file["observations/images/cam_high"][3], rig.image("cam_high", 3))
    part = export(tmp_path / "a" / "episode_0.hdf5", tmp_path / "d", start=5)
    with Episode.open(part) as episode:
        assert episode.jpeg("cam_high", 0) == rig.sent("cam_high", 5)
        assert close(episode.image("cam_high", 0), rig.image("cam_high", 5))


def test_some_cameras_of_images_that_are_not_looked_at() -> None:
    some = Subset(Untouched(NAMES), ("cam_right_wrist", "cam_high"))
    assert list(some) == ["cam_right_wrist", "cam_high"]
    assert len(some) == 2
    assert "cam_high" in some
    assert "cam_left_wrist" not in some
    with pytest.raises(KeyError):
        some["cam_left_wrist"]
    assert Subset({"a": 1, "b": 2}, "b")["b"] == 2
