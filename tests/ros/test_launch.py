"""Every launch file: its nodes are there, run where roslaunch was called, and understand what they are given."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from roslaunch.config import load_config_default, ROSLaunchConfig

from aloha_kit.ros import base_watchdog
from aloha_kit.ros.sim_rig import arms_node, cameras_node
from tests.ros.master import ROOT

FILES = sorted((ROOT / "launch").glob("*.launch"))
NODES = {file.name for folder in ("record", "deploy") for file in (ROOT / folder).glob("*_node")}


def loaded(file: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> ROSLaunchConfig:
    monkeypatch.setenv("ROS_PACKAGE_PATH", f"{ROOT}:/usr/share")
    monkeypatch.setenv("PWD", "/where roslaunch/was called")
    return load_config_default([(str(file), list(arguments))], None, verbose=False)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_nodes_are_there_and_run_in_the_callers_folder(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = loaded(file, monkeypatch, "episode:=some.hdf5").nodes
    assert nodes
    for node in nodes:
        assert node.type in NODES
        assert node.launch_prefix == "env -C '/where roslaunch/was called'"


@pytest.mark.parametrize("file", ["record", "deploy", "replay", "teleop"])
def test_a_simulated_rig_comes_along_when_requested(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = loaded(ROOT / "launch" / f"{file}.launch", monkeypatch, "sim:=true", "episode:=e", "task:=mine")
    arguments = {node.type: node.args for node in config.nodes}
    assert {"sim_arms_node", "sim_cameras_node"} < set(arguments)
    assert "--task mine" in arguments["sim_arms_node"]
    somebody = file in {"record", "teleop"}
    assert f"--operator {somebody}" in arguments["sim_arms_node"]


def test_the_former_name_of_the_operator_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    config = loaded(ROOT / "launch" / "sim_rig.launch", monkeypatch, "person:=false")
    assert "--operator False" in next(node.args for node in config.nodes if node.type == "sim_arms_node")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_nodes_understand_their_arguments(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each gets past its command line, to a task that is not there."""
    config = loaded(file, monkeypatch, "episode:=none.hdf5", "ckpt:=none", "task:=aloha_transfer_cub")
    for node in config.nodes:
        (executable,) = [
            ROOT / folder / node.type for folder in ("record", "deploy") if (ROOT / folder / node.type).exists()
        ]
        assert os.access(executable, os.X_OK)
        done = subprocess.run(
            [sys.executable, str(executable), *shlex.split(node.args)],
            capture_output=True, text=True, timeout=120, check=False, cwd=ROOT,
            env={**os.environ, "ROS_MASTER_URI": "http://127.0.0.1:9"},
        )  # fmt: skip
        assert done.returncode not in (0, 2), done.stderr
        assert "Traceback" not in done.stderr
        assert "Did you mean 'aloha_transfer_cube'" in done.stderr or "none.hdf5" in done.stderr, done.stderr


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
@pytest.mark.parametrize("value", ["20261129", "0.5", "true", "0"])
def test_values_that_roslaunch_takes_for_numbers_are_passed_on(
    file: Path, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder may be called by a date; a name that is none is for the node to refuse, in one line."""
    names = [each.get("name") for each in ElementTree.parse(file).getroot().iter("arg") if each.get("default") == ""]
    given = [name for name in names if name not in (None, "faults")]
    nodes = loaded(file, monkeypatch, "episode:=e", *(f"{name}:={value}" for name in given)).nodes
    words = [word for node in nodes for word in shlex.split(node.args)]
    assert words.count(value.capitalize()) >= len(given)


@pytest.mark.parametrize("file", ["record", "deploy", "teleop"])
def test_a_view_of_false_is_none(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = loaded(ROOT / "launch" / f"{file}.launch", monkeypatch, "view:=false").nodes
    assert not any("--view" in node.args for node in nodes)


@pytest.mark.parametrize(
    ("main", "words", "problem"),
    [
        (arms_node.main, "--person maybe", "--operator takes {True,False}, given maybe; see `… sim_arms_node --help`"),
        (arms_node.main, "--seed -1", "seed cannot be negative, given -1; see `… sim_arms_node --help`"),
        (cameras_node.main, "--camera_hz 0", "camera_hz must be above 0, given 0; see `… sim_cameras_node --help`"),
        (cameras_node.main, "--jpeg_quality 0",
            "jpeg_quality must lie in 1 to 100, given 0; see `… sim_cameras_node --help`"),
        (base_watchdog.main, "--taks x", "no flag --taks; did you mean --task? See `… base_watchdog_node --help`"),
    ],
)  # fmt: skip
def test_wrong_flags_of_a_node_end_it_with_one_line(
    main: Callable[[list[str]], None], words: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    shown = capsys.readouterr()
    assert (ended.value.code, shown.out) == (2, "")
    assert shown.err == f"error: {problem.replace('…', 'rosrun aloha_kit')}\n"


@pytest.mark.parametrize("main", [arms_node.main, cameras_node.main, base_watchdog.main])
def test_help_of_a_node_lists_its_flags(main: Callable[[list[str]], None], capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    shown = capsys.readouterr().out
    assert shown.startswith("usage: rosrun aloha_kit ")
    assert "\n  --task TEXT " in shown
