"""How a launch ends with its node: real roslaunches of two small nodes, in a package of their own."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.ros.master import launch_result, Process, Ros

NODE = """#!{python}
import os, sys, time
from aloha_kit.core.cli import command_line
from aloha_kit.ros.launched import run_node

def main(argv):
    with command_line("what was done is saved"):
        print("3 of", *argv)
        print("the node runs", file=sys.stderr, flush=True)
        {body}

run_node(main)
"""
DRIVER = """#!{python}
import time
try:
    print("the driver runs", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.3)
    print("the driver has ended", flush=True)
"""
LAUNCH = """<launch>
  <node pkg="small" type="driver" name="driver" output="screen" required="true"/>
  <node pkg="small" type="node" name="node" output="screen" required="true" args="4"/>
</launch>
"""


def launch(ros: Ros, folder: Path, body: str) -> Process:
    """roslaunch of the driver and of a node whose work is `body`."""
    (folder / "package.xml").write_text("<package><name>small</name></package>")
    for name, text in {"node": NODE, "driver": DRIVER}.items():
        (folder / name).write_text(text.format(python=sys.executable, body=body))
        (folder / name).chmod(0o755)
    (folder / "small.launch").write_text(LAUNCH)
    path = f"{folder}:{ros.environment['ROS_PACKAGE_PATH']}"
    return ros.start("roslaunch", "-p", str(ros.port), str(folder / "small.launch"), ROS_PACKAGE_PATH=path)


@pytest.mark.parametrize(
    ("body", "result"),
    [
        ("pass", ["3 of 4"]),
        ("sys.exit('error: the arm is not there')", ["3 of 4", "error: the arm is not there"]),
        ("time.sleep(60)", ["3 of 4"]),  # and Ctrl-C
    ],
    ids=["complete", "error", "interrupted"],
)
def test_the_result_is_shown_last_and_nothing_is_reported_dead(
    session_ros: Ros, tmp_path: Path, body: str, result: list[str]
) -> None:
    launched = launch(session_ros, tmp_path, body)
    if "sleep" in body:
        launched.wait_for("the node runs")
        launched.wait_for("the driver runs")
        launched.signal(signal.SIGINT)
    launched.wait()
    shown = launch_result(launched)
    assert shown[shown.index("the driver has ended") + 1 :] == result
    assert ("interrupted; what was done is saved" in launched.text()) == ("sleep" in body)


@pytest.mark.parametrize(
    ("body", "reported"), [("os.kill(os.getpid(), 9)", "exit code -9"), ("1 / 0", "ZeroDivisionError")]
)
def test_a_node_that_dies_ends_the_launch_and_is_reported(
    session_ros: Ros, tmp_path: Path, body: str, reported: str
) -> None:
    launched = launch(session_ros, tmp_path, body)
    launched.wait()
    text = launched.text()
    assert "\x1b[31m" in text
    assert "REQUIRED process [node-" in text
    assert reported in text
    assert "the driver has ended" in text
