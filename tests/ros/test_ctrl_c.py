"""Ctrl-C on a roslaunch that started the simulated rig too: the program comes to its end before the drivers go."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sensor_msgs.msg import JointState

from aloha_kit.config import load, RigConfig, TaskConfig
from aloha_kit.core import VX300S
from aloha_kit.episode import list_episodes
from aloha_kit.sync.observation import rig_contract
from tests.deploy.conftest import save_checkpoint
from tests.ros.master import launch_result, Process, Ros
from tests.ros.rig_client import Received
from tests.ros.small_rig import recording, write_task
from tests.waiting import until

ARMS = ("puppet_left", "puppet_right", "master_left", "master_right")
TIMEOUT_S = 120.0


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_task(tmp_path_factory.mktemp("ctrl_c"), "aloha", cameras=["cam_high"], episode_len=2000)


@pytest.fixture
def states(session_ros: Ros) -> Iterator[dict[str, Received]]:
    """Commands of the arms at an independent subscriber; the last of them is what the drivers left."""
    collected = {arm: Received(f"/{arm}/joint_states", JointState) for arm in ARMS}
    yield collected
    for received in collected.values():
        received.subscriber.unregister()


def interrupt(launched: Process) -> str:
    """Ctrl-C in the terminal of roslaunch, which signals all nodes at once; the output to its end."""
    launched.signal(signal.SIGINT)
    launched.wait(TIMEOUT_S)
    text = launched.text()
    assert "\x1b[31m" not in text, "roslaunch reports an error"
    assert "Traceback" not in text
    return text


def assert_at_rest(states: dict[str, Received]) -> None:
    for arm in ARMS[:2]:
        assert np.abs(np.array(states[arm].newest.position[:6]) - VX300S.rest).max() < 0.15


@pytest.fixture(scope="module")
def checkpoint(task: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = load(TaskConfig, "tasks", str(task))
    contract = rig_contract(config, load(RigConfig, "rigs", config.rig), True, {})
    return save_checkpoint(tmp_path_factory.mktemp("run") / "checkpoints" / "best", contract)


def test_deployment_parks_the_arms_before_the_drivers_go(
    session_ros: Ros, task: Path, checkpoint: Path, states: dict[str, Received], tmp_path: Path
) -> None:
    launched = session_ros.launch("deploy.launch", task=task, ckpt=checkpoint, sim="true", output=tmp_path)
    launched.wait_for("is up", TIMEOUT_S)
    until(lambda: recording(tmp_path), "the rollout runs", TIMEOUT_S)
    text = interrupt(launched)
    assert "the arms are parked; their torque is on" in text
    assert "this node ends when /aloha_deploy has ended" in text
    assert_at_rest(states)


def test_recording_and_replay_park_the_arms_before_the_drivers_go(
    session_ros: Ros, task: Path, states: dict[str, Received]
) -> None:
    launched = session_ros.launch("record.launch", task=task, sim="true", countdown=0, keyboard="false")
    launched.wait_for("recording: ", TIMEOUT_S)
    until(lambda: recording(task.parent / "data"), "steps are recorded", TIMEOUT_S)
    interrupt(launched)
    assert launch_result(launched)[-3:] == [
        f"0 of 50 episodes in {task.parent / 'data'}", "this session: 1 failed", "the same command continues from here"
    ]  # fmt: skip
    assert_at_rest(states)
    (episode,) = list_episodes(task.parent / "data" / "failed")
    launched = session_ros.launch("replay.launch", task=task, episode=episode, sim="true")
    launched.wait_for("is up", TIMEOUT_S)
    until(lambda: moved(states["puppet_left"]), "the arms are on their way", TIMEOUT_S)
    assert "the arms are parked; their torque is on" in interrupt(launched)
    assert_at_rest(states)


def moved(follower: Received) -> bool:
    """Whether an arm that a driver found asleep has been raised."""
    return bool(follower.newest.position[1] > -1.2)


def test_teleoperation_ends_before_the_drivers_go(session_ros: Ros, task: Path, states: dict[str, Received]) -> None:
    launched = session_ros.launch("teleop.launch", task=task, sim="true", countdown_s=0)
    launched.wait_for("teleoperating", TIMEOUT_S)
    text = interrupt(launched)
    assert launch_result(launched)[-1] == "no command is sent any more; their torque is on"
    assert "this node ends when /aloha_teleop has ended" in text
    for side in ("left", "right"):
        apart = np.subtract(states[f"master_{side}"].newest.position[:6], states[f"puppet_{side}"].newest.position[:6])
        assert np.abs(apart).max() < 0.3
