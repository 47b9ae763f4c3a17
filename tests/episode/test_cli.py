"""The command line: tables for people, JSON for programs, exit status for scripts."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from aloha_kit.core import EpisodeError
from aloha_kit.episode import Episode, list_episodes
from aloha_kit.episode.folder_summary import moments, stats
from aloha_kit.episode.validate import validate
from aloha_kit.storage.export import export
from aloha_kit.storage.vectors import tables
from tests.episode.command import main
from tests.storage.foreign import LAYOUTS, STEPS
from tests.storage.recording import feed, record, Rig, writer_for
from tests.storage.test_reader import act_loader

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two good episodes, one failed."""
    data = tmp_path / "data"
    record(data, 40, judge=lambda outcome: outcome.final_reward >= 4.0)
    record(data, 30, judge=lambda outcome: outcome.final_reward >= 4.0, ending={"final_reward": 1.0}, images="raw")
    return data


def opened_moments(path: Path) -> dict[str, Any]:
    with Episode.open(path) as episode:
        return moments(episode)


def interrupted(folder: Path, steps: int) -> Path:
    """A journal that nobody holds."""
    rig = Rig()
    writer = writer_for(folder, rig)
    feed(writer, rig, steps)
    while writer.written < steps:
        pass
    journal = folder / f"{writer.path.name}.partial"
    copy = folder / "copy"
    shutil.copy(journal, copy)
    writer.discard()
    os.rename(copy, journal)
    return journal


def test_validate(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["episode", "steps", "verdict", "check", "what"]
    assert lines[2].split() == ["episode_0.hdf5", "40", "ok"]
    assert lines[-1] == "2 ok, 0 warning, 0 error"
    with h5py.File(folder / "episode_1.hdf5", "r+") as file:
        file["observations/effort"][...] = 0
    assert main(["validate", str(folder)]) == 0
    assert "effort never changes" in capsys.readouterr().out
    assert main(["validate", "--strict", str(folder)]) == 1
    capsys.readouterr()
    with h5py.File(folder / "episode_0.hdf5", "r+") as file:
        file["action"][3, 3] = np.nan
    assert main(["validate", str(folder), "--json"]) == 1
    verdicts = json.loads(capsys.readouterr().out)
    assert [v["verdict"] for v in verdicts] == ["error", "warning"]
    assert verdicts[0]["steps"] == 40
    assert verdicts[0]["findings"][0]["check"] == "finite"
    assert main(["validate", str(folder / "episode_1.hdf5")]) == 0


def test_bounds_on_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(folder), "--bounds.rate", "0", "0"]) == 1
    assert "50.0 Hz on average" in capsys.readouterr().out


