"""The doctor as a program, beside a simulated rig: healthy, broken in many places at once, not there at all."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ros.master import free_port, Ros, ros
from tests.ros.small_rig import delete_param, set_param, simulated, write_task

LOAD = {"rate", "stamps"}  # what a busy machine spoils by itself
CAMERAS = ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("doctor")


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Ros]:
    """A roscore with a rig of four cameras, whose leaders nobody holds."""
    with ros(folder) as core, simulated(core, write_task(folder, "aloha", cameras=CAMERAS), operator=False):
        yield core


def examine(core: Ros, task: Path | None, *flags: str, **environment: str) -> tuple[int, dict[str, Any]]:
    """Exit status and report; without a task that of the simulated rig."""
    given = () if task is None else ("--task", str(task))
    process = core.start("python", "-m", "aloha_kit.doctor", *given, "--seconds", "2", "--json", *flags, **environment)
    status = process.wait()
    text = process.text()
    return status, json.loads(text[text.index("{") :])


def found(report: dict[str, Any], *levels: str) -> dict[tuple[str, str], str]:
    """{(check, subject): what was found} of these levels."""
    return {(f["check"], f["subject"]): f["found"] for f in report["findings"] if f["level"] in levels}


def test_a_healthy_rig_and_then_one_with_seven_problems(running: Ros, folder: Path) -> None:
    task, views = folder / "aloha.yaml", folder / "views"
    status, healthy = examine(running, task, "--save_reference", str(views))
    faults = found(healthy, "error")
    assert {check for check, _ in faults} <= LOAD, faults
    assert status == (1 if faults else 0)
    assert healthy["simulated"] is True
    fine = found(healthy, "ok")
    assert fine["image", "cam_high"] == "64x48, neither dark nor burnt"
    assert fine["motors", "puppet_left"] == "7 motors without errors"
    assert fine["following", "follower left"].startswith("not teleoperated now; ")
    assert "readings within the limits" in fine["joints", "leader_right"]
    assert "all from this machine" in fine["bandwidth", "topics"]
    assert sorted(file.name for file in views.iterdir()) == sorted(f"{name}.png" for name in CAMERAS)

    set_param(running, "/sim_rig_faults", {
        "cam_high": {"freeze": True}, "cam_low": {"stop": True},
        "cam_left_wrist": {"swap": "cam_right_wrist"}, "cam_right_wrist": {"swap": "cam_left_wrist"},
        "puppet_left": {"nan": True}, "puppet_right": {"zero_stamp": True, "torque_loss": "shoulder"},
        "master_left": {"read_failure": True}, "master_right": {"offset_s": -7.0},
    })  # fmt: skip
    time.sleep(1.0)
    status, broken = examine(running, None, "--reference", str(views))
    assert (status, broken["verdict"]) == (1, "NO-GO")
    assert broken["rig"] == healthy["rig"] == "small_aloha"  # of the simulated rig's task, which has no name in configs
    faults, warnings = found(broken, "error"), found(broken, "warning")
    assert faults["stamps", "images/cam_high"].startswith("frozen: ")
    assert faults["topic", "images/cam_low"].startswith("/usb_cam_low/image_raw/compressed is silent")
    for one, other in (("left", "right"), ("right", "left")):
        words = faults["identity", f"cam_{one}_wrist"]
        assert words.startswith(f"shows the view of 'cam_{other}_wrist', and the other way round: they are swapped")
    assert faults["joints", "qpos_left"].endswith("readings are not finite")
    assert faults["joints", "leader_left"].endswith("the driver could not read its motors")
    assert faults["motors", "puppet_right"] == "no torque in shoulder"
    assert warnings["stamps", "qpos_right"] == "every stamp is zero"
    assert warnings["stamps", "leader_right"].endswith("s behind this machine's clock")
    assert float(warnings["stamps", "leader_right"].split()[0]) == pytest.approx(7.0, abs=0.3)
    delete_param(running, "/sim_rig_faults")


def test_wrong_topics_and_time_that_stands_still(running: Ros, folder: Path) -> None:
    wrong = folder / "wrong"
    wrong.mkdir()
    task = write_task(wrong, "aloha", cameras=("cam_high", "cam_low"))
    file = wrong / "rig_aloha.yaml"
    rig = yaml.safe_load(file.read_text())
    rig["cameras"]["cam_high"]["topic"] = "/usb_cam_high/color/image_raw"  # not there
    rig["cameras"]["cam_low"]["topic"] = "/puppet_left/joint_states"  # joints, not images
    file.write_text(yaml.safe_dump(rig))
    set_param(running, "/use_sim_time", True)
    try:
        status, report = examine(running, task)
    finally:
        set_param(running, "/use_sim_time", False)
    faults = found(report, "error")
    assert status == 1
    assert faults["clock", "/use_sim_time"] == "true, but nobody publishes /clock: time stands still"
    missing = faults["topic", "images/cam_high"]
    assert missing.startswith("nobody publishes /usb_cam_high/color/image_raw. Published instead: ")
    assert "/usb_cam_high/image_raw/compressed (sensor_msgs/CompressedImage)" in missing
    assert faults["topic", "images/cam_low"].startswith("/puppet_left/joint_states is a sensor_msgs/JointState (by ")


def test_no_master_and_no_rig_are_reported_for_people(own_ros: Ros, folder: Path) -> None:
    task = write_task(folder, "aloha", cameras=CAMERAS)
    nowhere = f"http://127.0.0.1:{free_port()}"
    command = ("python", "-m", "aloha_kit.doctor", "--task", str(task))
    no_master = own_ros.start(*command, ROS_MASTER_URI=nowhere)
    nobody = own_ros.launch("doctor.launch", task=task, seconds=1)
    assert no_master.wait() == 1
    nobody.wait()
    assert f"network: no ROS master answers at {nowhere}" in no_master.text()
    assert "NO-GO: rig 'small_aloha' for task 'aloha_transfer_cube': 1 error, 0 warnings" in no_master.text()
    assert "topic: nobody publishes /puppet_left/joint_states" in nobody.text()
    assert "NO-GO: rig 'small_aloha' for task 'aloha_transfer_cube': 8 errors" in nobody.text()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--task", "sim_transfer_cube"],
            "rig 'sim' of task 'sim_transfer_cube' has kind 'sim', which needs no ROS",
        ),
        (["--task", "aloha_transfer_cub"], "Did you mean 'aloha_transfer_cube'?"),
        (["--task", "aloha_transfer_cube", "--seconds", "0"], "error: seconds must be at least 1, given 0"),
        (["--task", "aloha_transfer_cube", "--reference", "nowhere"], "no folder 'nowhere' with reference images"),
    ],
)
def test_mistakes_are_reported_before_ros_is_contacted(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from aloha_kit.doctor.__main__ import main
    from tests.commands import failure

    assert words in failure(main, flags)
