"""A rig of one arm with seven joints and a gripper records, guards, parks and replays, as one of ALOHA's arms does."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from aloha_kit import envs
from aloha_kit.config import load, RigConfig, TaskConfig, to_mapping
from aloha_kit.config.rig import ArmConfig, CameraConfig
from aloha_kit.core import SafetyError
from aloha_kit.episode import Episode, list_episodes
from aloha_kit.episode.validate import validate
from aloha_kit.loop import run_episode
from aloha_kit.ros.ros_env import RosEnv
from aloha_kit.testing.environments import check_environment
from tests.loop.fake_rig import Constant
from tests.ros.arm_of_seven import ARM, BARE
from tests.ros.fake_drivers import FakeCamera, FakePiper
from tests.ros.master import Ros
from tests.waiting import until

MODEL = "tests.ros.arm_of_seven:ARM"
RIG = RigConfig(
    name="seven",
    kind="ros",
    teleop="hardware",
    followers={
        "arm": ArmConfig(driver="joint_state", model=MODEL, state_topic="/puppet/joint", command_topic="/master/joint")
    },
    leaders={"arm": ArmConfig(driver="joint_state", model=MODEL, state_topic="/master/joint")},
    cameras={"cam_high": CameraConfig(48, 64, topic="/usb_cam_high/image_raw/compressed")},
)
NAMES = (*(f"arm_joint{i}" for i in range(1, 8)), "arm_gripper")


@pytest.fixture
def follower(session_ros: Ros) -> Iterator[FakePiper]:
    with (
        FakePiper("/puppet/joint", "/master/joint", model=ARM) as arm,
        FakeCamera("/usb_cam_high/image_raw/compressed"),
    ):
        arm.joints[:] = [*ARM.rest, 0.04]
        yield arm


def task(folder: Path, **changes: Any) -> TaskConfig:
    """A task of the rig, in files that a command line takes."""
    (folder / "rig.yaml").write_text(yaml.safe_dump(to_mapping(RIG)))
    values = {"episode_len": 20, "rate_hz": 25, "cameras": ["cam_high"], "dataset_dir": str(folder / "data"), **changes}
    file = {"name": "reach", "instruction": "Reach.", "rig": str(folder / "rig.yaml"), **values}
    (folder / "task.yaml").write_text(yaml.safe_dump(file))
    return load(TaskConfig, "tasks", folder / "task.yaml")


def test_a_policy_moves_it_within_its_own_limits_and_leaves_it_parked(follower: FakePiper, tmp_path: Path) -> None:
    env = envs.connect(task(tmp_path), RIG)
    assert isinstance(env, RosEnv)
    with contextlib.closing(env):
        assert env.contract.state_names == env.contract.action_names == NAMES
        effort = next(feature for feature in env.contract.sensors if feature.name == "effort")
        assert (effort.entries, effort.units) == (NAMES, ("unknown",) * 8)
        np.testing.assert_allclose(env.action_spec().maximum, [*ARM.upper, 1.0], atol=1e-6)
        wanted = np.array([0.1, -9.0, 0.2, -2.0, 0.3, 1.4, 0.6, 0.25], np.float32)  # joint 2 beyond its limit
        with env.guarded(Constant(wanted)) as guard:
            timestep = env.reset()
            until(lambda: bool(np.allclose(follower.joints, [*ARM.start, 0.0], atol=1e-6)), "at the start")
            np.testing.assert_allclose(timestep.observation["qpos"], [*ARM.start, 0.0], atol=1e-5)
            outcome = run_episode(env, guard)
            assert outcome.steps == 20
        report = guard.report()
        assert report["limited_by"]["range"] == {"arm_joint2": 20}
        assert report["limited_by"]["ramp"]["arm_joint2"] == 20
        assert guard.command is not None
        assert guard.command[1] == pytest.approx(ARM.start[1] - 20 * 2.0 / 25 / 3, abs=1e-5)  # a third of 2 rad/s
        np.testing.assert_allclose(follower.joints, [*ARM.rest, 0.08], atol=1e-6)
        with pytest.raises(SafetyError, match=r"a target is \(8,\): joint1, .*, joint7, gripper; given shape \(7,\)"):
            env.followers["arm"].command(np.zeros(7))
        with pytest.raises(SafetyError, match=r"joint6 -0\.5000 is outside \[0\.0000, 3\.7000\]"):
            env.followers["arm"].command([*ARM.start[:5], -0.5, 0.0, 0.0])


def test_an_arm_without_a_gripper_keeps_the_contract_and_parks(session_ros: Ros, tmp_path: Path) -> None:
    """Nothing measures success on it either: its environment gives None, and rewards of 0."""
    bare = replace(RIG.followers["arm"], model="tests.ros.arm_of_seven:BARE")
    rig = replace(RIG, followers={"arm": bare}, leaders={})
    config = task(tmp_path, episode_len=8)
    with FakePiper("/puppet/joint", "/master/joint", model=BARE) as arm, FakeCamera(RIG.cameras["cam_high"].topic):
        arm.joints[:] = BARE.rest
        check_environment(lambda: envs.connect(config, rig), episode_len=8, reproducible=False, free_running=True)
        env = envs.connect(config, rig)
        assert isinstance(env, RosEnv)
        with contextlib.closing(env):
            assert env.contract.state_names == env.contract.action_names == NAMES[:-1]
            wanted = np.array(BARE.start, np.float32) + 0.05
            with env.guarded(Constant(wanted)) as guard:
                outcome = run_episode(env, guard)
            assert (outcome.steps, outcome.max_reward, env.succeeded(outcome)) == (8, 0.0, None)
            np.testing.assert_allclose(arm.joints, BARE.rest, atol=1e-6)


def test_a_recording_of_it_is_sound_and_replays(follower: FakePiper, session_ros: Ros, tmp_path: Path) -> None:
    config = task(tmp_path, episode_len=30)
    with FakePiper("/master/joint", model=ARM) as leader:  # it drives the follower, as Cobot Magic's do
        leader.joints[:] = [*ARM.start, 0.02]
        count = itertools.count()

        def wave(message: Any) -> None:  # 0.1 rad at 1 Hz in every joint, the gripper by 0.01 m
            leader.joints[:] = [*ARM.start, 0.02] + np.array([0.1] * 7 + [0.01]) * np.sin(np.pi * next(count) / 100)

        leader.broken = wave
        recorder = session_ros.quick(
            "aloha_kit.record", "--task", str(tmp_path / "task.yaml"),
            "--num_episodes", "1", "--auto", "--countdown", "0",
        )  # fmt: skip
        recorder.wait_for("saved /", 90)
        assert recorder.wait(60) == 0, recorder.text()
    (file,) = list_episodes(Path(config.dataset_dir))
    assert [finding for finding in validate(file).findings if finding.level == "error"] == []
    with Episode.open(file) as episode:
        assert episode.contract.state_names == episode.contract.action_names == NAMES
        assert episode.qpos.shape == (31, 8)
        for vectors in (episode.action, episode.qpos):
            swing = (vectors - [*ARM.start, 0.25]) / [*[0.1] * 7, 0.125]
            np.testing.assert_allclose(swing, np.repeat(swing[:, :1], 8, axis=1), atol=1e-4)
            assert np.ptp(swing[:, 0]) > 1.5
    follower.joints[:] = [*ARM.rest, 0.04]
    replay = session_ros.quick(
        "aloha_kit.replay", str(file), "--execute", "--task", str(tmp_path / "task.yaml"),
        "--output", str(tmp_path / "replay"), "--no-video", "--no-plots", "--no-rrd",
    )  # fmt: skip
    assert replay.wait(120) == 0, replay.text()
    assert "executed 30 actions" in replay.text()
    np.testing.assert_allclose(follower.joints, [*ARM.rest, 0.08], atol=1e-6)
