"""Arms, environment and a person's whole episode on the simulated rig: the nodes that a real rig would have."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import rospy
from std_srvs.srv import Trigger

from aloha_kit import envs
from aloha_kit.config import load, RigConfig, TaskConfig
from aloha_kit.core import SafetyError, START_ARM_POSE, StreamError, VX300S
from aloha_kit.loop import run_episode, SafetyGuard
from aloha_kit.ros import interbotix_messages
from aloha_kit.ros.interbotix import InterbotixArm
from aloha_kit.ros.node import RosError
from aloha_kit.ros.ros_env import RosEnv
from aloha_kit.ros.start_sequence import StartSequence
from aloha_kit.testing.environments import check_environment
from tests.ros.fake_drivers import install_fake_package, xs_setup
from tests.ros.master import Ros
from tests.ros.small_rig import simulated, write_task
from tests.waiting import until

START = np.tile([*START_ARM_POSE, 0.0], 2).astype(np.float32)


@pytest.fixture(scope="module")
def configured(session_ros: Ros, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TaskConfig, RigConfig]]:
    """A small simulated Mobile ALOHA with a person; its task and rig."""
    file = write_task(tmp_path_factory.mktemp("rig"), cameras=("cam_high",))
    with simulated(session_ros, file):
        task = load(TaskConfig, "tasks", file)
        yield task, load(RigConfig, "rigs", task.rig)


@pytest.fixture
def env(configured: tuple[TaskConfig, RigConfig]) -> Iterator[RosEnv]:
    task, rig = configured
    env = envs.connect(replace(task, episode_len=10_000), rig)
    assert isinstance(env, RosEnv)
    yield env
    _faults({})
    env.close()


def _faults(faults: dict[str, Any]) -> None:
    rospy.set_param("/sim_rig_faults", faults)
    assert rospy.ServiceProxy("/sim_rig/apply_faults", Trigger)().success


@pytest.mark.parametrize("way", ["topics", "package"])
def test_both_ways_to_an_arm(configured: Any, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    built = install_fake_package(monkeypatch) if way == "package" else []
    arm = InterbotixArm(xs_setup())
    assert len(built) == (way == "package")
    arm.prepare_follower(250)
    with pytest.raises(Exception, match=r"register current_limit did not take 200, it holds \[\]"):
        arm.set_register("gripper", "current_limit", 200)
    arm.set_pid_gains(800)
    assert arm.errors() == {}
    target = [0.2, *START_ARM_POSE[1:], 0.8]
    arm.move(target, 0.5)
    until(lambda: bool(np.allclose(arm.reading(), target, atol=0.05)), "there")
    arm.reboot_gripper()
    arm.move([*START_ARM_POSE, 0.0], 0.5)
    until(lambda: bool(np.allclose(arm.reading()[:6], START_ARM_POSE, atol=0.05)), "and back")
    arm.close()


def test_the_environment_contract(configured: tuple[TaskConfig, RigConfig]) -> None:
    task, rig = configured
    check_environment(
        lambda: envs.connect(replace(task, episode_len=25), rig), episode_len=25, reproducible=False, free_running=True
    )


def test_a_person_does_the_task_through_the_guard(configured: tuple[TaskConfig, RigConfig]) -> None:
    """StartSequence, leaders as the policy, limits of the followers: the cube is handed over, and that is rewarded."""
    printed: list[str] = []
    start_sequence = StartSequence(status=lambda state, message: printed.append(state), countdown_s=1.0, timeout_s=60.0)
    env = envs.connect(*configured, leaders=True, start_sequence=start_sequence)
    assert isinstance(env, RosEnv)
    assert env.leaders is not None
    stamps: list[dict[str, int]] = []
    pushed: list[float] = []

    class Keep:
        def on_reset(self, timestep: Any) -> None:
            stamps.append(timestep.observation["stamps"])

        def on_step(self, action: Any, timestep: Any) -> None:
            pushed.append(float(np.abs(action[14:]).max()))
            stamps.append(timestep.observation["stamps"])

        def on_end(self, outcome: Any) -> None: ...

    env.seed(5)
    try:
        guard = SafetyGuard(env.leaders, env.limits, frozen=50, stale_s=1)
        outcome = run_episode(env, guard, [Keep()])
    finally:
        env.close()
    assert printed[:3] == ["starting", "waiting", "countdown"]
    assert (outcome.steps, outcome.final_reward, env.max_reward) == (400, 4.0, 4.0)
    assert env.describe()["seed"] == 5
    assert 0.03 < max(pushed) < 0.1, "the base goes with the person's body: at most 0.06"
    for before, after in itertools.pairwise(stamps):
        assert before["leader_left"] <= after["leader_left"] <= after["command"]


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"puppet_left": {"read_failure": True}}, "puppet_left: its driver could not read the motors"),
    ({"puppet_right": {"nan": True}}, "puppet_right: the position of waist.* is not a finite number"),
    ({"puppet_right": {"stop": True}}, r"stream 'qpos_right' \(/puppet_right/joint_states\) is silent"),
    ({"cam_high": {"freeze": True}}, r"stream 'images/cam_high' .* is frozen: messages come"),
]


def test_faults_end_the_step_by_name_and_when_they_are_over_it_goes_on(env: RosEnv) -> None:
    env.reset()
    stay = np.append(START, [0.0, 0.0])
    for faults, words in FAULTS:
        env.step(stay)
        _faults(faults)
        with pytest.raises(StreamError, match=words):
            _step_until_it_fails(env, stay)
        _faults({})
        until(lambda: _steps(env, stay), f"goes on after {faults}")
    joints = [0, 1, 2, 7, 8, 9]
    np.testing.assert_allclose(env.step(stay).observation["qpos"][joints], START[joints], atol=0.05)


def _steps(env: RosEnv, action: Any) -> bool:
    try:
        return bool(env.step(action).mid())
    except StreamError:
        return False


def test_motors_that_shut_off_are_noticed_and_need_a_person(env: RosEnv) -> None:
    env.reset()
    stay = np.append(START, [0.0, 0.0])
    turned = stay.copy()
    turned[7] = 0.6
    _faults({"puppet_right": {"torque_loss": True}})
    with pytest.raises(SafetyError, match=r"puppet_right does not follow: (no torque at|\w+ is 0\.\d+ rad)"):
        _step_until_it_fails(env, turned)
    with pytest.raises(
        RosError, match=r"motors have shut off \(waist: overload, .*rosservice call /puppet_right/reboot"
    ):
        env.reset()
    _faults({})
    rospy.ServiceProxy("/puppet_right/reboot_motors", interbotix_messages.Reboot)("group", "arm", True, True)
    assert env.reset().first()
    assert env.step(stay).mid()


def _step_until_it_fails(env: RosEnv, action: Any) -> None:
    while True:
        env.step(action)


def test_parked_arms_rest_without_torque(env: RosEnv) -> None:
    env.reset()
    env.park()
    env.release()
    before = [arm.reading() for arm in env.followers.values()]
    np.testing.assert_allclose(np.array(before)[:, :6], [VX300S.rest] * 2, atol=0.2)