def test_recover(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recover", str(folder)]) == 0
    assert capsys.readouterr().out.startswith("nothing to recover in")
    interrupted(folder, 12)
    assert main(["validate", str(folder)]) == 1
    assert "12 steps can be recovered" in capsys.readouterr().out
    assert main(["recover", str(folder), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["outcome"], found["steps"], Path(found["episode"]).name) == ("recovered", 12, "episode_2.hdf5")
    journal = interrupted(folder, 5)
    assert main(["recover", str(journal)]) == 0
    assert "recovered      5  episode_3.hdf5" in capsys.readouterr().out
    (folder / "episode_9.hdf5.partial").write_bytes(b"junk")
    assert main(["recover", str(folder)]) == 1
    assert "is not an episode journal" in capsys.readouterr().out
    assert main(["validate", str(folder / "episode_3.hdf5")]) == 0


def test_info(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "episode_0.hdf5     40  0.8  jpeg: cam_high 24x32, cam_left_wrist 16x16" in lines[2]
    assert lines[3].split()[-3:] == ["no", "stack", "complete"]
    assert lines[-1].startswith("2 episodes, 70 steps, ")
    assert lines[-1].endswith("1 of 2 judged ones successful")
    assert main(["info", str(folder), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["steps"], first["success"], first["images"], first["layout"]) == (40, True, "jpeg", "aloha_kit/1")
    assert second["cameras"]["cam_high"] == [24, 32]
    assert second["bytes"] == (folder / "episode_1.hdf5").stat().st_size
    (folder / "episode_2.hdf5").write_bytes(b"broken")
    assert main(["info", str(folder)]) == 1
    captured = capsys.readouterr()
    assert "episode_0.hdf5" in captured.out
    assert "error: " in captured.err
    assert "episode_2.hdf5 is damaged" in captured.err


def test_stats_are_those_of_all_rows_together(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = list_episodes(folder)
    found = stats(map(opened_moments, files))
    for stream in ("qpos", "action", "environment_state"):
        rows = []
        for file in files:
            with Episode.open(file) as episode:
                rows.append(tables(episode)[stream])
        together = np.concatenate(rows).astype(np.float64)
        assert found[stream].rows == len(together)
        np.testing.assert_allclose(found[stream].mean, together.mean(0), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(found[stream].std, together.std(0), rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(found[stream].min, together.min(0))
        np.testing.assert_array_equal(found[stream].max, together.max(0))
    assert main(["stats", str(folder), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["qpos"]["names"][6] == "left_gripper"
    np.testing.assert_allclose(printed["qpos"]["std"], found["qpos"].std)
    assert main(["stats", str(folder)]) == 0
    out = capsys.readouterr().out
    assert f"{found['qpos'].mean[0]:.4f}" in out
    assert out.splitlines()[-1] == "2 episodes, 70 actions"


def test_stats_keep_other_widths_apart(folder: Path) -> None:
    with h5py.File(folder / "episode_2.hdf5", "w") as file:
        file["action"] = np.ones((4, 7))
        file["observations/qpos"] = np.ones((4, 7))
    found = stats(map(opened_moments, list_episodes(folder)))
    assert found["action"].rows == 70
    assert found["action (width 7)"].rows == 4
    assert found["action (width 7)"].names[0] == "joint_0"


@pytest.mark.parametrize("command", ["validate", "recover", "info", "stats"])
def test_a_folder_that_is_not_there(tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, str(tmp_path / "nowhere")]) == 1
    assert "error: no folder" in capsys.readouterr().err
    assert main([command, str(tmp_path / "episode_3.hdf5")]) == 1
    assert "error: no file" in capsys.readouterr().err
    if command != "recover":
        assert main([command, str(tmp_path)]) == 1
        assert "no episodes in" in capsys.readouterr().err


def test_what_is_no_sound_episode_is_named_and_the_rest_done(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "episode_5.hdf5").mkdir()
    (folder / "episode_6.hdf5").symlink_to("gone.hdf5")
    shutil.copy(folder / "episode_0.hdf5", folder / "episode_7.hdf5")
    shutil.copy(folder / "episode_0.hdf5", folder / "episode_8.hdf5")
    with h5py.File(folder / "episode_7.hdf5", "r+") as file:
        short = file["observations/qvel"][:-3]
        del file["observations/qvel"]
        file["observations/qvel"] = short
    with h5py.File(folder / "episode_8.hdf5", "r+") as file:
        del file["observations/images/cam_high"]
    assert main(["stats", str(folder)]) == 1
    out, error = capsys.readouterr()
    assert out.endswith("2 episodes, 70 actions\n")
    assert "episode_5.hdf5' is a folder; expected an episode" in error
    assert "episode_6.hdf5' is a link to 'gone.hdf5', which is not there" in error
    assert "episode_7.hdf5 is inconsistent: qvel has 38 rows, expected 41" in error
    assert "episode_8.hdf5: camera_names has 'cam_high', the file has no such images" in error
    assert main(["export", str(folder), str(tmp_path / "copy")]) == 1
    assert "episode_5.hdf5' is a folder" in capsys.readouterr().err
    assert (tmp_path / "copy" / "episode_1.hdf5").exists()
    assert main(["export", str(folder), str(folder / "episode_0.hdf5")]) == 1
    assert "cannot be a folder: a file of that name is in the way" in capsys.readouterr().err
    assert main(["validate", str(folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines[1]) <= 80
    assert not any(str(folder / "episode_8") in line for line in lines)


def test_files_of_another_format_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data/meta").mkdir(parents=True)
    (tmp_path / "data/meta/info.json").write_text("{}")
    data = tmp_path / "data"
    assert main(["validate", str(data)]) == 1
    assert capsys.readouterr().err == (
        f"error: '{data}' has the format lerobot, and this command takes HDF5 episodes; "
        f"`python -m aloha_kit.convert {data} {data}_hdf5` makes them\n"
    )


def test_only_journals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    interrupted(tmp_path, 12)
    hint = f"1 interrupted recording: `python -m aloha_kit.episode recover {tmp_path}`"
    assert main(["info", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"error: no episodes in '{tmp_path}'; {hint}\n"
    assert main(["recover", str(tmp_path)]) == 0
    (file,) = list_episodes(tmp_path)
    messages = [f.found for f in validate(file).findings]
    assert messages == ["ended early: interrupted: recovered 12 steps"]
    capsys.readouterr()
    assert main(["stats", str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith("1 episode, 12 actions\n")


def test_ctrl_c(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("aloha_kit.episode.app.validate", interrupt)
    assert main(["validate", str(folder)]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_validate_names_an_episode_that_is_there_twice(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same motion under another name, form and time; another motion of the same length is another episode."""
    assert main(["validate", str(folder)]) == 0
    assert "duplicate" not in capsys.readouterr().out
    export(folder / "episode_1.hdf5", tmp_path / "classic", classic=True, raw=True)
    os.rename(tmp_path / "classic" / "episode_1.hdf5", folder / "episode_12.hdf5")
    assert main(["validate", str(folder), "--json"]) == 0
    found = {Path(v["path"]).name: v["findings"] for v in json.loads(capsys.readouterr().out)}
    assert [name for name, findings in found.items() if any(f["check"] == "duplicate" for f in findings)] == [
        "episode_12.hdf5"
    ]
    message = "the same actions and joints as episode_1.hdf5: one demonstration twice"
    assert found["episode_12.hdf5"][-1] == {"level": "warning", "check": "duplicate", "message": message}


def test_export_classic(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, rig = tmp_path / "classic", Rig()
    assert main(["export", str(folder), str(target), "--classic"]) == 0
    assert capsys.readouterr().out.split() == [str(target / f"episode_{i}.hdf5") for i in (0, 1)]
    for path, steps in zip(list_episodes(target), (40, 30), strict=True):
        assert validate(path).level == "ok"
        with h5py.File(path) as file:
            lengths: set[int] = set()

            def note(name: str, data: object, lengths: set[int] = lengths) -> None:
                if isinstance(data, h5py.Dataset) and name != "checksums":
                    lengths.add(data.shape[1] if name == "compress_len" else data.shape[0])

            file.visititems(note)
            assert lengths == {steps}
        with Episode.open(path) as episode:
            assert (episode.layout, episode.length, episode.frames) == ("aloha_kit", steps, steps)
            assert episode.attrs["schema"] == "aloha_kit/1-classic"
            assert episode.contract == rig.contract
            np.testing.assert_array_equal(episode.qpos, np.stack([rig.qpos(i) for i in range(steps)]))
    assert main(["export", str(folder), str(target), "--classic"]) == 1
    assert "is never overwritten" in capsys.readouterr().err
    assert sorted(os.listdir(target)) == ["episode_0.hdf5", "episode_1.hdf5"]


def test_export_a_part_with_raw_pixels(tmp_path: Path) -> None:
    rig = Rig(sizes={"cam_high": (24, 32)}, depth=True, base=True)
    source = record(tmp_path / "a", 40, rig)
    path = export(source, tmp_path / "b", start=10, stop=25, raw=True)
    assert validate(path).level == "ok"
    with Episode.open(path) as episode, Episode.open(source) as whole:
        assert (episode.length, episode.frames, episode.compressed) == (15, 16, False)
        np.testing.assert_array_equal(episode.action, whole.action[10:25])
        np.testing.assert_array_equal(episode.base_action, whole.base_action[10:25])  # type: ignore[index]
        np.testing.assert_array_equal(episode.qpos, whole.qpos[10:26])
        np.testing.assert_array_equal(episode.stamps["command"], whole.stamps["command"][10:25])
        np.testing.assert_array_equal(episode.stamps["deadline"], whole.stamps["deadline"][10:26])
        np.testing.assert_array_equal(episode.reward, whole.reward[10:25])  # type: ignore[index]
        for row in (0, 7, 15):
            np.testing.assert_array_equal(episode.image("cam_high", row), whole.image("cam_high", row + 10))
            np.testing.assert_array_equal(episode.depth("cam_high", row), rig.depth_image(row + 10))
        edited = json.loads(episode.attrs["edited"])
        assert (edited["start"], edited["stop"], edited["raw"]) == (10, 25, True)
        images, _, _ = act_loader(path, ["cam_high"], 3)
        np.testing.assert_array_equal(images[0], whole.image("cam_high", 13))


@pytest.mark.parametrize(
    ("name", "value", "reported"),
    [("contract", "{not json", "not an embodiment contract"), ("rate_hz", np.nan, "rate_hz is nan"), ("stamps", 5, "")],
)
def test_a_file_of_which_nobody_could_read_the_copy_is_not_copied(
    name: str, value: object, reported: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = record(tmp_path, 30, Rig())
    with h5py.File(path, "r+") as file:
        if name == "stamps":
            del file[name]
            file[name] = value
        else:
            file.attrs[name] = value
    assert main(["export", str(path), str(tmp_path / "copy")]) == 1
    wrong = reported or "/stamps is a data set, expected a group with one for each stream"
    assert f"error: {path}: {wrong}" in capsys.readouterr().err
    assert list((tmp_path / "copy").iterdir()) == []
    assert validate(path).level == "error"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_export_of_foreign_files(tmp_path: Path, layout: str) -> None:
    source = tmp_path / "recording.hdf5"
    LAYOUTS[layout](source, Rig())
    path = export(source, tmp_path / "out", start=5)
    assert path.name == "episode_0.hdf5"
    with Episode.open(path) as episode, Episode.open(source) as whole:
        assert (episode.layout, episode.length, episode.frames) == (layout, STEPS - 5, STEPS - 5)
        np.testing.assert_array_equal(episode.qpos, whole.qpos[5:])
        np.testing.assert_array_equal(episode.image("cam_high", 3), whole.image("cam_high", 8))


@pytest.mark.parametrize(("start", "stop"), [(5, 5), (-1, 3), (0, 41), (40, None)])
def test_export_of_an_impossible_part(tmp_path: Path, start: int, stop: int | None) -> None:
    source = record(tmp_path / "a", 40)
    with pytest.raises(EpisodeError, match=r"has steps 0 to 39; cannot keep \["):
        export(source, tmp_path / "b", start=start, stop=stop)
    assert not (tmp_path / "b").exists()


def test_as_a_program(folder: Path) -> None:
    """Started as users start it: help reads, an unknown word is refused, a closed pipe is no traceback."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "aloha_kit.episode", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )

    shown = run("--help")
    assert shown.returncode == 0
    for word in ("validate", "recover", "info", "stats", "export", "python -m aloha_kit.episode"):
        assert word in shown.stdout
    assert "SOURCE TARGET" in run("export", "--help").stdout
    assert "--bounds.frozen_motion" in run("validate", "--help-all").stdout
    wrong = run("valdate", str(folder))
    assert wrong.returncode == 2
    assert "validate" in wrong.stdout + wrong.stderr
    piped = subprocess.run(
        f"{sys.executable} -m aloha_kit.episode stats {folder} --json | head -1",
        shell=True, cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert piped.stdout == "{\n"
    assert piped.stderr == ""


@pytest.mark.parametrize("flags", [[], ["--raw"], ["--raw", "--classic"]])
def test_export_to_a_full_disk_blames_that_disk_and_leaves_nothing(flags: list[str], tmp_path: Path) -> None:
    record(tmp_path / "data", 40)
    record(tmp_path / "data", 40)
    (tmp_path / "disk").mkdir()
    script = 'mount -t tmpfs -o size=64k none "$0"; status=0; "$@" || status=$?; echo left:; ls -A "$0"; exit $status'
    command = [
        sys.executable,
        "-m",
        "aloha_kit.episode",
        "export",
        str(tmp_path / "data"),
        str(tmp_path / "disk"),
        *flags,
    ]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, str(tmp_path / "disk"), *command],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("this machine allows no mounts")
    message = f"error: cannot write to '{tmp_path / 'disk'}': No space left on device; nothing is left half done\n"
    assert (done.returncode, done.stderr, done.stdout) == (1, message, "left:\n")


def test_a_limit_on_the_size_of_files_is_the_targets_too(tmp_path: Path) -> None:
    record(tmp_path / "data", 40)
    command = [
        sys.executable,
        "-m",
        "aloha_kit.episode",
        "export",
        str(tmp_path / "data"),
        str(tmp_path / "out"),
        "--raw",
    ]
    limited = ["sh", "-c", 'ulimit -f 64; exec "$@"', "sh", *command]
    done = subprocess.run(limited, capture_output=True, text=True, check=False)
    message = f"error: cannot write to '{tmp_path / 'out'}': File too large; nothing is left half done\n"
    assert (done.returncode, done.stderr) == (1, message)
    assert list((tmp_path / "out").iterdir()) == []


def test_what_a_killed_export_left_is_cleaned_by_the_next(tmp_path: Path) -> None:
    source = record(tmp_path / "data", 12)
    target = tmp_path / "out"
    target.mkdir()
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom aloha_kit.storage import checksums, export\n"
        "checksums.seal = lambda path: os.kill(os.getpid(), signal.SIGKILL)\n"
        "export.export(Path(sys.argv[1]), Path(sys.argv[2]))\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(source), str(target)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert sorted(file.name for file in target.iterdir()) == ["episode_0.hdf5.partial", "episode_0.hdf5.tmp"]
    busy = target / "episode_5.hdf5.partial"
    with busy.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert main(["export", str(source), str(target)]) == 0
    assert sorted(file.name for file in target.iterdir()) == ["episode_0.hdf5", busy.name], "a live one is left alone"


def test_sensors_are_reported_checked_and_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rig = Rig(wrench=True)
    data, whole = tmp_path / "data", record(tmp_path / "data", 20, rig)
    assert main(["info", str(data), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["sensors"] == {"wrench": ["force", "torque"]}
    assert main(["info", str(data)]) == 0
    assert "cam_right_wrist 16x16, wrench (2)" in capsys.readouterr().out
    assert main(["export", str(data), str(tmp_path / "part"), "--start", "5", "--stop", "15"]) == 0
    (part,) = list_episodes(tmp_path / "part")
    assert validate(part, deep=True).level == "ok"
    with Episode.open(part) as episode:
        np.testing.assert_array_equal(episode.sensors["wrench"], np.stack([rig.force(i) for i in range(5, 16)]))
    for name, change, message in (
        ("lost", lambda file: file.__delitem__("observations/sensors/wrench"), "sensors/wrench is missing, which the"),
        (
            "narrow",
            lambda file: _replace(file, lambda table: table[:, :1]),
            "sensors/wrench has 1 entries, the contract",
        ),
        ("short", lambda file: _replace(file, lambda table: table[:9]), "sensors/wrench has 9 rows, expected 21"),
        ("lost_value", lambda file: _replace(file, lambda table: table * np.nan), "of sensors/wrench are not finite"),
    ):
        path = tmp_path / f"{name}.hdf5"
        shutil.copy(whole, path)
        with h5py.File(path, "r+") as file:
            change(file)
        errors = [finding.found for finding in validate(path).findings if finding.level == "error"]
        assert any(message in error for error in errors), (name, errors)


def _replace(file: h5py.File, change: Callable[[Any], Any]) -> None:
    name = "observations/sensors/wrench"
    table = change(file[name][:])
    del file[name]
    file[name] = table
