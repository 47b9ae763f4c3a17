"""`RosEnv` over fake drivers: the environment contract, what is sent and what is not, faults, bases, people."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from aloha_kit import envs
from aloha_kit.config import RigConfig, TaskConfig
from aloha_kit.config.rig import ArmConfig, BaseConfig, CameraConfig, EStopConfig
from aloha_kit.core import ConfigError, ContractError, SafetyError, START_ARM_POSE, StreamError, VX300S, WX250S
from aloha_kit.episode import Episode, EpisodeWriter
from aloha_kit.episode.validate import validate
from aloha_kit.loop import run_episode, SafetyGuard
from aloha_kit.ros import arm as ros_arm
from aloha_kit.ros import competing_publishers, estop, ros_env
from aloha_kit.ros.interbotix import InterbotixArm
from aloha_kit.ros.node import RosError
from aloha_kit.ros.ros_env import RosEnv
from aloha_kit.ros.tracking_monitor import TrackingMonitor
from aloha_kit.testing.environments import check_environment
from tests.loop.fake_rig import Constant
from tests.ros.fake_drivers import FakeBase, FakeCamera, FakeInterbotix, FakePiper, FakeSimulation
from tests.ros.master import ROOT, Ros
from tests.ros.small_rig import TELEOPERATED
from tests.waiting import until

START = np.tile([*START_ARM_POSE, 0.0], 2).astype(np.float32)
RIG = TELEOPERATED
TASK = TaskConfig("reach", "Reach.", rig="fake", episode_len=8, rate_hz=25, cameras=("cam_high",))


class Standing:
    """A policy that stays at the start."""

    def reset(self) -> None:
        """Nothing to forget."""

    def act(self, observation: Any) -> Any:
        return START


@dataclass
class Fakes:
    """The drivers of RIG."""

    stack: contextlib.ExitStack
    left: FakeInterbotix = field(init=False)
    right: FakeInterbotix = field(init=False)
    leaders: dict[str, FakeInterbotix] = field(init=False)
    camera: FakeCamera = field(init=False)

    def __post_init__(self) -> None:
        self.left = self.stack.enter_context(FakeInterbotix("puppet_left"))
        self.right = self.stack.enter_context(FakeInterbotix("puppet_right"))
        self.leaders = {s: self.stack.enter_context(FakeInterbotix(f"master_{s}", WX250S)) for s in ("left", "right")}
        self.camera = self.stack.enter_context(FakeCamera("/usb_cam_high/image_raw/compressed"))
        for driver in (self.left, self.right, *self.leaders.values()):
            driver.motors[:6] = START_ARM_POSE

    def env(self, task: TaskConfig = TASK, rig: RigConfig = RIG, **options: Any) -> RosEnv:
        env = envs.connect(task, rig, **options)
        assert isinstance(env, RosEnv)
        self.stack.callback(env.close)
        return env


@pytest.fixture
def fakes(session_ros: Ros) -> Iterator[Fakes]:
    with contextlib.ExitStack() as stack:
        yield Fakes(stack)


def test_it_is_an_environment_like_any_other(fakes: Fakes) -> None:
    check_environment(lambda: fakes.env(), episode_len=8, reproducible=False, free_running=True)


def test_a_reset_prepares_the_followers_and_brings_them_to_the_start(fakes: Fakes) -> None:
    fakes.left.motors[:6] = [0.1, -1.7, 1.55, 0.12, 0.65, 0]
    env = fakes.env()
    observation = env.reset().observation
    for driver in (fakes.left, fakes.right):
        assert driver.modes == {"arm": "position", "gripper": "current_based_position"}
        assert all(driver.torque.values())
        assert driver.registers["gripper"]["Current_Limit"] == RIG.gripper_current_limit
        np.testing.assert_allclose(driver.motors[:6], START_ARM_POSE, atol=1e-5)
    closed = VX300S.finger.normalise(VX300S.crank.travel(VX300S.gripper.closed)) if VX300S.crank else 0.0
    np.testing.assert_allclose(observation["qpos"], np.tile([*START_ARM_POSE, closed], 2), atol=2e-3)
    assert set(observation["stamps"]) == {"qpos_left", "qpos_right", "images/cam_high", "deadline"}


def test_images_are_decoded_when_looked_at_and_kept_as_they_came(fakes: Fakes) -> None:
    observation = fakes.env().reset().observation
    assert observation["images_jpeg"]["cam_high"][:2] == b"\xff\xd8"
    image = observation["images"]["cam_high"]
    assert image.shape == (48, 64, 3)
    assert 30 < image[..., 0].mean() <= 250
    assert image[..., 1].max() < 12, "red images are red"


def test_an_action_goes_to_both_arms(fakes: Fakes) -> None:
    env = fakes.env()
    env.reset()
    action = START.copy()
    action[[0, 6, 8, 13]] = [0.2, 0.5, -0.8, 1.0]
    for _ in range(3):  # one command moves 0.13 rad and 0.4 of an opening at most
        timestep = env.step(action)
    until(lambda: bool(np.allclose(fakes.left.motors, [0.2, *START[1:6], -0.6213 + 2.1123 / 2], atol=1e-5)), "left")
    until(lambda: bool(np.allclose(fakes.right.motors, [0, -0.8, *START[2:6], 1.4910], atol=1e-5)), "right")
    assert (timestep.reward, env.max_reward, env.simulated) == (0.0, 0.0, False)


COMPETITOR = """
import sys, time, rospy
from aloha_kit.ros import interbotix_messages as messages
rospy.init_node("old_teleop")
group = rospy.Publisher("/puppet_right/commands/joint_group", messages.JointGroupCommand, queue_size=5)
print("there", flush=True)
while True:
    if sys.stdin.readline().strip() == "send":
        for _ in range(250):
            group.publish(messages.JointGroupCommand(name="arm", cmd=[0.0, -0.96, 1.16, 0.0, -0.3, 0.0]))
            time.sleep(0.02)
        print("sent", flush=True)
