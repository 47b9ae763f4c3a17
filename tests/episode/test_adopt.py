"""Describing old episodes: measurements, questions, files, and that the printed commands work."""

import os
import pty
import shlex
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from aloha_kit.core import joint_names
from aloha_kit.episode import Episode
from aloha_kit.episode.ranges import looks_like, measure
from tests.episode.command import main
from tests.storage.foreign import any_arms
from tests.storage.recording import record

GIVEN = ["--joints_unit", "rad", "--gripper_unit", "0 closed, 1 open", "--rate_hz", "25", "--task", "stack"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three episodes of two arms of eight."""
    for i in range(3):
        any_arms(tmp_path / "old data" / f"episode_{i}.hdf5", 16, 16, seed=i)
    return tmp_path / "old data"


def test_the_measured_ranges_are_those_of_all_files(folder: Path) -> None:
    measured = measure(folder)
    files = [h5py.File(file, "r") for file in measured.files]
    whole = np.concatenate([file["action"][()] for file in files])
    assert np.array_equal(measured.action, [whole.min(axis=0), whole.max(axis=0)])
    assert (measured.state.shape, measured.steps, measured.total) == ((2, 16), 40, 120)
    assert f"{whole[:, 3].min():.3g} to {whole[:, 3].max():.3g}" in measured.text().splitlines()[5]


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (-90, 90, "degrees?"),
        (0.3, 0.3, "never moves"),
        (0, 0.07, "metres?"),
        (0, 1, "opening"),
        (-1.2, 0.4, "radians?"),
    ],
)
def test_what_a_range_looks_like(low: float, high: float, words: str) -> None:
    assert words in looks_like(low, high)


def test_flags_describe_and_the_printed_commands_work(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file: file.read_bytes() for file in folder.iterdir()}
    assert main(["adopt", str(folder), "--names", "left", "right", *GIVEN, "--instruction", "Stack the cubes."]) == 0
    printed = capsys.readouterr().out
    assert {file: file.read_bytes() for file in before} == before
    with Episode.open(folder / "episode_1.hdf5") as episode:
        names = episode.contract.state_names
        assert names == episode.contract.action_names
        assert (names[0], names[7], names[8], names[15]) == (
            "left_joint_0", "left_gripper", "right_joint_0", "right_gripper")  # fmt: skip
        assert (episode.contract.rate_hz, episode.assumption) == (25.0, "")
    task = yaml.safe_load((folder / "task.yaml").read_text())
    assert task["instruction"] == "Stack the cubes."
    assert (task["name"], task["episode_len"], task["rate_hz"], task["cameras"]) == ("stack", 40, 25.0, ["cam"])
    commands = [shlex.split(line)[1:] for line in printed.splitlines() if line.startswith("  python -m ")]
    assert [command[1] for command in commands] == ["aloha_kit.episode", "aloha_kit.train", "aloha_kit.replay"]
    extra = {
        "aloha_kit.train": ["--preflight_only", "--device", "cpu", "--threads", "1"],
        "aloha_kit.replay": ["--no_rrd", "--no_video"],
    }
    for command in commands:
        done = subprocess.run(
            [sys.executable, *command, *extra.get(command[1], [])], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "assumed" not in done.stdout + done.stderr


def test_without_a_terminal_the_open_questions_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adopt", str(folder), "--rate_hz", "25"]) == 1
    error = capsys.readouterr().err
    assert "the files do not record --names, --joints_unit, --gripper_unit, --task; give them" in error
    example = shlex.split(error.rpartition("if it is true: ")[2])[3:]
    assert not list(folder.glob("*.yaml"))
    assert main(example) == 0  # the example is a command


def test_a_rig_and_names_are_not_both_taken(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adopt", str(folder), "--rig", "aloha", "--names", "left", "right", "--task", "stack"]) == 2
    assert "--rig aloha and --names both name the joints; give one of them" in capsys.readouterr().err
    assert not (folder / "task.yaml").exists()


def test_the_command_that_is_named_can_be_typed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(folder)]) == 0
    printed = capsys.readouterr()
    assert f"`python -m aloha_kit.episode adopt '{folder}'`" in printed.out + printed.err


def test_folders_without_episodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adopt", str(tmp_path), *GIVEN]) == 1
    assert f"no episodes in '{tmp_path}'; expected episode_<i>.hdf5 files" in capsys.readouterr().err


def test_nothing_is_overwritten_without_the_flag(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "task.yaml").write_text("mine")
    flags = ["adopt", str(folder), "--names", "left", "right", *GIVEN]
    assert main(flags) == 1
    assert f"error: {folder / 'task.yaml'} exist already; --overwrite replaces them" in capsys.readouterr().err
    assert (folder / "task.yaml").read_text() == "mine"
    assert not (folder / "contract.yaml").exists()
    assert main([*flags, "--overwrite"]) == 0
    assert main([*flags, "--overwrite", "--rate_hz", "30"]) == 0  # described once does not mean described for ever
    with Episode.open(folder / "episode_0.hdf5") as episode:
        assert episode.rate_hz == 30.0


def test_files_elsewhere_are_named_in_the_commands(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "described"
    assert main(["adopt", str(folder), "--names", "left", "right", *GIVEN, "--output", str(out)]) == 0
    commands = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  python -m ")]
    assert all(shlex.split(line)[-2:] == ["--contract", str(out / "contract.yaml")] for line in commands)
    assert sorted(p.name for p in folder.iterdir()) == [f"episode_{i}.hdf5" for i in range(3)]


def test_other_shapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = any_arms(tmp_path / "one" / "episode_0.hdf5", 7, 7, base=3).parent
    assert main(["adopt", str(one), "--names", "arm", *GIVEN]) == 0
    with Episode.open(one / "episode_0.hdf5") as episode:
        assert episode.contract.action_names[-4:] == ("arm_gripper", "base_vx", "base_vy", "base_wz")
    assert main(["adopt", str(one), "--names", "left", "right", *GIVEN, "--overwrite"]) == 1
    assert "the files have 10 entries of action and 7 of state" in capsys.readouterr().err
    rig = any_arms(tmp_path / "rig" / "episode_0.hdf5", 14, 14, base=2).parent
    assert main(["adopt", str(rig), "--rig", "mobile_aloha", "--rate_hz", "50", "--task", "t"]) == 0
    with Episode.open(rig / "episode_0.hdf5") as episode:
        assert episode.contract.action_names == (*joint_names(), "base_linear", "base_angular")
    assert main(["adopt", str(one), "--rig", "aloha", *GIVEN, "--overwrite"]) == 1
    assert "rig 'aloha' has 14 entries of state, the files have 7" in capsys.readouterr().err
    any_arms(tmp_path / "rig" / "episode_1.hdf5", 7, 7)
    assert main(["adopt", str(rig), "--rig", "aloha", *GIVEN, "--overwrite"]) == 1
    assert "put them into folders of their own" in capsys.readouterr().err
    other = any_arms(one / "episode_1.hdf5", 7, 7, base=3)
    with h5py.File(other, "r+") as file:
        (camera,) = file["observations/images"]
        file.move(f"observations/images/{camera}", "observations/images/another")
    assert main(["adopt", str(one), "--names", "arm", *GIVEN, "--overwrite"]) == 1
    assert f"{other} lacks camera {camera} as episode_0.hdf5 has it; it has: another" in capsys.readouterr().err
    other.unlink()
    record(tmp_path / "ours", 5)
    assert main(["adopt", str(tmp_path / "ours"), "--rig", "aloha", *GIVEN]) == 1
    assert "record themselves what they hold" in capsys.readouterr().err


def test_a_unit_that_the_files_contradict_is_not_taken_from_a_rig(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = any_arms(tmp_path / "a" / "episode_0.hdf5", 14, 14).parent
    with h5py.File(folder / "episode_0.hdf5", "r+") as file:
        for name in ("action", "observations/qpos"):
            table = file[name][()] * 100  # degrees
            table[:, [6, 13]] = (file[name][:, [6, 13]] + 0.4) * 0.1  # metres
            file[name][...] = table
    flags = ["adopt", str(folder), "--rig", "aloha", "--rate_hz", "50", "--task", "t"]
    assert main(flags) == 1
    assert "give it with --gripper_unit" in capsys.readouterr().err
    assert main([*flags, "--gripper_unit", "m"]) == 1
    assert "its unit is to be radians; give it with --joints_unit" in capsys.readouterr().err
    assert main([*flags, "--gripper_unit", "m", "--joints_unit", "deg"]) == 0
    assert "warning:" not in capsys.readouterr().err


def test_a_terminal_gets_prompts(folder: Path) -> None:
    ours, theirs = pty.openpty()
    done = subprocess.Popen(
        [sys.executable, "-m", "aloha_kit.episode", "adopt", str(folder), "--task", "stack"],
        stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    os.close(theirs)
    os.write(ours, b"\ndeg\n\n25\n")  # Enter takes what is suggested
    printed, _ = done.communicate(timeout=60)
    os.close(ours)
    assert done.returncode == 0, printed
    assert "control rate in Hz [50.0]" in printed
    assert " warning: " in printed  # the joints are far too small for degrees
    contract = yaml.safe_load((folder / "contract.yaml").read_text())
    assert (contract["units"]["joints"], contract["rate_hz"], contract["state_names"][7]) == (
        "deg",
        25.0,
        "left_gripper",
    )
