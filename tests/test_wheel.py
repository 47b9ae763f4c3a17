"""What `pip install` brings: the wheel is built here without a network, and the ROS package lists what it imports."""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path
from xml.etree import ElementTree

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
SHARE = "aloha_kit-0.1.0.data/data/share/aloha_kit"
BUILD = "import setuptools.build_meta as backend; print(backend.build_wheel('out'))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from a copy: a build leaves folders beside setup.py."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("aloha_kit", "configs", "launch", "record", "deploy"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "package.xml"):
        shutil.copy(ROOT / name, folder)
    done = subprocess.run([sys.executable, "-c", BUILD], cwd=folder, capture_output=True, text=True, check=True)
    return zipfile.ZipFile(folder / "out" / done.stdout.splitlines()[-1])


def test_the_wheel_has_every_module_launch_file_node_and_configuration(wheel: zipfile.ZipFile) -> None:
    inside = set(wheel.namelist())
    modules = {str(file.relative_to(ROOT)) for file in (ROOT / "aloha_kit").rglob("*.py")}
    assert len(modules) > 200
    assert modules | {"aloha_kit/py.typed", "aloha_kit/core/locale/zh.mo"} <= inside
    patterns = ("configs/**/*.yaml", "launch/*.launch", "record/*_node", "deploy/*_node", "package.xml")
    data = {str(file.relative_to(ROOT)) for pattern in patterns for file in ROOT.glob(pattern)}
    assert {f"{SHARE}/{name}" for name in data} <= inside
    for name in data:
        if name.endswith("_node"):
            assert wheel.getinfo(f"{SHARE}/{name}").external_attr >> 16 & 0o111, f"{name} cannot be executed"


@pytest.mark.parametrize(("python", "resolved"), [("3.10", True), ("3.12", True), ("3.13", False)])
def test_nothing_requires_labmaze_where_it_has_no_build(wheel: zipfile.ZipFile, python: str, resolved: bool) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    lines = message_from_bytes(wheel.read(name)).get_all("Requires-Dist") or []
    needed = set()
    for requirement in map(Requirement, lines):
        environment = {"python_version": python, "extra": "all"}
        if requirement.marker is None or requirement.marker.evaluate(environment):
            needed.add(requirement.name.lower().replace("_", "-"))
    assert needed >= {"mujoco", "mink", "torch", "numpy"}
    assert ({"dm-control", "gym-aloha"} <= needed) == ("glfw" not in needed) == resolved


@pytest.mark.skipif(importlib.util.find_spec("roslaunch") is None, reason="ROS 1 is not installed")
def test_roslaunch_finds_the_nodes_of_an_installed_wheel(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    for member in wheel.infolist():
        if member.filename.startswith(SHARE):
            target = tmp_path / member.filename.removeprefix(SHARE).lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(wheel.read(member))
            target.chmod(member.external_attr >> 16 & 0o777)
    environment = {**os.environ, "ROS_PACKAGE_PATH": f"{tmp_path}:/usr/share"}
    for command, expected in (
        (["roslaunch", "--nodes", "aloha_kit", "record.launch", "sim:=true"], "/aloha_record"),
        (["roslaunch", "--args=/aloha_record", "aloha_kit", "record.launch", "sim:=true"], str(tmp_path / "record")),
    ):
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert expected in done.stdout, done.stderr


def test_the_ros_package_lists_every_ros_module_that_is_imported() -> None:
    listed = {element.text for element in ElementTree.parse(ROOT / "package.xml").iter("exec_depend")}
    imported = set()
    for file in [*(ROOT / "aloha_kit").rglob("*.py"), *ROOT.glob("*/*_node")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    own = ("interbotix_xs_msgs", "rosbags")  # built in where the package is not there; a library of the Python index
    ros = {
        name
        for name in imported
        if name.startswith(("ros", "gen", "message_filters")) or name.endswith(("_msgs", "_srvs"))
    }
    assert {"rospy", "genpy", "sensor_msgs"} <= ros
    assert ros - set(own) <= listed