"""


def test_followers_that_another_node_commands_are_not_moved(fakes: Fakes, session_ros: Ros) -> None:
    env = fakes.env()
    other = subprocess.Popen(
        [sys.executable, "-c", COMPETITOR], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=session_ros.environment, cwd=ROOT,
    )  # fmt: skip
    assert other.stdin
    assert other.stdout
    try:
        assert other.stdout.readline() == "there\n"
        env.reset()  # it could, and does not
        fakes.left.motors[0] = 0.3
        print("send", file=other.stdin, flush=True)
        with contextlib.closing(competing_publishers.CommandMonitor(["/puppet_right/commands/joint_group"])) as watch:
            until(
                lambda: watch.competing() == {"/puppet_right/commands/joint_group": "/old_teleop"},
                "it sends",
            )
        with pytest.raises(SafetyError, match=r"^another node commands the followers: /old_teleop on /puppet_right/co"):
            env.reset()
        assert fakes.left.motors[0] == pytest.approx(0.3)
        assert other.stdout.readline() == "sent\n"
        env.reset()
        assert fakes.left.motors[0] == pytest.approx(0.0, abs=1e-5)
    finally:
        other.kill()
        other.wait()


def test_an_action_that_one_driver_would_refuse_moves_neither(fakes: Fakes) -> None:
    env = fakes.env()
    env.reset()
    before = len(fakes.left.groups)
    action = START.copy()
    action[0], action[8] = 0.3, 1.3
    with pytest.raises(
        SafetyError, match=r"puppet_right cannot go there: shoulder 1\.3000 is outside \[-1\.8500, 1\.25"
    ):
        env.step(action)
    env.step(START)
    until(lambda: len(fakes.left.groups) > before, "the next action")
    assert all(command[0] != pytest.approx(0.3) for command in fakes.left.groups)


def test_a_camera_that_dies_ends_the_step_by_name_and_the_arms_hold(fakes: Fakes) -> None:
    env = fakes.env(replace(TASK, episode_len=200))
    env.reset()
    env.step(START)
    fakes.camera.running = False
    with pytest.raises(StreamError, match=r"stream 'images/cam_high' \(/usb_cam_high/image_raw/compressed\) is silent"):
        _step_until_it_fails(env)
    assert all(fakes.left.torque.values())
    fakes.camera.running = True
    until(lambda: _reads(env), "images again")
    assert env.step(START).mid(), "and the episode can go on"


def _step_until_it_fails(env: RosEnv, action: Any = START) -> None:
    while True:
        env.step(action)


def _reads(env: RosEnv) -> bool:
    with contextlib.suppress(StreamError):
        env.streams.sync.match()
        return True
    return False


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.nan, "puppet_right: the position of waist, .* is not a finite number"),
        (-np.pi, "puppet_right: its driver could not read"),
    ],
)
def test_readings_that_stay_lost_end_the_step(fakes: Fakes, value: float, words: str) -> None:
    env = fakes.env(replace(TASK, episode_len=200))
    env.reset()

    def lose(message: Any) -> None:
        message.position = [value] * 9

    fakes.right.broken = lose
    with pytest.raises(StreamError, match=words):
        _step_until_it_fails(env)


def test_one_lost_reading_is_bridged_by_the_next(fakes: Fakes) -> None:
    env = fakes.env(replace(TASK, episode_len=30))
    env.reset()
    count = iter(range(10_000))

    def lose(message: Any) -> None:
        if next(count) % 5 == 0:
            message.position = [-np.pi] * 9

    fakes.right.broken = lose
    for _ in range(29):
        assert env.step(START).observation["qpos"][8] == pytest.approx(START[8], abs=1e-3)


def without(quantity: str, every: int = 1) -> Callable[[Any], None]:
    """Joint states without a quantity, every so many times."""
    count = iter(range(10_000))

    def change(message: Any) -> None:
        if next(count) % every == 0:
            setattr(message, quantity, [])

    return change


def test_a_driver_without_effort_gives_episodes_without(fakes: Fakes, tmp_path: Path) -> None:
    fakes.right.broken = without("effort")
    env = fakes.env()
    writer = EpisodeWriter(tmp_path, contract=env.contract, task="reach", rig="fake", sim=False)
    outcome = run_episode(env, SafetyGuard(Standing(), env.limits), [writer])
    assert outcome.steps == 8
    with Episode.open(writer.path) as episode:
        assert episode.effort is None
        assert episode.qvel is not None
        assert episode.qvel.shape == episode.qpos.shape == (9, 14)
    assert set(env.observation_spec()) == {"qpos", "qvel", "images", "stamps"}
    assert not [f for f in validate(writer.path).findings if f.check in ("shapes", "finite")]
    fakes.right.broken = lambda message: None  # decided anew for each episode
    assert "effort" in env.reset().observation


def test_a_reading_without_velocity_is_bridged_and_a_lasting_loss_named(fakes: Fakes) -> None:
    fakes.left.broken = without("velocity", every=7)
    env = fakes.env(replace(TASK, episode_len=200))
    assert "qvel" in env.reset().observation
    for _ in range(20):
        assert env.step(START).observation["qvel"].shape == (14,)
    fakes.left.broken = without("velocity")
    with pytest.raises(StreamError, match="puppet_left: joint states without velocity, which were there before"):
        _step_until_it_fails(env)


def test_a_torn_image_is_bridged_by_the_next(fakes: Fakes) -> None:
    env = fakes.env(replace(TASK, episode_len=30))
    env.reset()
    fakes.camera.tears = lambda image: image % 4 == 0
    for _ in range(29):
        observation = env.step(START).observation
        assert observation["images_jpeg"]["cam_high"][-2:] == b"\xff\xd9"
        assert (observation["images"]["cam_high"][-1, :, 0] >= 30).all()  # red to the last row, no filled-up grey


def test_images_that_stay_torn_end_the_step(fakes: Fakes) -> None:
    env = fakes.env(replace(TASK, episode_len=200))
    env.reset()
    fakes.camera.tears = lambda image: True
    with pytest.raises(StreamError, match=r"^camera 'cam_high': the camera sent a JPEG that was cut off: .*for 0\.1 s"):
        _step_until_it_fails(env)


def test_a_camera_of_another_size_is_named_with_both(fakes: Fakes) -> None:
    cameras = {"cam_high": CameraConfig(480, 640, topic="/usb_cam_high/image_raw/compressed")}
    env = fakes.env(rig=replace(RIG, cameras=cameras))
    with pytest.raises(ContractError, match=r"'cam_high' sends images of 48 x 64 .* configured are 480 x 640"):
        env.reset()


def test_a_silent_stream_is_named_before_anything_moves(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ros_env, "WARM_UP_S", 2.0)  # the arms' first messages arrive meanwhile
    fakes.camera.running = False
    env = fakes.env()
    with pytest.raises(StreamError, match=r"not ready after 2 s: stream 'images/cam_high'.* is silent: no message yet"):
        env.reset()
    assert fakes.left.groups == []


class TestFollowing:
    def test_a_follower_without_torque_is_noticed(self, fakes: Fakes) -> None:
        env = fakes.env(replace(TASK, episode_len=1000))
        env.reset()
        fakes.right.torque = dict.fromkeys(fakes.right.torque, False)
        action = START.copy()
        action[7] = 0.6
        with pytest.raises(
            SafetyError, match=r"puppet_right does not follow: no torque at waist, shoulder, .*; another program"
        ):
            _step_until_it_fails(env, action)

    def test_torque_that_another_program_takes_for_a_moment_is_noticed(self, fakes: Fakes) -> None:
        env = fakes.env(replace(TASK, episode_len=1000))
        fakes.right.effort[:] = fakes.left.effort[:] = 100.0
        env.reset()
        for _ in range(10):
            env.step(START)
        held, on = fakes.right.torque, dict(fakes.right.torque)

        def torque(values: dict[str, bool], milliamperes: float) -> None:
            held.update(values)
            fakes.right.effort[:] = milliamperes

        torque(dict.fromkeys(on, False), 0.0)
        again = threading.Timer(0.6, torque, (on, 100.0))
        again.start()
        with pytest.raises(SafetyError, match=r"puppet_right does not follow: no torque at waist, shoulder, elbow"):
            _step_until_it_fails(env, START)
        assert again.is_alive(), "noticed before it is back"
        again.join()
        env.park()

    def test_a_gripper_that_shut_off_is_noticed_and_rebooted_by_the_next_reset(self, fakes: Fakes) -> None:
        env = fakes.env(replace(TASK, episode_len=1000))
        env.reset()
        fakes.left.torque["gripper"] = False
        fakes.left.registers["gripper"]["Hardware_Error_Status"] = 0b100000
        action = START.copy()
        action[6] = 0.5
        with pytest.raises(
            SafetyError, match=r"puppet_left does not follow: its gripper is .* draws no current: the motor"
        ):
            _step_until_it_fails(env, action)
        env.reset()
        assert ("reboot", "gripper") in fakes.left.calls
        env.step(action)
        until(lambda: fakes.left.motors[6] > 0, "the gripper opens")

    def test_an_object_between_the_fingers_is_no_fault(self) -> None:
        watched = TrackingMonitor("puppet_left", VX300S, milliamperes=True)
        qpos, grasping = [0, 0, 0, 0, 0, 0, 0.6], [0, 0, 0, 0, 0, 0, -290.0]
        for second in range(10):
            watched.check(np.zeros(7), qpos, grasping, second * 1_000_000_000)
        watched.check(np.zeros(7), qpos, np.zeros(7), 10_000_000_000)
        watched.check(np.zeros(7), qpos, np.zeros(7), 10_900_000_000)
        with pytest.raises(SafetyError, match=r"its gripper is 0\.60 of its opening"):
            watched.check(np.zeros(7), qpos, np.zeros(7), 11_000_000_000)

    def test_without_efforts_joints_are_watched_and_grippers_are_not(self) -> None:
        watched = TrackingMonitor("puppet_left", VX300S, milliamperes=True)
        for second in range(5):
            watched.check(np.zeros(7), [0, 0, 0, 0, 0, 0, 0.6], None, second * 1_000_000_000)
        watched.check(np.zeros(7), [0.9, 0, 0, 0, 0, 0, 0], None, 5_000_000_000)
        with pytest.raises(SafetyError, match=r"waist is 0\.90 rad from its command"):
            watched.check(np.zeros(7), [0.9, 0, 0, 0, 0, 0, 0], None, 6_100_000_000)

    def test_a_lag_that_is_made_up_for_is_no_fault(self) -> None:
        watched = TrackingMonitor("puppet_left", VX300S, milliamperes=True)
        far = [0.9, 0, 0, 0, 0, 0, 0]
        for tenth in range(60):
            observed = far if tenth % 10 < 9 else np.zeros(7)
            watched.check(np.zeros(7), observed, np.zeros(7), tenth * 100_000_000)


class TestPeople:
    def test_the_leaders_are_a_policy_and_their_stamps_are_kept(self, fakes: Fakes) -> None:
        env = fakes.env(leaders=True)
        assert env.leaders is not None
        timestep = env.reset()
        assert {"leader_left", "leader_right"} < set(timestep.observation["stamps"])
        fakes.leaders["left"].motors[:] = [0.2, -0.9, 1.1, 0.0, -0.3, 0.1, WX250S.gripper.open]
        until(lambda: env.leader_action("left")[0] == pytest.approx(0.2), "the leader's new pose")
        action = env.leaders.act(timestep.observation)
        np.testing.assert_allclose(action[:7], [0.2, -0.9, 1.1, 0.0, -0.3, 0.1, 1.0], atol=1e-5)
        taken = dict(env.leaders.stamps)
        for _ in range(4):
            stamps = env.step(action).observation["stamps"]
        assert {name: stamps[name] for name in taken} == taken
        assert stamps["leader_left"] <= stamps["command"]
        until(lambda: bool(np.allclose(fakes.left.motors[:6], action[:6], atol=1e-5)), "the follower follows")
        assert fakes.left.motors[6] == pytest.approx(VX300S.gripper.open, abs=1e-4), "wide open is wide open"

    def test_a_whole_episode_through_the_guard(self, fakes: Fakes) -> None:
        """The leader stands beyond the follower's reach: what is kept is what was done."""
        env = fakes.env(replace(TASK, episode_len=40), leaders=True)
        assert env.leaders is not None
        fakes.leaders["left"].motors[0] = 0.1
        fakes.leaders["right"].motors[1] = 1.6  # its shoulder goes to 1.99, the follower's to 1.26
        limits = env.limits
        done: list[np.ndarray[Any, Any]] = []

        class Keep:
            def on_reset(self, timestep: Any) -> None: ...
            def on_step(self, action: Any, timestep: Any) -> None:
                done.append(action)

            def on_end(self, outcome: Any) -> None: ...

        outcome = run_episode(env, SafetyGuard(env.leaders, limits), [Keep()])
        assert (outcome.steps, outcome.reason) == (40, "complete")
        assert done[-1][0] == pytest.approx(0.1)
        assert done[-1][8] <= VX300S.upper[1]
        until(lambda: bool(np.allclose(fakes.right.motors[:6], done[-1][7:13], atol=1e-5)), "the last action")

    def test_the_start_sequence_runs_when_the_followers_stand_at_the_start(self, fakes: Fakes) -> None:
        seen: list[np.ndarray[Any, Any]] = []

        def start_sequence(env: RosEnv) -> None:
            seen.append(fakes.left.motors.copy())
            env.move({arm: np.append(START_ARM_POSE, 0.5) for arm in env.leader_arms.values()}, 0.1)

        fakes.leaders["left"].torque = dict.fromkeys(fakes.leaders["left"].torque, True)
        fakes.leaders["left"].motors[0] = 0.2
        env = fakes.env(leaders=True, start_sequence=start_sequence)
        env.reset()
        np.testing.assert_allclose(seen[0][:6], START_ARM_POSE, atol=1e-5)
        until(lambda: bool(np.allclose(fakes.leaders["left"].motors[:6], START_ARM_POSE, atol=1e-5)), "the leader")

    def test_a_follower_that_was_moved_during_the_start_sequence_starts_from_where_it_is(self, fakes: Fakes) -> None:
        def start_sequence(env: RosEnv) -> None:
            fakes.right.motors[0] = 0.5  # by whom is not known: its torque was off for a moment, say

        env = fakes.env(leaders=True, start_sequence=start_sequence)
        env.reset()
        fakes.right.groups.clear()
        env.step(START)
        until(lambda: bool(fakes.right.groups), "the first command")
        assert fakes.right.groups[0][0] == pytest.approx(0.5 - VX300S.velocity / TASK.rate_hz, abs=1e-3)

    def test_a_rig_without_leaders_reports_it(self, fakes: Fakes) -> None:
        with pytest.raises(ConfigError, match="rig 'fake' has no leader arms"):
            envs.connect(TASK, replace(RIG, leaders={}), leaders=True)


