"""The start sequence without a rig: what the arms are commanded, when, and what ends it early."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aloha_kit.config import load, RigConfig
from aloha_kit.core import SafetyError, START_ARM_POSE, StopEpisode, StreamError, VirtualClock, WX250S
from aloha_kit.loop import Latch
from aloha_kit.ros.node import RosError
from aloha_kit.ros.start_sequence import StartSequence

OPEN, CLOSED = 1.0, 0.0


class FakeLeader:
    """Records its commands with the time."""

    def __init__(self, name: str, log: list[Any], clock: VirtualClock) -> None:
        self.name, self.model, self._log, self._clock = name, WX250S, log, clock

    def prepare_leader(self) -> None:
        self._log.append((self._clock.now_ns() / 1e9, self.name, "locked"))

    def set_torque(self, on: bool, part: str = "all") -> None:
        self._log.append((self._clock.now_ns() / 1e9, self.name, f"{part} {'on' if on else 'off'}"))


class FakeEnv:
    """Two leaders whose grippers are as open as `opening(side, seconds)`."""

    def __init__(self, opening: Callable[[str, float], float], *, teleop: str = "software") -> None:
        self.clock, self.log = VirtualClock(), []
        self.rig = dataclasses.replace(load(RigConfig, "rigs", "aloha"), teleop=teleop)
        self.leader_arms = {side: FakeLeader(side, self.log, self.clock) for side in ("left", "right")}
        self.leaders, self.estop = object(), Latch()
        self.log: list[Any]
        self._opening = opening
        self.competing_from_s = np.inf

    def require_alone(self) -> None:
        if self.clock.now_ns() / 1e9 >= self.competing_from_s:
            raise SafetyError("another node commands the followers: /intruder")

    def move(self, targets: dict[Any, Any], seconds: float) -> None:
        for arm, target in targets.items():
            np.testing.assert_allclose(target, [*START_ARM_POSE, 0.5], atol=1e-6)
            self.log.append((self.clock.now_ns() / 1e9, arm.name, "moved"))
        self.clock.sleep_until(self.clock.now_ns() + int(seconds * 1e9))

    def leader_action(self, side: str) -> Any:
        return np.append(START_ARM_POSE, self._opening(side, self.clock.now_ns() / 1e9))


def events(env: FakeEnv, side: str = "left") -> list[tuple[float, str]]:
    return [(round(seconds, 2), what) for seconds, name, what in env.log if name == side]


def run(start_sequence: StartSequence, env: FakeEnv) -> None:
    start_sequence(env)  # type: ignore[arg-type]


def test_the_leaders_stay_locked_until_both_grippers_were_closed_and_the_countdown_is_over() -> None:
    closes = {"left": 3.0, "right": 5.0}
    env = FakeEnv(lambda side, seconds: CLOSED if seconds >= closes[side] else OPEN)
    reported: list[tuple[str, str]] = []
    run(StartSequence(status=lambda *words: reported.append(words), countdown_s=2.0, move_s=1.5), env)
    for side in ("left", "right"):
        assert events(env, side) == [(0.0, "locked"), (0.0, "moved"), (1.5, "gripper off"), (7.0, "all off")]
    assert [state for state, _ in reported] == ["starting", "waiting", "countdown", "countdown"]
    assert [words for state, words in reported if state == "countdown"] == ["2", "1"]


def test_the_threshold_is_the_rigs_in_radians() -> None:
    # -0.3 rad of a WX250's gripper, of -0.6842 closed and 0.3083 open, is an opening of 0.3871
    for opening, starts in ((0.38, True), (0.40, False)):
        env = FakeEnv(lambda side, seconds, opening=opening: opening)  # type: ignore[misc]
        if starts:
            run(StartSequence(countdown_s=0, timeout_s=1.0), env)
        else:
            with pytest.raises(RosError, match=r"the leader grippers were not both closed within 1 s"):
                run(StartSequence(countdown_s=0, timeout_s=1.0), env)


def test_an_operator_can_start_without_the_gesture_or_call_it_off() -> None:
    env = FakeEnv(lambda side, seconds: OPEN)
    run(StartSequence(poll=lambda: "start" if env.clock.now_ns() > 4e9 else None, countdown_s=1.0, move_s=1.5), env)
    assert events(env)[-1] == (pytest.approx(5.0, abs=0.02), "all off")

    def quit_at_once() -> str | None:
        raise StopEpisode("quit")

    called_off = FakeEnv(lambda side, seconds: CLOSED)
    with pytest.raises(StopEpisode, match="quit"):
        run(StartSequence(poll=quit_at_once), called_off)
    assert "all off" not in [what for _, what in events(called_off)]  # the leaders stay locked


def test_a_silent_leader_is_no_gesture() -> None:
    def silent(side: str, seconds: float) -> float:
        raise StreamError("leader_left is silent")

    env = FakeEnv(silent)
    with pytest.raises(StreamError, match="leader_left is silent"):
        run(StartSequence(), env)
    assert "all off" not in [what for _, what in events(env)]


def test_leaders_that_drive_the_followers_themselves_are_left_alone() -> None:
    env = FakeEnv(lambda side, seconds: OPEN, teleop="hardware")
    shown: list[str] = []

    def status(state: str, message: str) -> None:
        shown.append(f"{state} {message}" if state == "countdown" else state)

    run(StartSequence(status=status, poll=lambda: "start" if env.clock.now_ns() >= 2e9 else None, countdown_s=3.0), env)
    assert env.log == []
    assert shown == ["waiting", "countdown 3", "countdown 2", "countdown 1"]
    assert env.clock.now_ns() == pytest.approx(5e9)


@pytest.mark.parametrize("wrong", [{"countdown_s": -1.0}, {"move_s": 0.0}])
def test_times_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="need countdown_s ≥ 0 and move_s > 0, given"):
        StartSequence(**wrong)


@pytest.mark.parametrize("second", [3.0, 5.5])
def test_another_sender_ends_the_waiting_and_the_countdown_with_the_leaders_locked(second: float) -> None:
    env = FakeEnv(lambda side, seconds: CLOSED if seconds >= 5.0 else OPEN)
    env.competing_from_s = second
    with pytest.raises(SafetyError, match="another node commands the followers: /intruder"):
        run(StartSequence(countdown_s=2.0, move_s=1.5), env)
    assert env.clock.now_ns() / 1e9 == pytest.approx(second, abs=0.02)
    assert events(env)[-1][1] == "gripper off"
