"""Arms, environment and a person's whole episode on the simulated rig: the nodes that a real rig would have."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rospy
from std_srvs.srv import Trigger

from aloha_kit import envs
from aloha_kit.config import load, RigConfig, TaskConfig
from aloha_kit.core import (
    Action,
    aloha_limits,
    Outcome,
    SafetyError,
    SafetyLimits,
    START_ARM_POSE,
    StreamError,
    VX300S,
)
from aloha_kit.formats import open_source, ReadOptions
from aloha_kit.formats.bag_file import Bag
from aloha_kit.loop import run_episode
from aloha_kit.ros import interbotix_messages
from aloha_kit.ros.interbotix import InterbotixArm
from aloha_kit.ros.node import RosError
from aloha_kit.ros.ros_env import RosEnv
from aloha_kit.ros.start_sequence import StartSequence
from aloha_kit.storage import Episode, EpisodeWriter
from aloha_kit.sync.arm_readers import arm_description
from aloha_kit.sync.topics import rig_topics, stream_specs
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


@dataclass
class Session:
    """An operator's episode, and the bag of all that was published meanwhile."""

    outcome: Outcome
    max_reward: float
    about: dict[str, Any]
    states: list[str]  # of the start sequence
    episode: Path
    bag: Path


@pytest.fixture(scope="module")
def session(
    session_ros: Ros, configured: tuple[TaskConfig, RigConfig], tmp_path_factory: pytest.TempPathFactory
) -> Session:
    task, rig = configured
    folder = tmp_path_factory.mktemp("session")
    topics = [topic.name for _, topic in rig_topics(rig, task.cameras, leaders=True)]
    bag = session_ros.start("rosbag", "record", "-O", str(folder / "session.bag"), *topics)
    until(lambda: (folder / "session.bag.active").exists() or not bag.running, "rosbag has subscribed and records")
    states: list[str] = []
    start_sequence = StartSequence(status=lambda state, message: states.append(state), countdown_s=1.0, timeout_s=60.0)
    env = envs.connect(task, rig, leaders=True, start_sequence=start_sequence)
    assert isinstance(env, RosEnv)
    assert env.leaders is not None
    env.seed(5)
    writer = EpisodeWriter(folder, contract=env.contract, task=task.name, rig=rig.name, sim=True)
    try:
        outcome = run_episode(env, env.guard(env.leaders, limits=env.limits.recorded(env.listens_only)), [writer])
        max_reward, about = env.max_reward, env.describe()
    finally:
        env.close()
        bag.signal(signal.SIGINT)
    assert bag.wait() == 0, bag.text()
    # the command ends 0.25 s after SIGINT at the latest; the program that it started closes the bag and renames it then
    until((folder / "session.bag").exists, "rosbag has closed the bag")
    return Session(outcome, max_reward, about, states, writer.path, folder / "session.bag")


def test_a_person_does_the_task_through_the_guard(session: Session) -> None:
    """StartSequence, leaders as the policy, limits of the followers: the cube is handed over, and that is rewarded."""
    assert session.states[:3] == ["starting", "waiting", "countdown"]
    assert (session.outcome.steps, session.outcome.final_reward, session.max_reward) == (400, 4.0, 4.0)
    assert session.about["seed"] == 5
    with Episode.open(session.episode) as episode:
        pushed = float(np.abs(episode.base_action).max())
        assert 0.03 < pushed < 0.1, "the base goes with the person's body: at most 0.06"
        stamps = episode.stamps
        assert (np.diff(stamps["leader_left"]) >= 0).all()
        assert (stamps["leader_left"][1:] <= stamps["command"]).all()


