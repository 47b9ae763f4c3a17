"""No command jumps: whatever the clock does and the readings are, from one phase to the next."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import rospy
from sensor_msgs.msg import JointState

from aloha_kit.core import ArmModel, PIPER, ReadingError, START_ARM_POSE, VX300S, WallClock, WX250S
from aloha_kit.loop import SafetyGuard
from aloha_kit.ros import interbotix_messages
from aloha_kit.ros.arm import move_together
from aloha_kit.ros.interbotix import InterbotixArm
from aloha_kit.sync import readings
from tests.ros.fake_drivers import FakeInterbotix, MOTORS, xs_setup
from tests.ros.master import ROOT, Ros
from tests.ros.test_ros_env import _step_until_it_fails, Fakes, START, TASK
from tests.waiting import until

CLOCK = WallClock()
STEP = np.append(np.full(6, np.pi / 50), 10 / 50)  # a guard's, at 50 Hz


class StallingClock:
    """Jumps ahead by up to 3 s now and then, whoever sleeps or looks at it."""

    def __init__(self, seed: int) -> None:
        self._rng, self._now = np.random.default_rng(seed), 0

    def now_ns(self) -> int:
        self._stall(0.02)
        return self._now

    def sleep_until(self, deadline_ns: int) -> None:
        self._now = max(self._now, deadline_ns)
        self._stall(0.05)

    def _stall(self, chance: float) -> None:
        if self._rng.random() < chance:
            self._now += int(self._rng.uniform(0, 3) * 1e9)


class Recorded:
    """An arm of which only the commands are known, with their times."""

    name = "puppet_left"

    def __init__(self, model: ArmModel, here: Any, clock: StallingClock) -> None:
        self.model, self._here, self._clock = model, np.asarray(here), clock
        self.sent: list[Any] = []
        self.times: list[int] = []

    def hold_target(self) -> Any:
        return self._here

    def check(self, target: Any) -> None: ...

    def command(self, target: Any) -> None:
        self.sent.append(np.array(target))
        self.times.append(self._clock._now)


@pytest.mark.parametrize("seed", range(30))
def test_a_move_goes_step_by_step_to_its_end_whatever_the_clock_does(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # at a robot's speed
    rng, clock = np.random.default_rng(seed), StallingClock(seed)
    arms: dict[Any, Any] = {}
    for model in (VX300S, WX250S, PIPER):
        here, end = rng.uniform([*model.lower, 0], [*model.upper, 1], (2, 7))
        arms[Recorded(model, here, clock)] = end
    move_together(arms, rng.uniform(0.02, 2.0), clock)
    for arm, end in arms.items():
        path = np.array([arm._here, *arm.sent])
        assert np.all(np.abs(np.diff(path, axis=0)) <= STEP)
        assert np.all(np.abs(np.diff(path, axis=0)[:, :6]) <= np.pi / 3 / 50 + 1e-9)
        np.testing.assert_allclose(path[-1], end)
        assert np.diff(arm.times).min() >= 20_000_000 - 1, "a whole period between commands: nothing is made up for"


@pytest.fixture
def driver(session_ros: Ros) -> Iterator[FakeInterbotix]:
    with FakeInterbotix("puppet_left") as running:
        running.motors[:] = [*START_ARM_POSE, VX300S.gripper.unnormalise(0.5)]
        yield running


def once(joint: int, by: float, at: int) -> Any:
    """Changes one message of a driver, the one of number `at` from now."""
    count = iter(range(1_000_000))

    def change(message: JointState) -> None:
        if next(count) == at:
            position = list(message.position)
            position[joint] += by
            message.position = position

    return change


class TestWrongReadings:
    """Finite, within the joint's range, and wrong."""

    @pytest.mark.parametrize("at", [0, 1, 2, 3, 5])
    def test_one_among_the_first_moves_nothing(self, driver: FakeInterbotix, at: int) -> None:
        arm = InterbotixArm(xs_setup())
        arm.prepare_follower()
        driver.broken = once(1, 1.5, at)
        arm.command([*START_ARM_POSE, 0.5])
        until(lambda: len(driver.groups) == 1, "the first command")
        np.testing.assert_allclose(driver.groups[0], START_ARM_POSE, atol=1e-5)
        arm.close()

    @pytest.mark.parametrize("joint", [1, 6])
    def test_readings_that_no_motion_explains_are_refused_by_name(self, driver: FakeInterbotix, joint: int) -> None:
        arm = InterbotixArm(xs_setup(timeout_s=0.5))
        arm.prepare_follower()
        flip = iter(range(1_000_000))

        def jump(message: JointState) -> None:
            position = list(message.position)
            position[joint] += 1.5 * (next(flip) % 2)
            message.position = position

        driver.broken = jump
        name = MOTORS[joint]
        with pytest.raises(ReadingError, match=rf"puppet_left: {name} is read at .* from a reading of .*; no motion"):
            arm.move([*START_ARM_POSE, 0.5], 0.1)
        assert driver.groups == []
        arm.close()

    def test_a_joint_far_outside_its_range_is_refused_with_what_is_expected(self, driver: FakeInterbotix) -> None:
        arm = InterbotixArm(xs_setup(timeout_s=0.3))
        driver.motors[2] = 2.5
        with pytest.raises(
            ReadingError, match=r"elbow is read at 2\.50 rad, where it cannot be; expected \[-1\.76, 1\.61"
        ):
            arm.hold_target()
        arm.close()

    def test_a_hand_can_move_an_arm_as_fast_as_it_likes(self) -> None:
        at_100_hz = 8.0 / 100  # rad
        assert readings.disagreement(VX300S, np.zeros(7), np.full(7, at_100_hz), 0.01) == ""
        assert "elbow is read at 0.60 rad, 10 ms from" in readings.disagreement(
            VX300S, np.zeros(7), [0, 0, 0.6, 0, 0, 0, 0], 0.01
        )


