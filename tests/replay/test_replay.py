"""A recorded episode becomes images, plots and motion again; what cannot is explained."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import cv2
import h5py
import numpy as np
import pytest

from aloha_kit.core import ContractError, EpisodeError, joint_names, lang, UsageError
from aloha_kit.episode import Episode
from aloha_kit.formats import open_source
from aloha_kit.media.plots import sensor_traces
from aloha_kit.replay.__main__ import main
from aloha_kit.replay.args import parse
from aloha_kit.replay.episode_summary import summary
from aloha_kit.replay.execute import execute
from aloha_kit.replay.recording import Recording
from tests.commands import failure
from tests.replay.conftest import STEPS
from tests.storage.foreign import any_arms, robotwin, xpolicylab
from tests.storage.recording import record, Rig


def run(*argv: Any) -> None:
    main([str(word) for word in argv])


def fail(*argv: Any) -> str:
    return failure(run, *argv)


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A file as ACT's simulation writes it: no stamps, no seed, as many observations as actions."""
    path = tmp_path / "theirs" / "episode_0.hdf5"
    path.parent.mkdir()
    rng = np.random.default_rng(0)
    start = np.tile([0, -0.96, 1.16, 0, -0.3, 0, 0.1], 2)
    qpos = (start + np.linspace(0, 0.2, 12)[:, None]).astype(np.float32)
    with h5py.File(path, "w") as file:
        file.attrs["sim"] = True
        file["action"] = qpos + 0.01
        file["observations/qpos"], file["observations/qvel"] = qpos, 0 * qpos
        file["observations/images/top"] = rng.integers(0, 255, (12, 48, 64, 3), np.uint8)
    return path