def test_a_bag_of_a_session_is_its_episode(session: Session, configured: tuple[TaskConfig, RigConfig]) -> None:
    """Rows of one image: stamps differ by the bounds of the soft sync, values by how far the arm moves between them.

    Both episodes take of each stream a sample within its bound of the row's reference time, and the same image. So two
    samples of a stream lie within twice its bound and the camera's of one another. The same sample has the same value.
    """
    task, rig = configured
    source = open_source(session.bag, options=ReadOptions(task=task.file, rig=rig.file))
    bounds = {
        spec.name: spec.max_skew_ns
        for spec in stream_specs(dict(rig_topics(rig, task.cameras, leaders=False)), rig.sync)
    }
    with Episode.open(session.episode) as live, closing(source.open(0)) as bag:
        assert bag.contract == live.contract
        assert set(bag.stamps) == set(live.stamps)
        arms = {"qpos_left": np.s_[:7], "qpos_right": np.s_[7:14]}
        speed = max(np.abs(np.diff(each.qpos, axis=0)).max() * task.rate_hz for each in (live, bag))
        same = 0
        for row in range(live.frames):
            image = live.stamps["images/cam_high"][row]
            rows = np.flatnonzero(bag.stamps["images/cam_high"] == image)
            assert len(rows), f"image {image} of the live episode is not in the imported one"
            nearest = rows[np.argmin(np.abs(bag.stamps["qpos_left"][rows] - live.stamps["qpos_left"][row]))]
            assert bag.encoded("cam_high", nearest) == live.encoded("cam_high", row)
            for stream, bound in bounds.items():
                apart = abs(int(bag.stamps[stream][nearest]) - int(live.stamps[stream][row]))
                assert apart <= 2 * (bound + bounds["images/cam_high"]), (stream, row)
                if stream in arms:
                    moved = np.abs(bag.qpos[nearest] - live.qpos[row])[arms[stream]].max()
                    assert moved <= 2 * speed * apart / 1e9, (stream, row)  # a joint's own top speed may lie in between
                    same += apart == 0
        assert same > 0, "some joint states are the same, bit for bit"
        models = {name: arm_description(arm).model() for name, arm in rig.followers.items()}
        limits = aloha_limits(live.contract, arm=models)
        _compare_actions(live, bag, limits, task.rate_hz)
        for each in (live, bag):
            _compare_with_the_leader(each, session.bag, rig, limits)


def _compare_actions(live: Episode, bag: Episode, limits: SafetyLimits, rate_hz: float) -> None:
    """Actions that the guard limited in neither episode, once its ramp is over: the leader's at about one time."""
    free = [_not_limited(each.action, limits) for each in (live, bag)]
    speed = max(np.abs(np.diff(each.action[25:], axis=0)).max() * rate_hz for each in (live, bag))
    compared = 0
    for step in range(25, live.length):
        apart = np.abs(bag.stamps["leader_left"][1:] - live.stamps["leader_left"][step + 1])
        nearest = int(np.argmin(apart))
        if free[0][step] and free[1][nearest]:
            moved = np.abs(bag.action[nearest] - live.action[step])[:7].max()
            assert moved <= 2 * speed * apart[nearest] / 1e9 + 1e-6, step
            compared += 1
    assert compared > 0.5 * live.length, "most steps are compared"


def _compare_with_the_leader(episode: Episode, file: Path, rig: RigConfig, limits: SafetyLimits) -> None:
    """Actions that the guard did not limit are the leader's message of their stamp, within the range."""
    leader = arm_description(rig.leaders["left"])
    reader, readings = leader.reader(leader.model()), {}
    with Bag(file) as bag:
        for _, _, message in bag.messages([leader.state_topic]):
            stamp = message.header.stamp
            readings[stamp.sec * 1_000_000_000 + stamp.nanosec] = reader.leader_action(message)
    stamps, compared = episode.stamps["leader_left"][1:], 0
    for step in np.flatnonzero(_not_limited(episode.action, limits)):
        if (reading := readings.get(int(stamps[step]))) is not None:  # rosbag may have missed one
            wanted = np.clip(reading, limits.lower[:7], limits.upper[:7])
            np.testing.assert_allclose(episode.action[step][:7], wanted, atol=1e-6, err_msg=f"step {step}")
            compared += 1
    assert compared > 0.5 * episode.length, "most steps are compared"


def _not_limited(action: Action, limits: SafetyLimits) -> npt.NDArray[np.bool_]:
    """(T,) whether the left arm's change of each step is inside the guard's bound, so that it is the leader's own.

    A joint's bound is that of the ramp until its first step inside of it. The first step's change is not known.
    """
    change = np.abs(np.diff(action[:, :7].astype(np.float64), axis=0))
    step, ramp = (bound[:7] - 1e-6 for bound in (limits.step, limits.ramp))
    met = np.logical_or.accumulate(change < ramp, axis=0)
    before = np.vstack([np.zeros((1, 7), bool), met[:-1]])  # a joint that met its command is bounded by the step's
    return np.append(False, (change < np.where(before, step, ramp)).all(axis=1))


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
