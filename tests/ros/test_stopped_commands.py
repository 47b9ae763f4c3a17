"""Commands as an operator starts them: the emergency stop pressed, its source stalled, Ctrl-C twice."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from aloha_kit.config import load, TaskConfig
from aloha_kit.episode import list_episodes
from tests.ros.command_recorder import CommandRecorder
from tests.ros.master import launch_result, Process, Ros
from tests.ros.rig_client import Client
from tests.ros.small_rig import recording, simulated, swinging_policy, write_task
from tests.ros.test_estop import PUBLISHER
from tests.waiting import until

TIMEOUT_S = 90.0
REACTION_S = 0.2
"""From the button to the last command that was on its way, of processes on a busy machine."""


@pytest.fixture(scope="module")
def task(session_ros: Ros, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    file = write_task(tmp_path_factory.mktemp("estop_commands"), "aloha", cameras=(), episode_len=5000)
    with simulated(session_ros, file, cameras=False, operator=False):
        yield file


@pytest.fixture(scope="module")
def rig(task: Path) -> Iterator[Client]:
    client = Client(("puppet_left", "puppet_right"))
    yield client
    client.close()


@pytest.fixture
def recorder(session_ros: Ros) -> Iterator[CommandRecorder]:
    recorder = CommandRecorder(session_ros.environment)
    yield recorder
    recorder.close()


def pressed_in(program: Process, recorder: CommandRecorder, rig: Client) -> str:
    """Press for 5 ms while `program` moves the arms; its output once it has ended as it should."""
    recorder.press(0.0, 0.005)
    assert program.wait(TIMEOUT_S) == 1
    seen = recorder.report()
    late = [
        (when - seen["pressed"], topic) for when, topic, _ in seen["arrivals"] if when > seen["pressed"] + REACTION_S
    ]
    assert late == []
    assert "the emergency stop was pressed (by /command_recorder)" in program.text()
    assert "Traceback" not in program.text()
    assert_under_torque(rig)
    return program.text()


def assert_under_torque(rig: Client) -> None:
    for arm in ("puppet_left", "puppet_right"):
        assert set(rig.call(arm, "get_motor_registers", "group", "all", "Torque_Enable", 0).values) == {1}


def until_it_moves(recorder: CommandRecorder) -> None:
    """Until commands arrive."""
    recorder.forget()
    until(lambda: len(recorder.report()["arrivals"]) > 20, "commands arrive", TIMEOUT_S)


@pytest.fixture(scope="module")
def policy(task: Path) -> Iterator[tuple[str, ...]]:
    with swinging_policy(task) as flags:
        yield flags


def deploy(ros: Ros, task: Path, policy: tuple[str, ...], output: Path) -> Process:
    words = (*policy, "--task", str(task), "--output", str(output))
    return ros.start("python", "-m", "aloha_kit.deploy", *words)


def test_pressed_on_the_way_to_the_start_with_a_policy_on_another_machine(
    session_ros: Ros, task: Path, rig: Client, recorder: CommandRecorder, policy: tuple[str, ...], tmp_path: Path
) -> None:
    program = deploy(session_ros, task, policy, tmp_path)
    until_it_moves(recorder)
    text = pressed_in(program, recorder, rig)
    assert "the arms were not parked: the emergency stop was pressed" in text
    assert list_episodes(tmp_path) == []


def test_pressed_while_a_policy_on_another_machine_acts_and_while_its_episode_is_replayed(
    session_ros: Ros, task: Path, rig: Client, recorder: CommandRecorder, policy: tuple[str, ...], tmp_path: Path
) -> None:
    program = deploy(session_ros, task, policy, tmp_path)
    until(lambda: recording(tmp_path), "the rollout runs", TIMEOUT_S)
    until_it_moves(recorder)
    text = pressed_in(program, recorder, rig)
    assert "the arms were not parked: the emergency stop was pressed" in text
    (episode,) = list_episodes(tmp_path)
    program = session_ros.launch("replay.launch", task=task, episode=episode)
    until_it_moves(recorder)
    recorder.press(0.0, 0.005)
    program.wait(TIMEOUT_S)  # roslaunch ends with its required node
    seen = recorder.report()
    assert [when for when, _, _ in seen["arrivals"] if when > seen["pressed"] + REACTION_S] == []
    assert launch_result(program)[-1].startswith("error: the emergency stop was pressed (by /command_recorder)")
    assert_under_torque(rig)


def test_pressed_while_park_launch_brings_them_to_rest(
    session_ros: Ros, task: Path, rig: Client, recorder: CommandRecorder
) -> None:
    program = session_ros.launch("park.launch", task=task, seconds=20, release="true")
    until_it_moves(recorder)
    recorder.press(0.0, 0.005)
    program.wait(TIMEOUT_S)
    seen = recorder.report()
    assert [when for when, _, _ in seen["arrivals"] if when > seen["pressed"] + REACTION_S] == []
    assert launch_result(program)[-1].startswith("error: the emergency stop was pressed (by /command_recorder)")
    assert "parked;" not in program.text()
    assert_under_torque(rig)


def test_a_source_that_is_stopped_while_they_are_parked_ends_it_there(
    session_ros: Ros, task: Path, rig: Client, recorder: CommandRecorder
) -> None:
    config = yaml.safe_load(Path(load(TaskConfig, "tasks", str(task)).rig).read_text(encoding="utf-8"))
    with_button = task.with_name("rig_with_button.yaml")
    with_button.write_text(yaml.safe_dump({**config, "estop": {"topic": "/cell/estop", "timeout_s": 0.3}}), "utf-8")
    source = session_ros.start("python", "-c", PUBLISHER, "cell_plc", "/cell/estop", "false", "30")
    words = ("--task", str(task), "--rig", str(with_button), "--park", "--park_s", "20")
    program = session_ros.start("python", "-m", "aloha_kit.teleop", *words)
    until_it_moves(recorder)
    source.signal(signal.SIGSTOP)
    stopped = time.monotonic()
    assert program.wait(TIMEOUT_S) == 1
    source.kill()
    assert "error: the emergency stop's source /cell_plc is silent for 0.3 s, which counts as pressed" in program.text()
    assert [when for when, _, _ in recorder.report()["arrivals"] if when > stopped + 0.3 + 2 * REACTION_S] == []
    assert_under_torque(rig)


@pytest.mark.parametrize("when", ["on the way to the start", "while it acts"])
def test_a_second_ctrl_c_ends_parking_where_the_arms_are(
    session_ros: Ros,
    task: Path,
    rig: Client,
    recorder: CommandRecorder,
    policy: tuple[str, ...],
    tmp_path: Path,
    when: str,
) -> None:
    program = deploy(session_ros, task, policy, tmp_path)
    if when == "while it acts":
        until(lambda: recording(tmp_path), "the rollout runs", TIMEOUT_S)
    until_it_moves(recorder)
    program.signal(signal.SIGINT)
    until_it_moves(recorder)  # to rest
    program.signal(signal.SIGINT)
    assert program.wait(TIMEOUT_S) == 130
    assert "Traceback" not in program.text()
    assert "interrupted on the way to park, nothing more was sent to the arms; their torque is on" in program.text()
    assert "interrupted; what was done is saved" in program.text()
    assert len(list_episodes(tmp_path)) == (when == "while it acts")
    assert list(tmp_path.glob("*.partial")) == []
    assert_under_torque(rig)