def test_files_of_an_episode(recorded: Path, tmp_path: Path, capsys: Any) -> None:
    run(recorded, "--output", tmp_path / "out")
    names = {"episode_0.mp4", "episode_0.rrd", "episode_0_joints.png"}  # no timing of a simulated clock
    assert {p.name for p in (tmp_path / "out").iterdir()} == names
    with av.open(str(tmp_path / "out" / "episode_0.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert float(container.streams.video[0].average_rate) == 50.0
    assert len(frames) == STEPS + 1
    # two 4:3 cameras at height 480 with a gap of 4, a title of 36, plots of 22 % of the width below
    assert frames[0].shape == (36 + 480 + int(0.22 * 1284), 1284, 3)
    with Episode.open(recorded) as episode:
        first, last = episode.image("top", 0), episode.image("top", STEPS)
    shown = frames[-1][36:516, :640].reshape(48, 10, 64, 10, 3).mean((1, 3))
    assert np.abs(shown - last)[12:].mean() < np.abs(shown - first)[12:].mean()
    assert np.abs(shown - last)[12:].mean() < 6
    text = capsys.readouterr().out
    assert "30 actions, 31 observations, 50 Hz, 0.60 s" in text
    assert "top 64x48, angle 80x60" in text
    assert "timing: exact, a simulated clock: every interval 20 ms, no skew" in text


def test_stamps_of_a_real_clock_are_drawn(tmp_path: Path, capsys: Any) -> None:
    record(tmp_path, 3)
    run(tmp_path / "episode_0.hdf5", "--output", tmp_path / "out", "--no_video", "--no_rrd")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"episode_0_joints.png", "episode_0_timing.png"}
    assert "skew to the deadline p50 -1.00 ms" in capsys.readouterr().out


def test_the_rerun_recording_holds_images_joints_stamps_and_skew(recorded: Path, tmp_path: Path) -> None:
    run(recorded, "--output", tmp_path, "--no_video", "--no_plots")
    command = [sys.executable, "-m", "rerun", "rrd", "print", "-vv", str(tmp_path / "episode_0.rrd")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    entities = (
        "/cameras/top",
        "/cameras/angle",
        "/arms/left/waist/qpos",
        "/arms/right/gripper/action",
        "/timing/skew_ms/qpos",
        "/timing/skew_ms/images/top",
        "/timing/deadline_to_command_ms",
        "/reward",
    )
    for entity in entities:
        assert entity in done.stdout, f"{entity} is missing"
    assert re.search(r"\btime\b", done.stdout)
    assert re.search(r"\bstep\b", done.stdout)


def test_only_the_cameras_requested_and_a_whole_folder(recorded: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two"
    folder.mkdir()
    for i in (0, 1):
        shutil.copy(recorded, folder / f"episode_{i}.hdf5")
    run(folder, "--cameras", "angle", "--no_rrd", "--no_plots", "--height", "240")
    assert sorted(p.name for p in (folder / "replay").iterdir()) == ["episode_0.mp4", "episode_1.mp4"]
    with av.open(str(folder / "replay" / "episode_1.mp4")) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (320 + 320, 36 + 240)


def test_a_video_too_low_for_its_plots_is_refused(recorded: Path) -> None:
    assert fail(recorded, "--height", "100") == "error: --height must be at least 240 pixels, given 100"


def test_execution_follows_the_recording_exactly_and_agrees(recorded: Path, tmp_path: Path, capsys: Any) -> None:
    run(recorded, "--output", tmp_path, "--execute", "--no_video", "--no_plots", "--no_rrd")
    report = json.loads((tmp_path / "episode_0_execute.json").read_text())
    assert (tmp_path / "episode_0_execute.png").stat().st_size > 10_000
    assert report["steps"] == STEPS
    assert report["same_scene"] is True
    assert report["agrees"] is True
    assert report["final_reward"] == 0
    assert list(report["tracking"]) == list(joint_names())
    assert all(row["worst"] < 1e-5 for row in report["tracking"].values())
    assert "recorded: failure, final reward 0" in capsys.readouterr().out


def test_the_tracking_error_is_the_difference_of_the_joints(recorded: Path, tmp_path: Path, capsys: Any) -> None:
    changed = tmp_path / "episode_0.hdf5"
    shutil.copy(recorded, changed)
    offset = np.linspace(0, 0.3, STEPS + 1, dtype=np.float32)
    with h5py.File(changed, "r+") as file:
        file["observations/qpos"][:, 2] -= offset
        file.attrs["success"] = True
    with Episode.open(changed) as episode:
        result = execute(Recording.of(episode))
        text = result.text()
    assert result.worst[2] == pytest.approx(0.3, abs=1e-5)
    assert result.rms[2] == pytest.approx(np.sqrt(np.mean(np.square(offset))), abs=1e-5)
    assert np.delete(result.worst, 2).max() < 1e-5
    assert result.agrees is False
    assert re.search(r"left_elbow +0\.1\d+ +0\.30000  rad", text)
    assert "executed: failure, final reward 0 (DISAGREE)" in text


def test_execution_keeps_the_arms_within_their_limits(recorded: Path, tmp_path: Path) -> None:
    wild = tmp_path / "episode_0.hdf5"
    shutil.copy(recorded, wild)
    with h5py.File(wild, "r+") as file:
        file["action"][10:, 0] = 3.0
    with Episode.open(wild) as episode:
        result = execute(Recording.of(episode))
    waist = result.qpos[:, 0]
    assert np.abs(np.diff(waist)).max() < 0.1  # from 0 to 3 rad at once, had nothing stood between
    assert result.guard["limited_by"]["speed"] == {"left_waist": STEPS - 10}
    assert "the guard limited 20 of 30 commands" in result.text()


def test_files_of_other_tools(foreign: Path, tmp_path: Path, capsys: Any) -> None:
    run(foreign, "--output", tmp_path / "out", "--execute", "--task", "sim_transfer_cube")
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert "episode_0.mp4" in names
    assert "episode_0.rrd" in names
    assert "episode_0_timing.png" not in names
    text = capsys.readouterr().out
    assert "[act_sim]" in text
    assert "no stamps (its recorder wrote none)" in text
    assert "50 Hz (assumed)" in text
    assert "does not record the scene's seed" in text
    with av.open(str(tmp_path / "out" / "episode_0.mp4")) as container:
        assert len(list(container.decode(video=0))) == 12


def test_execution_needs_to_know_the_task(foreign: Path, tmp_path: Path) -> None:
    text = fail(foreign, "--output", tmp_path, "--execute", "--no_video", "--no_rrd", "--no_plots")
    assert text.endswith("does not hold its task; give --task")
    text = fail(
        foreign, "--output", tmp_path, "--execute", "--no_video", "--no_rrd", "--no_plots", "--task", "sim_cube"
    )
    assert "no configuration 'sim_cube'" in text
    assert "sim_transfer_cube" in text


def test_another_scene_or_other_joints_are_refused(recorded: Path, tmp_path: Path) -> None:
    text = fail(recorded, "--output", tmp_path, "--execute", "--task", "sim_insertion", "--no_video", "--no_rrd")
    assert "is of scene 'transfer_cube', task 'sim_insertion' is 'insertion'" in text
    swapped = tmp_path / "episode_3.hdf5"
    shutil.copy(recorded, swapped)
    with h5py.File(swapped, "r+") as file:
        contract = json.loads(file.attrs["contract"])
        contract["features"][1]["entries"][0:2] = ["left_shoulder", "left_waist"]
        contract = {name: contract[name] for name in ("features", "rate_hz")}
        file.attrs["contract"] = json.dumps(contract)
    with Episode.open(swapped) as episode, pytest.raises(ContractError, match=r"action\[0\]: 'left_shoulder' against"):
        execute(Recording.of(episode))


def test_a_missing_camera_names_those_there_are(recorded: Path, tmp_path: Path) -> None:
    text = fail(recorded, "--output", tmp_path, "--cameras", "tpo")
    assert "has no camera 'tpo'. Did you mean 'top'? Known: angle, top." in text


def test_rows_that_do_not_fit_together_are_named(recorded: Path, tmp_path: Path) -> None:
    shutil.copy(recorded, tmp_path / "episode_0.hdf5")
    with h5py.File(tmp_path / "episode_0.hdf5", "r+") as file:
        for name, rows in (("action", 20), ("observations/qpos", 25), ("reward", 7)):
            values = file[name][:rows]
            del file[name]
            file[name] = values
    text = fail(tmp_path, "--no_video", "--no_plots")
    assert "episode_0.hdf5 does not fit together: qpos has 25 rows, expected 21; " in text
    assert "images/top has 31 rows, expected 21" in text
    assert text.endswith("reward has 7 rows, expected 20")


@pytest.mark.parametrize("rate", ["0", "-50", "nan", "inf"])
def test_a_rate_must_be_a_rate(recorded: Path, rate: str) -> None:
    assert fail(recorded, "--rate_hz", rate) == f"error: --rate_hz must be above 0, given {float(rate):g}"


def test_an_output_that_is_in_the_way_is_refused(recorded: Path, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    text = fail(recorded, "--output", tmp_path / "out")
    assert text == f"error: '{tmp_path / 'out'}' cannot be a folder: a file of that name is in the way"


def test_an_interruption_leaves_no_half_recording(
    recorded: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    def interrupted(*given: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("aloha_kit.replay.rerun_log._timing", interrupted)
    with pytest.raises(SystemExit) as caught:
        run(recorded, "--output", tmp_path, "--no_video", "--no_plots")
    assert caught.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"  # and no bars where nobody watches
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_episode_is_named_and_the_others_are_replayed(recorded: Path, tmp_path: Path) -> None:
    shutil.copy(recorded, tmp_path / "episode_0.hdf5")
    (tmp_path / "episode_1.hdf5").write_bytes(recorded.read_bytes()[:2000])
    text = fail(tmp_path, "--no_video", "--no_rrd")
    assert "episode_1.hdf5" in text
    assert "damaged" in text
    assert "(1 of 2 episodes were replayed)" in text
    assert (tmp_path / "replay" / "episode_0_joints.png").exists()


def test_a_missing_path_states_what_is_there(recorded: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    assert f"no episode_<i>.hdf5 in '{tmp_path}'; it holds: notes.txt" in fail(tmp_path)
    with pytest.raises(EpisodeError, match=r"Did you mean 'episode_0\.hdf5'\?"):
        open_source(recorded.parent / "episode_O.hdf5")
    (tmp_path / "empty").mkdir()
    shutil.copytree(recorded.parent, tmp_path / "data")
    assert fail(tmp_path / "nope") == f"error: no episodes at '{tmp_path / 'nope'}'. Known: data."
    assert fail(tmp_path / "nope" / "episode_0.hdf5").endswith("Known: (none).")
    assert not (tmp_path / "nope").exists()


def test_labels_skew_and_repeats_show_in_the_summary(recorded: Path, tmp_path: Path) -> None:
    late = tmp_path / "episode_0.hdf5"
    shutil.copy(recorded, late)
    with h5py.File(late, "r+") as file:
        stamps = file["stamps/images/top"]
        stamps[:] = stamps[:] - 4_000_000
        stamps[7] = stamps[6]
        file.attrs["grade"], file.attrs["note"] = 2, "dropped the cube"
    with Episode.open(late) as episode:
        text = summary(Recording.of(episode))
        with lang.language("zh"):
            chinese = summary(Recording.of(episode))
    assert "\n  评级：2/5\n  备注：dropped the cube\n" in chinese
    assert "\n  grade: 2 of 5\n  note: dropped the cube\n" in text
    assert "images/top: skew to the deadline p50 -4.00 ms, worst -24.00 ms, 1 repeated" in text


# ---- images of other tools


@pytest.mark.parametrize("kind", ["grey", "floats, channels first", "png strings", "robotwin", "xpolicylab"])
def test_images_of_other_forms_are_shown(tmp_path: Path, foreign: Path, capsys: Any, kind: str) -> None:
    place = "observations/images/top"
    if kind in ("robotwin", "xpolicylab"):
        {"robotwin": robotwin, "xpolicylab": xpolicylab}[kind](foreign, Rig())
    else:
        with h5py.File(foreign, "r+") as file:
            pixels = file[place][()]
            codes = [cv2.imencode(".png", image)[1].tobytes() for image in pixels]
            del file[place]
            file[place] = {
                "grey": pixels[..., 0],
                "floats, channels first": (pixels / 255).transpose(0, 3, 1, 2),
                "png strings": np.array(codes, f"S{max(map(len, codes))}"),
            }[kind]
    run(foreign, "--output", tmp_path / "out", "--no_plots", "--no_rrd")
    assert (tmp_path / "out" / "episode_0.mp4").stat().st_size > 1000
    reported = {"grey": "grey repeated", "floats, channels first": "values times 255", "robotwin": "15 Hz are assumed"}
    assert reported.get(kind, "give --jpeg_order standard") in capsys.readouterr().out


@pytest.mark.parametrize("order", ["standard", "mobile_aloha"])
def test_red_stays_red(tmp_path: Path, foreign: Path, order: str) -> None:
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = 220
    code = cv2.imencode(".jpg", red[..., ::-1])[1].reshape(-1)  # ordinary
    with h5py.File(foreign, "r+") as file:
        del file["observations/images/top"]
        file["observations/images/top"] = np.tile(code, (12, 1))
    run(foreign, "--output", tmp_path / "out", "--no_plots", "--no_rrd", "--jpeg_order", order)
    with av.open(str(tmp_path / "out" / "episode_0.mp4")) as container:
        shown = next(container.decode(video=0)).to_ndarray(format="rgb24")[100:400, 50:500].mean((0, 1))
    assert (shown[0] > 180 and shown[2] < 60) if order == "standard" else (shown[2] > 180 and shown[0] < 60)


def test_other_arms_are_drawn_under_neutral_names(tmp_path: Path) -> None:
    path = any_arms(tmp_path / "episode_0.hdf5", 8, 8, base=3)
    run(path)
    assert {file.suffix for file in (tmp_path / "replay").iterdir()} == {".mp4", ".png", ".rrd"}
    with Episode.open(path) as episode:
        text = summary(Recording.of(episode))
    assert "joint_0 … joint_7, unknown units and 50 Hz are assumed" in text


def test_sensors_are_reported_plotted_and_logged(tmp_path: Path, capsys: Any) -> None:
    rig = Rig(wrench=True)
    record(tmp_path, 12, rig)
    run(tmp_path / "episode_0.hdf5", "--output", tmp_path / "out", "--no_video")
    assert "sensors: wrench (2)" in capsys.readouterr().out
    assert cv2.imread(str(tmp_path / "out" / "episode_0_sensors.png")) is not None
    command = [sys.executable, "-m", "rerun", "rrd", "print", "-vv", str(tmp_path / "out" / "episode_0.rrd")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "/sensors/wrench/force" in done.stdout
    assert "/sensors/wrench/torque" in done.stdout


def test_a_plot_of_sensors_has_a_panel_for_each_unit_and_the_recorded_values() -> None:
    values = {"wrench": np.arange(12, dtype=np.float32).reshape(3, 4), "touch": np.ones((3, 24), np.float32)}
    entries = {"wrench": ["fx", "fy", "tx", "ty"], "touch": [f"data.{i}" for i in range(24)]}
    units = {"wrench": ["N", "N", "N m", "N m"], "touch": ["kPa"] * 24}
    panels = sensor_traces(values, entries, units, 50.0).axes
    assert [(axis.get_ylabel(), len(axis.lines)) for axis in panels] == [("N", 2), ("N m", 2), ("kPa", 24)]
    np.testing.assert_array_equal(panels[1].lines[0].get_ydata(), [2, 6, 10])
    np.testing.assert_allclose(panels[1].lines[0].get_xdata(), [0, 0.02, 0.04])
    assert panels[1].lines[0].get_label() == "tx"


def test_acts_own_flags_name_an_episode() -> None:
    assert parse(["--dataset_dir", "data/x", "--episode_idx", "3", "--no_video"]).path == Path("data/x/episode_3.hdf5")
    assert parse(["--dataset_dir", "data/x"]).path == Path("data/x")
    for words in (["--episode_idx", "3"], ["--dataset_dir", "x", "--episode_idx", "first"]):
        with pytest.raises(UsageError, match=r"^--episode_idx takes a number, with the episodes' folder in"):
            parse(words)
