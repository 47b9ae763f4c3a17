"""Each fault is injected into a good episode and found by its check; good episodes pass."""

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from aloha_kit.core import EpisodeError
from aloha_kit.core.arm_models import ARM_JOINTS
from aloha_kit.data.index import read_table
from aloha_kit.episode.bounds import Bounds, graded
from aloha_kit.episode.validate import validate
from aloha_kit.formats import open_source
from aloha_kit.storage.selection import select
from aloha_kit.storage.vectors import longest_run, runs
from tests.storage.foreign import LAYOUTS
from tests.storage.recording import feed, PERIOD, record, Rig, writer_for
from tests.synthetic import make, write

STEPS = 120


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One good episode of each kind, copied by every test that spoils one."""
    rig = Rig(depth=True, base=True)
    return {kind: record(tmp_path_factory.mktemp(kind), STEPS, rig, images=kind) for kind in ("raw", "jpeg")}


@pytest.fixture
def spoil(good: dict[str, Path], tmp_path: Path) -> Callable[..., list[tuple[str, str, str]]]:
    """Change a copy of the good episode; the findings (level, check, message)."""

    def run(change: Callable[[h5py.File], None], kind: str = "raw") -> list[tuple[str, str, str]]:
        path = tmp_path / "episode_0.hdf5"
        shutil.copy(good[kind], path)
        with h5py.File(path, "r+") as file:
            change(file)
        return [(f.level, f.check, f.found) for f in validate(path).findings]

    return run


@pytest.mark.parametrize("kind", ["raw", "jpeg"])
def test_good_episodes_are_ok(good: dict[str, Path], kind: str) -> None:
    verdict = validate(good[kind])
    assert verdict.findings == ()
    assert (verdict.level, verdict.steps) == ("ok", STEPS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_good_foreign_episodes_are_ok(tmp_path: Path, layout: str) -> None:
    LAYOUTS[layout](tmp_path / "episode_0.hdf5", Rig())
    assert validate(tmp_path / "episode_0.hdf5").findings == ()


def replace(file: h5py.File, name: str, value: np.ndarray) -> None:
    del file[name]
    file[name] = value


def shift(name: str, nanoseconds: int, rows: slice) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        values = file[name][()]
        values[rows] += nanoseconds
        file[name][...] = values

    return change


def set_to(name: str, where: object, value: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file[name][where] = value

    return change


def all_stamps(factor: float, jump: int = 0, at: int = 60) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        begin = int(file["stamps/deadline"][0])

        def stretch(name: str, data: object) -> None:
            if isinstance(data, h5py.Dataset):
                values = data[()]
                data[...] = begin + ((values - begin) * factor).astype(np.int64) + jump * (np.arange(len(values)) >= at)

        file["stamps"].visititems(stretch)

    return change


def freeze(camera: str, begin: int, end: int) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        data = file[f"observations/images/{camera}"]
        for row in range(begin, end):
            data[row] = data[begin - 1]

    return change


FAULTS = {
    "nan": (
        set_to("observations/qpos", (5, 2), np.nan),
        "error",
        "finite",
        "1 values of qpos are not finite, first: row 5, left_elbow",
    ),
    "inf": (set_to("action", (7, 13), np.inf), "error", "finite", "row 7, right_gripper"),
    "rows": (
        lambda f: replace(f, "observations/qvel", f["observations/qvel"][:-3]),
        "error",
        "shapes",
        "qvel has 118 rows, expected 121",
    ),
    "observations": (
        lambda f: replace(f, "observations/qpos", f["observations/qpos"][:-1]),
        "error",
        "shapes",
        "qpos has 120 rows, expected 121",
    ),
    "frames": (
        lambda f: replace(f, "observations/images/cam_high", f["observations/images/cam_high"][:50]),
        "error",
        "shapes",
        "images/cam_high has 50 rows, expected 121",
    ),
    "width": (
        lambda f: replace(f, "observations/qpos", f["observations/qpos"][:, :7]),
        "error",
        "shapes",
        "qpos has 7 entries, the contract 14",
    ),
    "stamp rows": (
        lambda f: replace(f, "stamps/command", f["stamps/command"][:-2]),
        "error",
        "shapes",
        "stamps/command has 118 rows, expected 120",
    ),
    "reward rows": (
        lambda f: replace(f, "reward", f["reward"][:-2]),
        "error",
        "shapes",
        "reward has 118 rows, expected 120",
    ),
    "no stamps": (lambda f: f.__delitem__("stamps"), "error", "stamps", "no stamps"),
    "still arms": (set_to("observations/qpos", ..., 0.25), "error", "constant", "qpos never changes"),
    "still arm": (
        set_to("observations/qpos", np.s_[:, 7:], 0.25),
        "warning",
        "constant",
        "qpos of arm 'right' never changes",
    ),
    "dead effort": (set_to("observations/effort", ..., 0), "warning", "constant", "effort never changes"),
    "state as action": (
        lambda f: f["action"].write_direct(f["observations/qpos"][:-1]),
        "error",
        "action",
        "the action equals qpos of the same row",
    ),
    "next state as action": (
        lambda f: f["action"].write_direct(f["observations/qpos"][1:]),
        "warning",
        "action",
        "the action equals qpos of the next row",
    ),
    "gripper in radians": (
        set_to("action", np.s_[:, 6], np.linspace(-0.6, 1.5, STEPS)),
        "warning",
        "gripper",
        "left_gripper of action spans -0.60 to 1.50",
    ),
    "gripper in degrees": (
        set_to("observations/qpos", np.s_[:, 13], np.linspace(0, 80, STEPS + 1)),
        "error",
        "gripper",
        "right_gripper of qpos spans 0.00 to 80.00",
    ),
    "glitch": (set_to("observations/qpos", (30, 1), 2.9), "error", "jump", "left_shoulder of qpos jumps"),
    "jerk": (set_to("action", (np.s_[60:], 3), 1.3), "warning", "jump", "left_forearm_roll of action jumps"),
    "backwards": (
        shift("stamps/qpos", -50_000_000, np.s_[40:41]),
        "error",
        "stamps",
        "qpos runs backwards by 30.0 ms at row 40",
    ),
    "same deadline": (shift("stamps/deadline", -PERIOD, np.s_[40:41]), "error", "stamps", "deadline repeats at row 40"),
    "late camera": (
        shift("stamps/images/cam_high", -45_000_000, np.s_[:]),
        "warning",
        "skew",
        "stream images/cam_high is 45.0 ms from the others",
    ),
    "other clock": (shift("stamps/images/cam_high", -(10**9), np.s_[:]), "error", "skew", "1000.0 ms from the others"),
    "slow": (all_stamps(1.1), "warning", "rate", "45.5 Hz on average, 50 Hz nominal"),
    "half rate": (all_stamps(2.0), "error", "rate", "25.0 Hz on average"),
    "gap": (all_stamps(1.0, 80_000_000), "warning", "gap", "100 ms between rows 59 and 60, 20 ms nominal"),
    "long gap": (all_stamps(1.0, 400_000_000), "error", "gap", "420 ms between rows 59 and 60"),
    "frozen": (
        freeze("cam_high", 20, 100),
        "error",
        "frozen",
        "camera 'cam_high' shows the same image for 1.60 s from row 19 while joints move",
    ),
    "frozen for a while": (
        freeze("cam_left_wrist", 20, 50),
        "warning",
        "frozen",
        "'cam_left_wrist' shows the same image for 0.60 s",
    ),
    "black": (
        set_to("observations/images/cam_right_wrist", ..., 3),
        "error",
        "black",
        "camera 'cam_right_wrist' is black in 8 of 8 frames looked at",
    ),
    "black at first": (
        set_to("observations/images/cam_right_wrist", np.s_[:9], 0),
        "warning",
        "black",
        "is black in 1 of 8",
    ),
    "grey": (
        set_to("observations/images/cam_high", ..., 120),
        "error",
        "flat",
        "camera 'cam_high' is of one colour in 8 of 8",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found(spoil: Callable[..., list[tuple[str, str, str]]], fault: str) -> None:
    change, level, check, text = FAULTS[fault]
    found = spoil(change)
    assert any(f[:2] == (level, check) and text in f[2] for f in found), found


def test_faults_are_found_by_their_check_alone(spoil: Callable[..., list[tuple[str, str, str]]]) -> None:
    """No second check cries about the same fault."""
    faults = "nan, rows, observations, dead effort, late camera, slow, gap, frozen for a while, black at first"
    for fault in faults.split(", "):
        assert len(spoil(FAULTS[fault][0])) == 1, fault


def test_leaders_belong_to_the_step_before_and_not_to_the_row(spoil: Callable[..., list[tuple[str, str, str]]]) -> None:
    def change(file: h5py.File) -> None:
        file["stamps/leader_left"] = file["stamps/qpos"][()] - 2 * PERIOD

    assert spoil(change) == []


def test_a_stream_that_stands_still(spoil: Callable[..., list[tuple[str, str, str]]]) -> None:
    def change(file: h5py.File) -> None:
        stamps = file["stamps/images/cam_high"]
        stamps[50:80] = stamps[50]

    found = spoil(change)
    assert ("warning", "stamps", "stream images/cam_high stood still for 0.58 s from row 50") in found


def test_a_camera_of_half_the_rate(spoil: Callable[..., list[tuple[str, str, str]]]) -> None:
    def change(file: h5py.File) -> None:
        data = file["observations/images/cam_high"]
        for row in range(1, STEPS + 1, 2):
            data[row] = data[row - 1]

    (found,) = spoil(change)
    assert found[:2] == ("warning", "repeats")
    assert "camera 'cam_high' repeats 50% of its frames while joints move" in found[2]


def test_a_still_scene_is_no_frozen_camera(spoil: Callable[..., list[tuple[str, str, str]]]) -> None:
    """Nothing moves for a second at the start: equal images are right."""

    def change(file: h5py.File) -> None:
        for name in ("observations/qpos", "observations/qvel", "observations/effort"):
            values = file[name][()]
            values[:55] = values[55]
            file[name][...] = values
        for camera in file["observations/images"]:
            data = file[f"observations/images/{camera}"]
            for row in range(55):
                data[row] = data[55]

    assert spoil(change) == []


def test_a_wrist_camera_whose_arm_rests_is_not_frozen(spoil: Callable[..., list[tuple[str, str, str]]]) -> None:
    def rest(file: h5py.File) -> None:
        qpos = file["observations/qpos"][()]
        qpos[20:100, 7:] = qpos[20, 7:]
        qpos[100:, 7:] = qpos[20, 7:] + (qpos[100:, 7:] - qpos[100, 7:])
        file["observations/qpos"][...] = qpos
        freeze("cam_right_wrist", 20, 100)(file)

    assert spoil(rest) == []

    def wrong_one(file: h5py.File) -> None:
        rest(file)
        freeze("cam_left_wrist", 20, 100)(file)

    assert [f[1] for f in spoil(wrong_one)] == ["frozen"]


@pytest.mark.parametrize(("camera", "frozen"), [("cam_lower_wrist", False), ("cam_upper_wrist", True)])
def test_a_wrist_camera_of_any_arm_belongs_to_it(tmp_path: Path, camera: str, frozen: bool) -> None:
    names = tuple(f"{arm}_{name}" for arm in ("upper", "lower") for name in (*ARM_JOINTS, "gripper"))
    episode = dataclasses.replace(make(STEPS, {camera: (24, 32)}, seed=0), names=names)
    episode.qpos[20:101, 7:] = episode.qpos[20, 7:]  # the lower arm rests
    episode.images[camera][20:101] = episode.images[camera][20]
    found = validate(write(tmp_path, episode)).findings
    assert ("frozen" in [finding.check for finding in found]) == frozen


def test_damaged_jpeg(spoil: Callable[..., list[tuple[str, str, str]]]) -> None:
    name = "observations/images/cam_high"
    cut = spoil(lambda f: f[name].__setitem__((33, np.s_[300:]), 0), "jpeg")
    assert [f[:2] for f in cut] == [("error", "images")]
    assert "frame 33 of camera 'cam_high' is not a whole JPEG" in cut[0][2]
    empty = spoil(lambda f: f[name].__setitem__(0, 0), "jpeg")
    assert "frame 0 of camera 'cam_high' cannot be used: not a JPEG" in empty[0][2]


def test_frozen_jpeg(spoil: Callable[..., list[tuple[str, str, str]]]) -> None:
    assert [f[:2] for f in spoil(freeze("cam_high", 20, 100), "jpeg")] == [("error", "frozen")]


def test_an_image_of_another_size(spoil: Callable[..., list[tuple[str, str, str]]]) -> None:
    def change(file: h5py.File) -> None:
        row = file["observations/images/cam_high"][0]
        small = cv2.imencode(".jpg", np.full((8, 8, 3), 90, np.uint8))[1].reshape(-1)
        row[:] = 0
        row[: len(small)] = small
        file["observations/images/cam_high"][0] = row

    (found,) = spoil(change, "jpeg")
    assert found[2] == "frame 0 of camera 'cam_high' is (8, 8), the contract (24, 32)"


def test_bounds_are_settings(good: dict[str, Path]) -> None:
    verdict = validate(good["raw"], Bounds(rate=(0.0, 0.0)))
    assert [f.check for f in verdict.findings] == ["rate"]
    assert verdict.level == "error"


def test_journals_and_broken_files(tmp_path: Path) -> None:
    rig = Rig()
    writer = writer_for(tmp_path, rig)
    feed(writer, rig, 9)
    while writer.written < 9:
        pass
    (journal,) = select(tmp_path).with_journals().files
    running = validate(journal)
    assert (running.level, running.steps) == ("warning", 9)
    assert running.findings[0].found == "being recorded; 9 steps so far"
    copy = tmp_path / "episode_5.hdf5.partial"
    shutil.copy(journal, copy)  # nobody holds this one
    stopped = validate(copy)
    assert (stopped.level, stopped.steps) == ("error", 9)
    assert "interrupted; 9 steps can be recovered" in stopped.findings[0].found
    writer.discard()
    (tmp_path / "episode_1.hdf5").write_bytes(b"not HDF5")
    broken = validate(tmp_path / "episode_1.hdf5")
    assert (broken.level, broken.findings[0].check) == ("error", "file")
    (tmp_path / "episode_6.hdf5.partial").write_bytes(b"not a journal")
    assert "is not an episode journal" in validate(tmp_path / "episode_6.hdf5.partial").findings[0].found
    assert [p.name for p in select(tmp_path).with_journals().files] == [
        "episode_1.hdf5", "episode_5.hdf5.partial", "episode_6.hdf5.partial"]  # fmt: skip
    with pytest.raises(EpisodeError, match="no folder"):
        select(tmp_path / "nowhere")


BATTER = """
import random, sys
from pathlib import Path
from aloha_kit.episode.validate import validate
source, target = Path(sys.argv[1]), Path(sys.argv[2])
chance, levels = random.Random(7), []
for turn in range(120):
    data = bytearray(source.read_bytes())
    for _ in range(chance.choice([1, 4, 30])):
        data[chance.randrange(12_000)] = chance.randrange(256)
    target.write_bytes(data[: chance.randrange(len(data))] if turn % 5 == 0 else data)
    levels.append(validate(target).level)
