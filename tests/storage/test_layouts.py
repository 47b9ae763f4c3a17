"""Layouts are recognised by a file's content, whatever its attributes are; RoboTwin's, XPolicyLab's and RDT's files."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from aloha_kit.core import EpisodeError
from aloha_kit.data.index import read_table
from aloha_kit.episode import Episode
from aloha_kit.episode.validate import validate
from aloha_kit.formats import open_source, ReadOptions
from aloha_kit.storage.export import export
from tests.episode.command import main
from tests.storage.foreign import (
    aloha,
    cobot_magic,
    mobile_aloha,
    rdt,
    robotwin,
    ROBOTWIN_CAMERAS,
    STEPS,
    xpolicylab,
)
from tests.storage.recording import Rig

NAMES = tuple(
    f"{side}_{joint}" for side in ("left", "right") for joint in (*(f"joint{i}" for i in range(6)), "gripper")
)


def plain(jpeg: bytes) -> np.ndarray:
    """What OpenCV gives for an encoded image."""
    return np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR))


def rows_of(vector: Callable[[int], np.ndarray], rows: range) -> np.ndarray:
    return np.stack([vector(i)[:14] for i in rows])


# ---- how Cobot Magic is recognised


def changed(path: Path, change: Callable[[h5py.File], object]) -> Path:
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def written(folder: Path, write: Callable[[Path, Rig], None], change: Callable[[h5py.File], object]) -> Path:
    write(folder / "episode_0.hdf5", Rig())
    return changed(folder / "episode_0.hdf5", change)


def compress(value: object) -> Callable[[h5py.File], object]:
    return lambda file: file.attrs.__setitem__("compress", value)


def with_cam_low(file: h5py.File) -> None:
    compress(False)(file)
    file["base_action"] = np.zeros((STEPS, 2), np.float32)
    file["observations/images/cam_low"] = file["observations/images/cam_high"][()]


def without_depth(file: h5py.File) -> None:
    del file["observations/images_depth"]


@pytest.mark.parametrize(
    ("write", "change", "layout", "rate"),
    [
        (aloha, compress(False), "aloha", 50),  # the case: ALOHA was taken for Cobot Magic at 30 Hz
        (aloha, compress("False"), "aloha", 50),
        (aloha, with_cam_low, "aloha", 50),
        (cobot_magic, without_depth, "cobot_magic", 30),
        (cobot_magic, compress(True), "cobot_magic", 30),  # by its depth alone
        (mobile_aloha, compress(False), "mobile_aloha", 50),
        (mobile_aloha, compress("no"), "mobile_aloha", 50),
    ],
)
def test_one_sign_does_not_make_a_cobot_magic(
    tmp_path: Path, write: Callable[[Path, Rig], None], change: Callable[[h5py.File], object], layout: str, rate: float
) -> None:
    if change is with_cam_low:
        layout = "mobile_aloha"  # a base, and a camera that Cobot Magic has not
    with Episode.open(written(tmp_path, write, change)) as episode:
        assert (episode.layout, episode.rate_hz) == (layout, rate)


def test_a_decompressed_mobile_aloha_stays_one(tmp_path: Path) -> None:
    """Our own export made a Cobot Magic at 30 Hz of it: raw images, a base, and `compress` False."""
    mobile_aloha(tmp_path / "episode_0.hdf5", Rig())
    with Episode.open(export(tmp_path / "episode_0.hdf5", tmp_path / "raw", raw=True)) as episode:
        assert (episode.layout, episode.rate_hz, episode.compressed) == ("mobile_aloha", 50, False)


# ---- attributes beside the data


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, True), (1, True), ("true", True), (b"True", True), (np.array([True]), True), (np.float64(1), True)]
    + [(False, False), (0, False), ("False", False), (b"no", False), (np.array(["0"], object), False), ("", False)]
    + [("perhaps", None), (np.array([1, 0]), None), (h5py.Empty("f"), None)],
)
@pytest.mark.parametrize("write", [aloha, mobile_aloha])
def test_compress_may_be_anything_the_images_decide(
    tmp_path: Path, write: Callable[[Path, Rig], None], value: object, expected: bool | None
) -> None:
    path, encoded = written(tmp_path, write, compress(value)), write is mobile_aloha
    rig = Rig()
    with Episode.open(path) as episode:
        assert (episode.compressed, episode.attrs.get("compress")) == (encoded, expected)
        image = episode.image("cam_high", 3).astype(int)
        assert np.abs(image - rig.image("cam_high", 3)).mean() < (12 if encoded else 1e-9)
        reported = [note for note in episode.notes if "attribute compress is" in note]
        assert len(reported) == (expected is not encoded)
    found = [(f.level, f.found) for f in validate(path).findings]
    assert found == [("info", note) for note in reported]


def test_lengths_left_over_raw_images_are_not_used(tmp_path: Path) -> None:
    path = written(tmp_path, aloha, lambda file: file.__setitem__("compress_len", np.ones((3, STEPS), np.float32)))
    with Episode.open(path) as episode:
        assert (episode.layout, episode.compressed) == ("aloha", False)
        np.testing.assert_array_equal(episode.image("cam_high", 3), Rig().image("cam_high", 3))
        assert episode.notes == ("compress_len is not used: the images are raw pixels",)


@pytest.mark.parametrize(("value", "success"), [("False", False), (b"true", True), (np.array([0]), False), ("?", None)])
def test_success_and_sim_in_words(tmp_path: Path, value: object, success: bool | None) -> None:
    def mark(file: h5py.File) -> None:
        file.attrs["success"], file.attrs["sim"] = value, "False"

    path = written(tmp_path, aloha, mark)
    with Episode.open(path) as episode:
        assert (episode.success, episode.layout, episode.attrs["sim"]) == (success, "aloha", False)
    assert read_table(open_source(path), include_failed=True).offsets.tolist() == [
        1
    ]  # a real robot's, not a simulation's


# ---- other layouts


def test_robotwin(tmp_path: Path) -> None:
    rig, path = Rig(), tmp_path / "episode0.hdf5"
    robotwin(path, rig)
    with Episode.open(path) as episode:
        assert (episode.layout, episode.length, episode.frames) == ("robotwin", STEPS - 1, STEPS)
        np.testing.assert_array_equal(episode.qpos, rows_of(rig.qpos, range(STEPS)))
        np.testing.assert_array_equal(episode.action, rows_of(rig.qpos, range(1, STEPS)))
        assert episode.contract.state_names == episode.contract.action_names == NAMES
        assert (episode.rate_hz, episode.cameras) == (15.0, tuple(sorted(ROBOTWIN_CAMERAS)))
        assert "units and rate: rad and 15 Hz are assumed" in episode.assumption
        assert any("the action of the row before it" in note for note in episode.notes)
        for camera, drawn in ROBOTWIN_CAMERAS.items():
            expected = plain(cv2.imencode(".jpg", rig.image(drawn, 7))[1].tobytes())
            np.testing.assert_array_equal(episode.image(camera, 7), expected)
            assert np.abs(expected.astype(int) - rig.image(drawn, 7)).mean() < 12  # RGB
        assert episode.depth_cameras == ("head_camera",)
        np.testing.assert_array_equal(episode.depth("head_camera", 5), rig.depth_image(5))  # rounded to mm
        assert (episode.qvel, episode.effort, episode.base_action) == (None, None, None)
    table = read_table(open_source(tmp_path))
    assert (len(table), table.offsets.tolist()) == (STEPS - 1, [0])
    assert validate(path).level == "ok"


def test_robotwin_with_the_vector_only(tmp_path: Path) -> None:
    rig, path = Rig(), tmp_path / "episode0.hdf5"
    robotwin(path, rig, vector_only=True)
    with Episode.open(path) as episode:
        assert episode.contract.state_names == NAMES
        np.testing.assert_array_equal(episode.action, rows_of(rig.qpos, range(1, STEPS)))


@pytest.mark.parametrize("marked", [False, True])
def test_xpolicylab(tmp_path: Path, marked: bool) -> None:
    """Ordinary JPEG carries a comment; without one, red and blue are exchanged. Both give the right colours."""
    rig, path = Rig(), tmp_path / "episode_0000000.hdf5"
    xpolicylab(path, rig, marked=marked)
    with Episode.open(path) as episode:
        assert (episode.layout, episode.length, episode.frames) == ("xpolicylab", STEPS, STEPS)
        np.testing.assert_array_equal(episode.qpos, rows_of(rig.qpos, range(STEPS)))
        np.testing.assert_array_equal(episode.action, rows_of(rig.action, range(STEPS)))
        assert (episode.rate_hz, episode.contract.action_names) == (20.0, NAMES)
        assert "does not record its units: rad is assumed" in episode.assumption
        assert episode.attrs["instruction"] == "put the cube into the bowl"
        assert (episode.jpeg_order, episode.jpeg_order_source) == (
            ("standard", "file") if marked else ("mobile_aloha", "guessed")
        )
        for camera, drawn in (("cam_head", "cam_high"), ("cam_left_wrist", "cam_left_wrist")):
            image, right = episode.image(camera, 7).astype(int), rig.image(drawn, 7).astype(int)
            assert np.abs(image - right).mean() < 12 < np.abs(image[..., ::-1] - right).mean()
        np.testing.assert_array_equal(episode.depth("cam_head", 5), rig.depth_image(5))
    table = read_table(open_source(tmp_path))
    assert (len(table), table.offsets.tolist()) == (STEPS, [0])
    assert validate(path).level == "ok"


def test_xpolicylab_without_a_rate_and_with_poses_only(tmp_path: Path) -> None:
    path = tmp_path / "episode_0000000.hdf5"
    xpolicylab(path, Rig(), frequency=False)
    with Episode.open(path) as episode:
        assert episode.rate_hz == 25
        assert "units and rate: rad and 25 Hz are assumed" in episode.assumption
    changed(path, lambda file: [file.__delitem__(f"action/{side}_arm_joint_states") for side in ("left", "right")])
    with pytest.raises(EpisodeError, match=r"no known layout: .*state/left_arm_joint_states \(40, 6\)"):
        Episode.open(path)


@pytest.mark.parametrize(
    "instruction", ["pour the water", np.bytes_("pour the water"), np.frombuffer(b"pour the water\0\0", np.uint8)]
)
def test_rdt(tmp_path: Path, instruction: object) -> None:
    rig = Rig()
    (tmp_path / "episode_2").mkdir()
    rdt(tmp_path / "episode_2" / "episode_2.hdf5", rig, instruction)
    table = read_table(open_source(tmp_path))
    assert list(table.names) == ["episode_2.hdf5"]
    with table.open(0) as episode:
        assert episode.attrs["instruction"] == "pour the water"
        np.testing.assert_array_equal(episode.depth("cam_high", 5), rig.depth_image(5))
        expected = plain(cv2.imencode(".jpg", rig.image("cam_high", 9))[1].tobytes())
        np.testing.assert_array_equal(episode.image("cam_high", 9), expected)


# ---- exported to the ALOHA family's layout


@pytest.mark.parametrize("write", [robotwin, xpolicylab, rdt])
def test_exported_files_hold_the_same(tmp_path: Path, write: Callable[[Path, Rig], None]) -> None:
    path = tmp_path / "episode_3.hdf5"
    write(path, Rig())
    with Episode.open(path) as was, Episode.open(export(path, tmp_path / "out", start=4, stop=20)) as episode:
        assert (episode.length, episode.frames - 16) == (16, was.frames - was.length)
        np.testing.assert_array_equal(episode.action, was.action[4:20])
        np.testing.assert_array_equal(episode.qpos, was.qpos[4 : 20 + was.frames - was.length])
        assert (episode.contract, episode.rate_hz, episode.layout) == (was.contract, was.rate_hz, was.layout)
        assert episode.attrs.get("instruction") == was.attrs.get("instruction")
        assert (episode.compressed, len(episode.cameras)) == (True, len(was.cameras))
        for camera in episode.cameras:
            assert episode.jpeg(camera, 2) == was.jpeg(camera, 6)
            np.testing.assert_array_equal(episode.image(camera, 2), was.image(camera, 6))
        for camera in was.depth_cameras:
            np.testing.assert_array_equal(episode.depth(camera, 2), was.depth(camera, 6))
    assert read_table(open_source(tmp_path / "out")).offsets.tolist() == read_table(open_source(path)).offsets.tolist()
    with h5py.File(tmp_path / "out" / "episode_3.hdf5") as file:  # as Mobile ALOHA's readers take it
        row = file[f"observations/images/{was.cameras[0]}"][2]
        np.testing.assert_array_equal(cv2.imdecode(row, 1), was_image(path, was.cameras[0], 6))


def was_image(path: Path, camera: str, i: int) -> np.ndarray:
    with Episode.open(path) as episode:
        return episode.image(camera, i)


# ---- red and blue

RED = np.zeros((24, 32, 3), np.uint8)
RED[..., 0] = 220


def red(folder: Path, *, exchanged: bool, attribute: str | None = None) -> Path:
    """A Mobile ALOHA file of nothing but red; ordinary JPEG, or `exchanged` as its recorder writes it."""
    path = folder / "episode_0.hdf5"
    mobile_aloha(path, Rig())
    code = cv2.imencode(".jpg", RED if exchanged else RED[..., ::-1])[1].reshape(-1)
    with h5py.File(path, "r+") as file:
        for camera in list(file["observations/images"]):
            del file[f"observations/images/{camera}"]
            file[f"observations/images/{camera}"] = np.tile(code, (STEPS, 1))
        if attribute:
            file.attrs["jpeg_order"] = attribute
    return path


def is_red(image: np.ndarray) -> bool:
    return bool(np.abs(image.astype(int) - RED).max() < 10)


@pytest.mark.parametrize("exchanged", [True, False])
def test_the_order_is_guessed_given_or_recorded(tmp_path: Path, exchanged: bool) -> None:
    path = red(tmp_path, exchanged=exchanged)
    with Episode.open(path) as episode:
        assert (is_red(episode.image("cam_high", 0)), episode.jpeg_order_source) == (exchanged, "guessed")
        assert "mobile_aloha is assumed" in episode.jpeg_order_note
    for order in ("mobile_aloha", "standard"):
        right = (order == "mobile_aloha") == exchanged
        with Episode.open(path, jpeg_order=order) as episode:  # type: ignore[arg-type]
            assert (is_red(episode.image("cam_high", 0)), episode.jpeg_order_source) == (right, "given")
            assert episode.jpeg_order_note == ""
        table = read_table(open_source(path, options=ReadOptions(jpeg_order=order)))  # type: ignore[arg-type]
        with table.open(0) as episode:
            assert is_red(episode.image("cam_high", 0)) == right
        assert table.readings == (f"jpeg_order {order}",)
    path.unlink()
    reported = red(tmp_path, exchanged=exchanged, attribute="mobile_aloha" if exchanged else "standard")
    with Episode.open(reported, jpeg_order="standard" if exchanged else "mobile_aloha") as episode:
        assert (is_red(episode.image("cam_high", 0)), episode.jpeg_order_source) == (True, "file")
        assert "is not used: the file records" in episode.notes[0]


def test_info_shows_the_order_and_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    red(tmp_path, exchanged=False)
    assert main(["info", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "jpeg (mobile_aloha, guessed): cam_high 24x32" in out
    assert "if red and blue are exchanged, give --jpeg_order standard (in 1 of 1 episode)" in out
    assert main(["info", str(tmp_path), "--jpeg_order", "standard", "--json"]) == 0
    (info,) = json.loads(capsys.readouterr().out)
    assert (info["jpeg_order"], info["jpeg_order_source"], info["notes"]) == ("standard", "given", [])


@pytest.mark.parametrize("source", ["mobile_aloha", "standard"])
@pytest.mark.parametrize("target", ["mobile_aloha", "standard"])
def test_export_writes_jpeg_of_either_order(tmp_path: Path, source: str, target: str) -> None:
    red(tmp_path, exchanged=source == "mobile_aloha")
    out = tmp_path / "out"
    assert main(["export", str(tmp_path), str(out), "--jpeg_order", source, "--jpeg", target]) == 0
    with h5py.File(out / "episode_0.hdf5") as file:
        decoded = cv2.imdecode(file["observations/images/cam_high"][5], cv2.IMREAD_COLOR)
        assert is_red(decoded if target == "mobile_aloha" else decoded[..., ::-1])
        assert (file["observations/images/cam_high"].dtype, file.attrs["compress"]) == (np.uint8, True)
    with Episode.open(out / "episode_0.hdf5") as episode, Episode.open(tmp_path / "episode_0.hdf5") as was:
        assert (episode.jpeg_order, episode.jpeg_order_source, episode.layout) == (target, "file", "mobile_aloha")
        assert is_red(episode.image("cam_high", 5))
        assert (episode.jpeg("cam_high", 5) == was.jpeg("cam_high", 5)) == (source == target)  # kept byte for byte


def test_export_of_raw_and_converted_images(tmp_path: Path) -> None:
    """Raw pixels can become JPEG; floats become the pixels that they stand for."""
    rig, path = Rig(), tmp_path / "episode_0.hdf5"
    aloha(path, rig)
    with Episode.open(export(path, tmp_path / "jpeg", jpeg="standard")) as episode:
        assert (episode.jpeg_order, episode.compressed) == ("standard", True)
        assert np.abs(episode.image("cam_high", 5).astype(int) - rig.image("cam_high", 5)).mean() < 6
    with h5py.File(path, "r+") as file:
        pixels = file["observations/images/cam_high"][()]
        del file["observations/images/cam_high"]
        file["observations/images/cam_high"] = (pixels / 255).transpose(0, 3, 1, 2)
    with h5py.File(export(path, tmp_path / "out", stop=8)) as file:
        data = file["observations/images/cam_high"]
        assert (data.dtype, bool(file.attrs["compress"])) == (np.uint8, False)
        np.testing.assert_array_equal(data, pixels[:8])


def test_flags_that_exclude_each_other_are_wrong_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    aloha(tmp_path / "episode_0.hdf5", Rig())
    assert main(["export", str(tmp_path), str(tmp_path / "out"), "--raw", "--jpeg", "standard"]) == 2
    assert "--raw and --jpeg standard exclude each other" in capsys.readouterr().err
    assert main(["info", str(tmp_path), "--contract", "own.yaml", "--rig", "aloha"]) == 2
    assert "--contract own.yaml and --rig aloha both describe the joints; give one of them" in capsys.readouterr().err


def test_vectors_without_an_entry_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "episode_0.hdf5"
    with h5py.File(path, "w") as file:
        file["action"] = file["observations/qpos"] = np.zeros((9, 0), np.float32)
    with pytest.raises(EpisodeError, match="/action is no table of rows"):
        Episode.open(path)