def test_a_rig_whose_emergency_stop_is_not_there_is_refused(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estop, "SOURCE_S", 0.3)
    with pytest.raises(RosError, match=r"the emergency stop's source is silent: nothing on /cell/none for 0\.3 s"):
        fakes.env(rig=replace(RIG, estop=EStopConfig("/cell/none")))
    assert fakes.left.calls == []


class TestRefusedPreparation:
    """Motors that have shut off end it by name; nothing moves then, and torque is reported as motors answer."""

    REFUSED = r"puppet_right: motors have shut off \(elbow: overload\)"

    def test_nothing_moves(self, fakes: Fakes, caplog: pytest.LogCaptureFixture) -> None:
        fakes.right.registers["elbow"]["Hardware_Error_Status"] = 0b100000
        env = fakes.env()
        with pytest.raises(RosError, match=self.REFUSED), env.guarded(Constant(START)) as guard:
            run_episode(env, guard)
        assert (fakes.left.groups, fakes.right.groups) == ([], [])
        assert caplog.records[-1].levelname == "WARNING"
        assert caplog.messages[-1].startswith(
            "the arms were not parked: nothing is sent to the followers: they could not be prepared (puppet_"
        )
        assert caplog.messages[-1].endswith("; torque: puppet_left on, puppet_right off")
        for move in (env.park, lambda: env.move(dict.fromkeys(env.followers.values(), START[:7]), 0.1)):
            with pytest.raises(SafetyError, match=self.REFUSED):
                move()
        assert (fakes.left.groups, fakes.right.groups) == ([], [])

    def test_nor_do_arms_that_moved_before(self, fakes: Fakes) -> None:
        env = fakes.env()
        env.reset()
        fakes.right.registers["elbow"]["Hardware_Error_Status"] = 0b100000
        sent = len(fakes.left.groups)
        with pytest.raises(RosError, match=self.REFUSED):
            env.reset()
        with pytest.raises(SafetyError, match=self.REFUSED):
            env.park()
        assert len(fakes.left.groups) == sent
        fakes.right.registers["elbow"]["Hardware_Error_Status"] = 0
        env.reset()
        env.park()

    def test_arms_that_are_not_parked_in_the_end_are_an_error(
        self, fakes: Fakes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(ros_arm, "ARRIVAL_S", 0.1)
        env = fakes.env()

        def act() -> None:
            with env.guarded(Constant(START)) as guard:
                run_episode(env, guard)
                fakes.left.torque["waist"] = False

        with pytest.raises(
            SafetyError, match="the arms were not parked: puppet_left does not follow: no torque at waist"
        ):
            act()
        assert caplog.messages[-1].endswith("; torque: puppet_left off at waist, puppet_right on")

    def test_nothing_is_parked_that_was_never_prepared(self, fakes: Fakes, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO", "aloha_kit")
        env = fakes.env()
        with pytest.raises(ZeroDivisionError), env.guarded(Constant(START)):
            raise ZeroDivisionError
        assert fakes.left.groups == []
        assert caplog.messages[-1] == "nothing was sent to the arms"


class TestLettingGo:
    def test_torque_goes_only_when_parked(self, fakes: Fakes) -> None:
        env = fakes.env()
        env.reset()
        with pytest.raises(SafetyError, match=r"are not parked: without torque they would fall\. Park them first"):
            env.release()
        env.park()
        until(lambda: bool(np.allclose(fakes.right.motors[:6], VX300S.rest, atol=1e-5)), "at rest")
        env.release()
        assert not any(fakes.left.torque.values())
        assert not any(fakes.right.torque.values())

    def test_an_emergency_stop_while_torque_goes_leaves_the_rest_of_it(
        self, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        env = fakes.env()
        env.reset()
        env.park()

        def pressed(arm: Any, on: bool, part: str = "all") -> None:
            torque(arm, on, part)
            env.estop.press("the emergency stop was pressed")

        torque = InterbotixArm.set_torque
        monkeypatch.setattr(InterbotixArm, "set_torque", pressed)
        with pytest.raises(SafetyError, match="the emergency stop was pressed"):
            env.release()
        assert not any(fakes.left.torque.values())
        assert all(fakes.right.torque.values())
        assert env.torque_report() == "torque: puppet_left off, puppet_right on"

    def test_parking_is_over_when_something_moves_again(self, fakes: Fakes) -> None:
        env = fakes.env()
        env.reset()
        env.park()
        env.move(dict.fromkeys(env.followers.values(), (*VX300S.start, 0.5)), 0.1)
        with pytest.raises(SafetyError, match="not parked"):
            env.release()
        env.release(even_if_they_fall=True)
        assert not any(fakes.left.torque.values())

    def test_arms_that_do_not_arrive_are_not_let_go(self, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ros_arm, "ARRIVAL_S", 0.1)
        env = fakes.env()
        env.reset()
        fakes.left.blocked = True
        with pytest.raises(SafetyError, match=r"puppet_left stopped 0\.9\d rad from its target"):
            env.park()
        with pytest.raises(SafetyError, match="not parked"):
            env.release()

    def test_parking_needs_no_camera(self, fakes: Fakes) -> None:
        env = fakes.env()
        env.reset()
        fakes.camera.running = False
        env.park()
        until(lambda: bool(np.allclose(fakes.left.motors[:6], VX300S.rest, atol=1e-5)), "at rest")

    def test_closing_leaves_the_arms_where_they_are(self, fakes: Fakes) -> None:
        env = fakes.env()
        env.reset()
        env.close()
        assert all(fakes.left.torque.values())


class TestBase:
    RIG = replace(RIG, base=BaseConfig())
    TASK = replace(TASK, episode_len=100)

    @pytest.fixture
    def base(self, fakes: Fakes) -> FakeBase:
        return fakes.stack.enter_context(FakeBase())

    def test_a_policy_drives_it_and_reads_its_velocity(self, fakes: Fakes, base: FakeBase) -> None:
        env = fakes.env(self.TASK, self.RIG)
        assert env.contract.action_names[14:] == ("base_linear", "base_angular")
        env.reset()
        action = np.append(START, [0.2, -0.1]).astype(np.float32)
        steps = [env.step(action) for _ in range(8)]
        assert steps[-1].observation["base_vel"] == pytest.approx([0.2, -0.1])

    def test_it_stops_when_commands_stop_coming(self, fakes: Fakes, base: FakeBase) -> None:
        """A policy that hangs, or an episode that ended between two steps."""
        env = fakes.env(self.TASK, self.RIG)
        env.reset()
        env.step(np.append(START, [0.2, 0.0]))
        until(lambda: base.velocity == pytest.approx((1.0 / 25, 0.0)), "moving, as fast as it may accelerate")
        until(lambda: base.velocity == (0.0, 0.0), "stopped by itself")
        env.step(np.append(START, [0.2, 0.0]))
        until(lambda: base.velocity == pytest.approx((1.0 / 25, 0.0)), "from standing, not from what was before")

    @pytest.mark.parametrize("how", ["close", "hold", "error"])
    def test_every_way_out_stops_it(self, fakes: Fakes, base: FakeBase, how: str) -> None:
        env = fakes.env(self.TASK, self.RIG)
        env.reset()
        env.step(np.append(START, [0.2, 0.0]))
        until(lambda: base.velocity != (0.0, 0.0), "moving")
        if how == "error":
            with pytest.raises(SafetyError):
                env.step(np.append(START + 9, [0.2, 0.0]))
        else:
            getattr(env, how)()
        until(lambda: base.collected[-1] == (0.0, 0.0), "a last zero")

    def test_a_person_pushes_it_themselves(self, fakes: Fakes, base: FakeBase) -> None:
        env = fakes.env(self.TASK, self.RIG, leaders=True)
        assert env.leaders is not None
        timestep = env.reset()
        base.velocity = (0.3, 0.05)
        until(lambda: env.step(env.leaders.act(timestep.observation)).observation["base_vel"][0] > 0.2, "pushed")
        timestep = env.step(env.leaders.act(timestep.observation))
        assert env.leaders.act(timestep.observation)[14:] == pytest.approx([0.3, 0.05])
        env.close()
        assert base.collected == []


class TestHardwareTeleop:
    """Cobot Magic: the leaders drive the followers, and a policy stands in for the leaders."""

    RIG = replace(
        RIG,
        teleop="hardware",
        followers={
            s: ArmConfig(
                "joint_state", model="piper", state_topic=f"/puppet/joint_{s}", command_topic=f"/master/joint_{s}"
            )
            for s in ("left", "right")
        },
        leaders={
            s: ArmConfig("joint_state", model="piper", state_topic=f"/master/joint_{s}") for s in ("left", "right")
        },
    )

    def test_recording_only_listens(self, fakes: Fakes) -> None:
        with contextlib.ExitStack() as stack:
            puppets = [
                stack.enter_context(FakePiper(f"/puppet/joint_{s}", f"/master/joint_{s}")) for s in ("left", "right")
            ]
            leaders = [stack.enter_context(FakePiper(f"/master/joint_{s}")) for s in ("left", "right")]
            leaders[0].joints[:] = [0.1, 0.2, -0.3, 0, 0, 0, 0.04]
            env = fakes.env(rig=self.RIG, leaders=True)
            assert env.leaders is not None
            timestep = env.reset()
            action = env.leaders.act(timestep.observation)
            np.testing.assert_allclose(action[:7], [0.1, 0.2, -0.3, 0, 0, 0, 0.5], atol=1e-6)
            until(lambda: puppets[0].joints[0] == pytest.approx(0.1), "the leader drives its follower")
            action[0] = 0.9
            observation = env.step(action).observation
            assert observation["qpos"][0] == pytest.approx(0.1)
            assert observation["stamps"]["leader_left"] > 0
            env.park()
            assert puppets[0].joints[0] == pytest.approx(0.1)

    def test_a_policy_takes_the_leaders_place(self, fakes: Fakes) -> None:
        with contextlib.ExitStack() as stack:
            puppets = [
                stack.enter_context(FakePiper(f"/puppet/joint_{s}", f"/master/joint_{s}")) for s in ("left", "right")
            ]
            env = fakes.env(rig=self.RIG)
            env.reset()
            for _ in range(6):
                env.step(np.tile([0.1, 0.2, -0.3, 0.4, 0.5, 0.6, 1.0], 2))
            until(lambda: bool(np.allclose(puppets[1].joints, [0.1, 0.2, -0.3, 0.4, 0.5, 0.6, 0.08])), "there")


class TestSimulatedRig:
    ABOUT: ClassVar[dict[str, Any]] = {
        "rig": "fake",
        "task": "reach",
        "scene": "transfer_cube",
        "arm_model": "vx300s",
        "max_reward": 4.0,
    }

    @pytest.fixture
    def simulation(self, session_ros: Ros) -> Iterator[FakeSimulation]:
        with FakeSimulation(self.ABOUT) as running:
            yield running

    def test_it_is_known_reset_by_seed_and_rewards(self, simulation: FakeSimulation, fakes: Fakes) -> None:
        env = fakes.env()
        assert (env.simulated, env.max_reward) == (True, 4.0)
        env.seed(17)
        env.reset()
        assert (simulation.seed, env.describe()["seed"]) == (17, 17)
        env.reset()
        assert (simulation.seed, env.describe()["seed"]) == (18, 18)
        simulation.reward = 2.0
        until(lambda: (env.step(START).reward or 0) == 2.0, "the reward")

    def test_it_describes_itself_for_the_episode(self, simulation: FakeSimulation, fakes: Fakes) -> None:
        env = fakes.env()
        env.reset()
        about = env.describe()
        assert about["simulated"] == self.ABOUT
        assert about["arms"] == {"left": "vx300s", "right": "vx300s"}
        stream = about["streams"]["images/cam_high"]
        assert (stream["topic"], stream["stamp"]) == ("/usb_cam_high/image_raw/compressed", "header")
        assert abs(stream["clock_offset_s"]) < 0.1

    def test_the_task_sets_the_size_of_its_images(self, simulation: FakeSimulation, fakes: Fakes) -> None:
        cameras = {"cam_high": CameraConfig(480, 640, topic="/usb_cam_high/image_raw/compressed")}
        env = fakes.env(replace(TASK, image_size=(48, 64)), replace(RIG, cameras=cameras))
        assert env.contract.cameras == {"cam_high": (48, 64)}
        env.reset()

    def test_another_rigs_simulation_is_refused(self, simulation: FakeSimulation, fakes: Fakes) -> None:
        with pytest.raises(ConfigError, match="the simulated rig that runs here is 'fake', not 'other'"):
            fakes.env(rig=replace(RIG, name="other"))