print(levels.count("error"), len(levels))
"""


def test_battered_files_get_a_verdict_and_never_a_crash(tmp_path: Path) -> None:
    """In a process of its own: HDF5 itself has been seen to crash on damaged text of variable length."""
    source = record(tmp_path / "good", 15, Rig(depth=True))
    done = subprocess.run(
        [sys.executable, "-c", BATTER, str(source), str(tmp_path / "episode_0.hdf5")],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    errors, files = map(int, done.stdout.split())
    assert files == 120
    assert errors > 60


def test_an_empty_action_is_an_error(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "episode_0.hdf5", "w") as file:
        file["action"] = np.zeros((0, 14), np.float32)
        file["observations/qpos"] = np.zeros((0, 14), np.float32)
    assert validate(tmp_path / "episode_0.hdf5").findings[0].found == "no steps"


def test_no_cameras_is_a_warning_only_where_the_contract_is_assumed(tmp_path: Path) -> None:
    made = make(30, {}, seed=0)
    write(tmp_path, made)
    with h5py.File(tmp_path / "foreign.hdf5", "w") as file:
        file["action"], file["observations/qpos"] = made.action, made.qpos[:-1]
    levels = [
        finding.level
        for path in (tmp_path / "episode_0.hdf5", tmp_path / "foreign.hdf5")
        for finding in validate(path).findings
        if finding.found == "no cameras"
    ]
    assert levels == ["info", "warning"]


def test_runs() -> None:
    flags = np.array([0, 1, 1, 0, 1, 1, 1, 0], bool)
    assert runs(flags) == [(1, 3), (4, 7)]
    assert longest_run(flags) == (3, 4)
    assert longest_run(np.zeros(3, bool)) == (0, 0)


def test_graded() -> None:
    levels = [[f.level for f in graded(value, (1.0, 2.0), "c", "m")] for value in (0.9, 1.0, 1.9, 2.0)]
    assert levels == [[], ["warning"], ["warning"], ["error"]]


def test_velocity_and_effort_may_be_missing_empty_or_nan_as_in_training(tmp_path: Path) -> None:
    """Validate has no error where training, which does not read them, has none."""
    record(tmp_path, 30)
    for i, change in enumerate(("missing", "empty", "nan"), start=1):
        path = tmp_path / f"episode_{i}.hdf5"
        shutil.copy(tmp_path / "episode_0.hdf5", path)
        with h5py.File(path, "r+") as file:
            for name in ("qvel", "effort"):
                table = file[f"observations/{name}"][()]
                del file[f"observations/{name}"]
                if change != "missing":
                    file[f"observations/{name}"] = table[:0] if change == "empty" else table * np.nan
        found = validate(path)
        assert [(f.level, f.check) for f in found.findings] == [("warning", "finite")] * 2 * (change == "nan")
        assert all("training does not use" in f.found for f in found.findings)
    table = read_table(open_source(tmp_path))
    assert table.where == tuple(str(tmp_path / f"episode_{i}.hdf5") for i in range(4))