def commands(env: Any, fakes: Fakes) -> Any:
    """(N, 7) commands at the left follower's driver, in a target's units."""
    until(lambda: len(fakes.left.groups) == len(fakes.left.grippers), "both halves of every command")
    gripper = [VX300S.gripper.normalise(value) for value in fakes.left.grippers]
    return np.column_stack([np.array(fakes.left.groups), gripper])


@pytest.fixture
def fakes(session_ros: Ros) -> Iterator[Fakes]:
    with contextlib.ExitStack() as stack:
        yield Fakes(stack)


def test_from_start_to_episode_to_parking_no_command_jumps(fakes: Fakes) -> None:
    """The gripper holds an object, the arm sags: its readings are not its last command."""
    fakes.left.motors[:6] = [0.2, -1.6, 1.5, 0.1, 0.6, 0.0]
    held = VX300S.gripper.unnormalise(0.4)

    def sag(message: JointState) -> None:
        position = list(message.position)
        position[1] += 0.08
        position[6] = max(position[6], held)
        message.position = position

    fakes.left.broken = sag
    env = fakes.env()
    env.reset()
    action = START.copy()
    action[[0, 3, 6]] = [2.0, -1.0, 1.0]
    for _ in range(6):
        env.step(action)
    env.park()
    env.reset()
    sent = commands(env, fakes)
    assert np.all(np.abs(np.diff(sent, axis=0)) <= [*[np.pi / TASK.rate_hz] * 6, 10 / TASK.rate_hz] + np.full(7, 1e-5))
    np.testing.assert_allclose(sent[0, :6], [0.2, -1.52, 1.5, 0.1, 0.6, 0.0], atol=np.pi / TASK.rate_hz)


def test_a_guard_begins_at_the_last_command_whatever_the_first_reading_is(fakes: Fakes) -> None:
    env = fakes.env()
    timestep = env.reset()

    class Stays:
        def reset(self) -> None: ...

        def act(self, observation: Any) -> Any:
            return START

    limits = env.limits
    guard = SafetyGuard(Stays(), limits, start=lambda: env.last_command)
    guard.reset()
    timestep.observation["qpos"][1] += 1.5
    np.testing.assert_allclose(guard.act(timestep.observation), START, atol=1e-6)


