"""Teleoperation and parking as an operator starts them, on the simulated rig with its person at the leaders."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rospy
from std_msgs.msg import Bool

from aloha_kit.core import START_ARM_POSE, VX300S
from aloha_kit.ros import interbotix_messages
from aloha_kit.ros.operator_topics import OperatorTopics, running_task
from aloha_kit.teleop.__main__ import main
from tests.commands import failure
from tests.ros.competing_publisher import CompetingPublisher
from tests.ros.master import launch_result, Process, Ros
from tests.ros.rig_client import Client, Received
from tests.ros.small_rig import simulated, write_task
from tests.waiting import until

SIDES = ("left", "right")


@pytest.fixture(scope="module")
def task(session_ros: Ros, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    file = write_task(tmp_path_factory.mktemp("teleop"), "aloha")
    with simulated(session_ros, file, cameras=False):
        yield file


@pytest.fixture(scope="module")
def rig(task: Path) -> Iterator[Client]:
    client = Client()
    yield client
    client.close()


def torque(rig: Client, arm: str) -> set[int]:
    """The different values among its motors."""
    values = rig.call(arm, "get_motor_registers", "group", "all", "Torque_Enable", 0).values
    assert len(values) == 7
    return set(values)


def apart(rig: Client, side: str) -> float:
    """rad between leader and follower, the worst of six joints."""
    return float(np.abs(rig.position(f"master_{side}") - rig.position(f"puppet_{side}"))[:6].max())


def teleoperate(ros: Ros, task: Path) -> Process:
    program = ros.quick("aloha_kit.teleop", "--task", str(task), "--countdown_s", "0")
    program.wait_for("teleoperating")
    return program


def away(rig: Client, side: str) -> float:
    """rad that a leader has been moved from the start pose."""
    return float(np.abs(rig.position(f"master_{side}")[:6] - START_ARM_POSE).max())


def test_the_gesture_starts_it_the_followers_follow_and_ctrl_c_leaves_all_arms_held(
    session_ros: Ros, task: Path, rig: Client
) -> None:
    launched = session_ros.launch("teleop.launch", countdown_s=0.5)
    launched.wait_for("rig 'small_aloha', task 'aloha_transfer_cube'")  # those of the rig that runs
    launched.wait_for("waiting: close both leader grippers to begin")
    launched.wait_for("teleoperating")
    until(lambda: max(away(rig, side) for side in SIDES) > 0.2, "the person moves a leader")
    until(lambda: max(apart(rig, side) for side in SIDES) < 0.15, "the followers are with the leaders")
    assert max(away(rig, side) for side in SIDES) > 0.2  # still under way, or holding at the end
    launched.signal(signal.SIGINT)
    launched.wait()
    assert launch_result(launched)[-1] == "no command is sent any more; their torque is on"
    for side in SIDES:
        assert torque(rig, f"puppet_{side}") == {1}
        assert torque(rig, f"master_{side}") == {1}  # the operator may let go
        before = rig.position(f"puppet_{side}")[:6]
        rig.states[f"puppet_{side}"].next(30)
        assert np.abs(rig.position(f"puppet_{side}")[:6] - before).max() < 0.05


def test_the_emergency_stop_ends_it_with_everything_held(session_ros: Ros, task: Path, rig: Client) -> None:
    program = teleoperate(session_ros, task)
    button = rospy.Publisher("/aloha_kit/estop", Bool, latch=True, queue_size=1)
    button.publish(Bool(data=True))
    assert program.wait() == 1
    assert "error: the emergency stop was pressed (by /aloha_kit_tests" in program.text()
    for side in SIDES:
        assert torque(rig, f"puppet_{side}") == {1}
        assert torque(rig, f"master_{side}") == {1}
    button.publish(Bool(data=False))
    button.unregister()


@pytest.mark.parametrize(
    ("kind", "topic", "words"),
    [
        ("states", "/master_left/joint_states", "two nodes publish /master_left/joint_states: /intruder and /sim_arms"),
        (
            "group",
            "/master_left/commands/joint_group",
            "another node commands the leaders: /intruder on /master_left/commands/joint_group",
        ),
    ],
)
def test_a_second_publisher_for_the_leaders_ends_it_by_name_with_everything_held(
    session_ros: Ros, task: Path, rig: Client, kind: str, topic: str, words: str
) -> None:
    sent = {
        side: Received(f"/puppet_{side}/commands/joint_group", interbotix_messages.JointGroupCommand) for side in SIDES
    }
    program = teleoperate(session_ros, task)
    with CompetingPublisher(session_ros, "intruder", kind, topic) as other:
        other.send()
        assert program.wait() == 1
    assert f"error: {words}. Stop one of them; no further command was sent" in program.text()
    for side, received in sent.items():
        commands = np.array([message.cmd for message in received.messages])
        assert np.abs(np.diff(commands, axis=0)).max() <= VX300S.velocity / 50 + 1e-5
        assert torque(rig, f"puppet_{side}") == {1}
        received.subscriber.unregister()


def test_the_emergency_stop_ends_parking_where_the_arms_are(session_ros: Ros, task: Path, rig: Client) -> None:
    button = rospy.Publisher("/aloha_kit/estop", Bool, queue_size=10)
    words = ["--task", str(task), "--park", "--park_s", "20", "--release"]
    program = session_ros.start("python", "-m", "aloha_kit.teleop", *words)
    sent = [Received(f"/puppet_{side}/commands/joint_group", rospy.AnyMsg) for side in SIDES]
    until(
        lambda: all(len(received.messages) > 20 for received in sent) and button.get_num_connections() > 0,
        "it is on its way",
    )
    button.publish(Bool(data=True))
    time.sleep(0.04)
    button.publish(Bool(data=False))
    assert program.wait() == 1
    assert "error: the emergency stop was pressed (by /aloha_kit_tests" in program.text()
    assert "parked;" not in program.text()
    assert all(len(received.messages) < 20 * 50 for received in sent)
    for side in SIDES:
        assert torque(rig, f"puppet_{side}") == {1}
    button.unregister()
    for received in sent:
        received.subscriber.unregister()


def test_parking_keeps_the_torque_until_release_is_given(session_ros: Ros, task: Path, rig: Client) -> None:
    launched = session_ros.launch("park.launch", seconds=1)  # of the task that runs
    launched.wait()
    assert launch_result(launched) == ["parked; their torque is on"]
    for side in SIDES:
        rig.arrives(f"puppet_{side}", VX300S.rest, tolerance=0.2)
        assert torque(rig, f"puppet_{side}") == {1}
    launched = session_ros.launch("park.launch", task=task, seconds=1, release="true")
    launched.wait()
    assert launch_result(launched) == ["parked; their torque is off"]
    for side in SIDES:
        assert torque(rig, f"puppet_{side}") == {0}
        rig.arrives(f"puppet_{side}", VX300S.rest, tolerance=0.3)


def test_the_task_is_that_of_the_simulated_rig_that_runs(task: Path, rig: Client) -> None:
    assert running_task("other") == str(task.resolve())
    rospy.delete_param("/sim_rig/task_config")
    assert running_task("other") == "other"
    rospy.set_param("/sim_rig/task_config", str(task.resolve()))


def test_on_a_real_robot_the_task_is_that_of_the_recorder_that_runs(task: Path, rig: Client) -> None:
    simulation = rospy.get_param("/sim_rig")
    rospy.delete_param("/sim_rig")
    try:
        recorder = OperatorTopics(("start",), task_config="/tasks/stack.yaml")
        assert running_task("other") == "/tasks/stack.yaml"
        recorder.close()
        until(lambda: running_task("other") == "other", "the end of the recorder")
    finally:
        rospy.set_param("/sim_rig", simulation)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--task", "cobot_magic_transfer_cube"], "error: the leaders of rig 'cobot_magic' drive its followers"),
        (["--task", "sim_transfer_cube"], "error: rig 'sim' has no leader arms for an operator"),
        (["--task", "aloha_transfer_cube", "--release"], "error: --release goes with --park"),
        (
            ["--task", "aloha_transfer_cube", "--park", "--park_s", "0"],
            "error: need --countdown_s ≥ 0 and --park_s > 0",
        ),
    ],
)
def test_mistakes_are_reported_before_anything_is_connected(flags: list[str], words: str) -> None:
    assert failure(main, flags).startswith(words)
