"""A driver that reboots motors is silent for a second each: the deployer and the recorder end by name or go on."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rospy
from std_msgs.msg import String

from aloha_kit.core import START_ARM_POSE, VX300S
from aloha_kit.episode import Episode, list_episodes
from aloha_kit.ros import interbotix_messages
from tests.ros.master import Process, Ros
from tests.ros.rig_client import Client, Received
from tests.ros.small_rig import recording, simulated, swinging_policy, write_task
from tests.waiting import until

ARM = "puppet_left"
TIMEOUT_S = 90.0
ONE_MOTOR, ALL_MOTORS = ("single", "gripper"), ("group", "all")


@pytest.fixture(scope="module")
def task(session_ros: Ros, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A simulated ALOHA with a person, whose drivers take the real ones' second for each motor."""
    file = write_task(tmp_path_factory.mktemp("silent"), "aloha", cameras=["cam_high"], episode_len=3000)
    with simulated(session_ros, file):
        yield file


@pytest.fixture(scope="module")
def rig(task: Path) -> Iterator[Client]:
    client = Client()
    yield client
    client.close()


def reboot(rig: Client, what: tuple[str, str]) -> threading.Thread:
    """Somebody else reboots motors while the arm is used."""
    thread = threading.Thread(target=rig.call, args=(ARM, "reboot_motors", *what, True, False))
    thread.start()
    return thread


def assert_under_torque(rig: Client) -> None:
    for arm in ("puppet_left", "puppet_right"):
        assert set(rig.call(arm, "get_motor_registers", "group", "all", "Torque_Enable", 0).values) == {1}


@pytest.fixture(scope="module")
def policy(task: Path) -> Iterator[tuple[str, ...]]:
    with swinging_policy(task) as flags:
        yield flags


@pytest.mark.parametrize("what", [ONE_MOTOR, ALL_MOTORS], ids=["1 s", "9 s"])
def test_a_deployment_ends_by_name_and_leaves_the_arms_under_torque(
    session_ros: Ros, task: Path, rig: Client, policy: tuple[str, ...], tmp_path: Path, what: tuple[str, str]
) -> None:
    words = (*policy, "--task", str(task), "--output", str(tmp_path), "--num_rollouts", "1")
    program = session_ros.quick("aloha_kit.deploy", *words, "--judge_s", "0")
    until(lambda: recording(tmp_path), "the rollout runs", TIMEOUT_S)
    rebooting = reboot(rig, what)
    assert program.wait(TIMEOUT_S) == 1
    rebooting.join()
    assert "stream 'qpos_left'" in program.text()
    assert "Traceback" not in program.text()
    (episode,) = [Episode.open(file) for file in list_episodes(tmp_path)]
    with episode:
        assert episode.length > 0
    assert list(tmp_path.glob("*.partial")) == []
    assert_under_torque(rig)
    assert "the arms are parked; their torque is on" in program.text()  # when the driver is back
    assert np.abs(rig.position(ARM)[:6] - VX300S.rest).max() < 0.15


def test_motors_that_reboot_on_the_way_to_the_start_end_it_by_name_and_no_arm_is_flung(
    session_ros: Ros, task: Path, rig: Client, policy: tuple[str, ...], tmp_path: Path
) -> None:
    commands = Received(f"/{ARM}/commands/joint_group", interbotix_messages.JointGroupCommand)
    words = (*policy, "--task", str(task), "--output", str(tmp_path), "--num_rollouts", "1")
    program = session_ros.start("python", "-m", "aloha_kit.deploy", *words, "--judge_s", "0")
    until(lambda: len(commands.messages) > 10, "it is on its way to the start pose", TIMEOUT_S)
    reboot(rig, ALL_MOTORS).join()
    assert program.wait(TIMEOUT_S) == 1
    assert re.search(r"error: puppet_left(: nothing on| stopped|: its driver)", program.text())
    assert "the arms are parked; their torque is on" in program.text()
    steps = np.diff([message.cmd for message in commands.messages], axis=0)
    assert np.abs(steps).max() < 2 * VX300S.velocity / 25  # from where it lies it begins anew
    assert_under_torque(rig)
    commands.subscriber.unregister()


def test_a_recorder_pauses_by_name_keeps_the_rows_and_goes_on(
    session_ros: Ros, task: Path, rig: Client, tmp_path: Path
) -> None:
    recorder = session_ros.quick(
        "aloha_kit.record", "--task", str(task), "--dataset_dir", str(tmp_path),
        "--countdown", "0", "--no_keyboard",
    )  # fmt: skip
    recorder.wait_for("recording: ", TIMEOUT_S)
    until(lambda: recording(tmp_path), "it is being written", TIMEOUT_S)
    rebooting = reboot(rig, ALL_MOTORS)
    recorder.wait_for("paused: ", TIMEOUT_S)
    assert "stream 'qpos_left'" in recorder.text()
    assert_under_torque(rig)  # answered when the driver is back
    rebooting.join()
    (cut,) = list_episodes(tmp_path / "failed")
    with Episode.open(cut) as episode:
        assert episode.length > 0
    command = rospy.Publisher("/aloha_kit/record/command", String, queue_size=1)
    until(command.get_num_connections, "the recorder listens")
    command.publish("resume")
    until(lambda: printed(recorder, "recording: ") == 2, "the next episode", TIMEOUT_S)
    assert np.abs(rig.position(ARM)[:6] - START_ARM_POSE).max() < 2.0
    command.publish("quit")
    recorder.wait(TIMEOUT_S)
    assert "Traceback" not in recorder.text()
    assert list(tmp_path.glob("*.partial")) == []
    command.unregister()


def printed(process: Process, words: str) -> int:
    return process.text().count(words)
