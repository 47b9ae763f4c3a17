"""Ways to end: parking, the end of a recording, SIGTERM; and how sure a success rate is."""

from __future__ import annotations

import signal
import threading
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from aloha_kit.core import aloha_limits, aloha_start, Contract, EpisodeError, joint_names, START_ARM_POSE, StopEpisode
from aloha_kit.loop import (
    GoTo,
    park,
    Replay,
    run_episode,
    SafetyGuard,
    sigterm_interrupts,
    wilson_interval,
)
from tests.loop.fake_rig import Constant, CONTRACT, FakeRig

LIMITS = aloha_limits(CONTRACT)


def test_wilson_interval_is_scipys() -> None:
    for successes, trials in [(0, 10), (1, 10), (7, 10), (10, 10), (50, 50), (431, 1000), (0, 1)]:
        theirs = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
        assert wilson_interval(successes, trials) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_interval_of_nonsense_is_refused(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match=f"given {successes} of {trials}"):
        wilson_interval(successes, trials)


def test_replay_gives_the_recording_and_then_stops() -> None:
    actions = np.arange(6, dtype=np.float32).reshape(3, 2) / 10
    rig = FakeRig(99)
    policy = Replay(actions)
    for _ in range(2):
        rig.sent.clear()
        outcome = run_episode(rig, policy)
        np.testing.assert_array_equal(rig.sent, actions)
        assert (outcome.reason, outcome.error) == ("end of the recording", False)


@pytest.mark.parametrize("actions", [np.zeros((0, 14)), np.zeros(14)])
def test_replay_of_nothing_is_refused(actions: Any) -> None:
    with pytest.raises(EpisodeError, match=r"shape \(T, A\) with T ≥ 1, given \("):
        Replay(actions)


def test_going_to_a_pose_is_smooth_bounded_and_exact() -> None:
    rig = FakeRig(500)
    rig.qpos = np.array([-1.0, 0.9], np.float32)
    outcome = run_episode(rig, GoTo([1.0, 0.2], LIMITS))
    path = np.array([[-1.0, 0.9], *rig.sent])
    assert outcome.reason == "pose reached"
    np.testing.assert_allclose(path[-1], [1.0, 0.2], atol=1e-6)
    speed = np.abs(np.diff(path[:, 0]))
    assert speed.max() <= LIMITS.ramp[0] + 1e-6
    assert speed.max() > 0.98 * LIMITS.ramp[0]  # and no slower than it has to be
    assert max(speed[0], speed[-1]) < 0.05 * speed.max()
    assert np.all(np.diff(path[:, 0]) >= 0)


def test_a_pose_beyond_the_limits_is_brought_inside() -> None:
    rig = FakeRig(500)
    run_episode(rig, GoTo([9.0, 9.0], LIMITS))
    np.testing.assert_allclose(rig.sent[-1], LIMITS.upper, atol=1e-6)


def test_parking_begins_at_the_last_command_without_a_reset() -> None:
    rig = FakeRig(1000, fail_at=30)
    guard = SafetyGuard(Constant(np.array([1.0, 0.5])), LIMITS)
    with pytest.raises(OSError, match="bus"):
        run_episode(rig, guard)
    rig.fail_at = None
    last, before = rig.sent[-1], len(rig.sent)
    steps = park(rig, guard, [0.0, 1.0])
    path = np.array([last, *rig.sent[before:]])
    assert rig.resets == 1
    assert steps == len(path) - 1 > 10
    assert np.abs(np.diff(path[:, 0])).max() <= LIMITS.ramp[0] + 1e-6
    np.testing.assert_allclose(path[-1], [0.0, 1.0], atol=1e-6)


def test_parking_moves_nothing_that_never_moved() -> None:
    rig = FakeRig()
    assert park(rig, SafetyGuard(Constant(np.zeros(2)), LIMITS), [1.0, 1.0]) == 0
    assert rig.sent == []


@pytest.mark.parametrize("let_go", [False, True])
def test_parking_moves_nothing_after_the_emergency_stop_was_pressed(let_go: bool) -> None:
    rig, pressed = FakeRig(100), threading.Event()
    guard = SafetyGuard(Constant(np.array([1.0, 0.5])), LIMITS, estop=pressed.is_set)
    guard.reset()
    rig.step(guard.act(rig.reset().observation))
    pressed.set()
    assert guard.stopped
    if let_go:
        pressed.clear()
    assert park(rig, guard, [0.0, 0.0]) == 0
    assert len(rig.sent) == 1


def test_parking_ends_with_the_environments_episode() -> None:
    rig = FakeRig(8)
    guard = SafetyGuard(Constant(np.array([1.0, 0.5])), LIMITS)
    guard.reset()
    first = rig.reset()
    rig.step(guard.act(first.observation))
    assert park(rig, guard, [-2.0, 0.0]) == 7


def test_the_start_pose_is_matched_by_name() -> None:
    mobile = Contract.of(joint_names(), (*joint_names(), "base_linear", "base_angular"), {}, 50.0)
    expected = [*START_ARM_POSE, 1.0, *START_ARM_POSE, 1.0, 0.0, 0.0]
    np.testing.assert_array_equal(aloha_start(mobile), np.array(expected, np.float32))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_ends_the_episode_like_ctrl_c_and_observers_hear_why(number: signal.Signals) -> None:
    reported: list[Any] = []

    class Killed:
        def __init__(self) -> None:
            self.given = 0

        def reset(self) -> None: ...

        def act(self, observation: Any) -> Any:
            self.given += 1
            if self.given == 4:
                signal.raise_signal(number)
            return np.zeros(2, np.float32)

    class Ear:
        def on_reset(self, timestep: Any) -> None: ...

        def on_step(self, action: Any, timestep: Any) -> None: ...

        def on_end(self, outcome: Any) -> None:
            reported.append(outcome)

    before = signal.getsignal(number)
    with sigterm_interrupts(), pytest.raises(KeyboardInterrupt):
        run_episode(FakeRig(100), Killed(), [Ear()])
    assert signal.getsignal(number) is before
    assert len(reported) == 1
    assert reported[0].reason == f"KeyboardInterrupt: {number.name}"
    assert reported[0].error
    assert reported[0].steps in {3, 4}  # the signal may arrive just before or after the action is sent


def test_a_hang_up_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with sigterm_interrupts():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    seen: list[Any] = []

    def work() -> None:
        with sigterm_interrupts():
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_goto_starts_anew_after_a_reset() -> None:
    policy = GoTo([0.5, 0.5], LIMITS)
    for start in ([0.0, 0.5], [0.4, 0.5]):
        policy.reset()
        first = policy.act({"qpos": np.array(start, np.float32), "images": {}, "stamps": {}})
        assert abs(first[0] - start[0]) < LIMITS.ramp[0]

    def act_for_ever() -> None:
        while True:
            policy.act({"qpos": np.zeros(2, np.float32), "images": {}, "stamps": {}})

    with pytest.raises(StopEpisode, match="pose reached"):
        act_for_ever()