MOVES = """
import sys
import numpy as np
from aloha_kit.core import START_ARM_POSE, VX300S
from aloha_kit.ros import node
from aloha_kit.ros.arm import ArmSetup
from aloha_kit.ros.interbotix import InterbotixArm
arm = InterbotixArm(ArmSetup("puppet_left", VX300S, node.start("mover"), "/puppet_left/joint_states"))
arm.prepare_follower()
print("moving", flush=True)
arm.move([1.0, *START_ARM_POSE[1:], 1.0], 1.5)
print("arrived", flush=True)
"""


def test_a_process_that_is_stopped_in_a_move_goes_on_without_a_jump(driver: FakeInterbotix, session_ros: Ros) -> None:
    collected: list[tuple[float, Any]] = []
    received = rospy.Subscriber(
        "/puppet_left/commands/joint_group", interbotix_messages.JointGroupCommand,
        lambda message: collected.append((time.monotonic(), np.array(message.cmd))), queue_size=1000,
    )  # fmt: skip
    mover = subprocess.Popen(
        [sys.executable, "-c", MOVES], stdout=subprocess.PIPE, text=True, env=session_ros.environment, cwd=ROOT
    )
    try:
        until(lambda: len(collected) > 25, "the move is under way", 60)
        os.kill(mover.pid, signal.SIGSTOP)
        time.sleep(1.1)
        os.kill(mover.pid, signal.SIGCONT)
        assert mover.stdout
        assert mover.stdout.read() == "moving\narrived\n"
        until(lambda: abs(collected[-1][1][0] - 1.0) < 1e-6, "the last command")
    finally:
        mover.kill()
        mover.wait()
        received.unregister()
    times, path = np.array([when for when, _ in collected]), np.array([where for _, where in collected])
    assert np.diff(times).max() > 1.0, "it was stopped"
    assert np.abs(np.diff(path, axis=0)).max() <= np.pi / 3 / 50 + 1e-6
    np.testing.assert_allclose(path[-1], [1.0, *START_ARM_POSE[1:]], atol=1e-6)


class TestWrongReadingsInAnEpisode:
    def test_of_a_follower_none_is_observed(self, fakes: Fakes) -> None:
        env = fakes.env(replace(TASK, episode_len=60))
        env.reset()
        count = iter(range(1_000_000))

        def jump(message: JointState) -> None:
            if next(count) % 7 == 0:
                position = list(message.position)
                position[1] += 1.5
                message.position = position

        fakes.right.broken = jump
        for _ in range(40):
            assert env.step(START).observation["qpos"][8] == pytest.approx(START[8], abs=1e-3)

    def test_of_a_leader_none_becomes_a_command(self, fakes: Fakes) -> None:
        env = fakes.env(replace(TASK, episode_len=60), leaders=True)
        observation = env.reset().observation
        assert env.leaders is not None
        count = iter(range(1_000_000))

        def jump(message: JointState) -> None:
            if next(count) % 7 == 0:
                position = list(message.position)
                position[0] += 1.5
                message.position = position

        fakes.leaders["left"].broken = jump
        for _ in range(40):
            assert env.leaders.act(observation)[0] == pytest.approx(0.0, abs=1e-3)
            observation = env.step(START).observation

    def test_readings_that_all_disagree_end_the_step_by_name(self, fakes: Fakes) -> None:
        env = fakes.env(replace(TASK, episode_len=200))
        env.reset()
        rng = np.random.default_rng(0)

        def noise(message: JointState) -> None:
            message.position = rng.uniform(-1.7, 1.2, 9).tolist()

        fakes.left.broken = noise
        with pytest.raises(ReadingError, match=r"puppet_left: \w+ is read at .* no motion explains more than"):
            _step_until_it_fails(env)
