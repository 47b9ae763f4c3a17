"""T actions and T + 1 observations of the loop, and one call of each observer at the end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aloha_kit.core import StopEpisode
from aloha_kit.loop import run_episode
from tests.loop.fake_rig import Constant, FakeRig


class Diary:
    """Records the calls of an observer; can fail on demand."""

    def __init__(self, fail_on: str = "", failure: BaseException | None = None) -> None:
        self.reported: list[str] = []
        self.steps: list[tuple[Any, Any]] = []
        self.outcome: Any = None
        self._fail_on, self._failure = fail_on, failure or RuntimeError("disk full")

    def _tell(self, what: str) -> None:
        self.reported.append(what)
        if what == self._fail_on:
            raise self._failure

    def on_reset(self, timestep: Any) -> None:
        self.first = timestep
        self._tell("reset")

    def on_step(self, action: Any, timestep: Any) -> None:
        self.steps.append((action, timestep))
        self._tell("step")

    def on_end(self, outcome: Any) -> None:
        self.outcome = outcome
        self._tell("end")


class After:
    """Raises `failure` in place of action number `steps`."""

    def __init__(self, steps: int, failure: BaseException) -> None:
        self.steps, self.failure, self.given = steps, failure, 0

    def reset(self) -> None:
        self.given = 0

    def act(self, observation: Any) -> Any:
        if self.given == self.steps:
            raise self.failure
        self.given += 1
        return np.full(2, self.given, np.float32)


def test_t_actions_give_t_plus_one_observations_in_order() -> None:
    rig, diary = FakeRig(5), Diary()
    outcome = run_episode(rig, Constant(np.ones(2, np.float32)), [diary])
    assert (outcome.steps, outcome.final_reward, outcome.max_reward) == (5, 5.0, 5.0)
    assert (outcome.reason, outcome.error) == ("complete", False)
    assert diary.reported == ["reset", *["step"] * 5, "end"]
    images = [diary.first, *[timestep for _, timestep in diary.steps]]
    assert [int(t.observation["images"]["top"][0, 0, 0]) for t in images] == [0, 1, 2, 3, 4, 5]
    assert [t.step_type.name for t in images] == ["FIRST", "MID", "MID", "MID", "MID", "LAST"]


def test_the_observed_action_is_the_sent_one() -> None:
    rig, diary = FakeRig(4), Diary()
    run_episode(rig, After(9, StopEpisode()), [diary])
    np.testing.assert_array_equal([action for action, _ in diary.steps], rig.sent)


def test_the_policy_is_reset_after_the_environment_and_before_it_acts() -> None:
    policy = Constant(np.zeros(2, np.float32))
    run_episode(FakeRig(1), policy)
    run_episode(FakeRig(1), policy)
    assert policy.resets == 2


def test_stop_is_an_end_in_good_order() -> None:
    diary = Diary()
    outcome = run_episode(FakeRig(9), After(3, StopEpisode("operator pressed s")), [diary])
    assert (outcome.steps, outcome.reason, outcome.error) == (3, "operator pressed s", False)
    assert diary.outcome == outcome
    assert diary.reported.count("end") == 1


def test_max_reward_and_final_reward_differ_when_it_drops_something() -> None:
    class Drops(FakeRig):
        def step(self, action: Any) -> Any:
            timestep = super().step(action)
            return timestep._replace(reward=[1.0, 4.0, 0.0][self._step - 1])

    outcome = run_episode(Drops(3), Constant(np.zeros(2, np.float32)))
    assert (outcome.max_reward, outcome.final_reward) == (4.0, 0.0)


@pytest.mark.parametrize(
    ("rig", "policy", "error", "reason", "steps"),
    [
        (FakeRig(9), After(2, ValueError("no chunk")), ValueError, "ValueError: no chunk", 2),
        (FakeRig(9), After(4, KeyboardInterrupt()), KeyboardInterrupt, "KeyboardInterrupt", 4),
        (FakeRig(9, fail_at=3), After(9, StopEpisode()), OSError, "OSError: the bus is gone", 3),
    ],
)
def test_an_error_is_passed_to_every_observer_once_and_raised(
    rig: Any, policy: Any, error: type[BaseException], reason: str, steps: int
) -> None:
    first, second = Diary(), Diary()
    with pytest.raises(error):
        run_episode(rig, policy, [first, second])
    for diary in (first, second):
        assert diary.reported == ["reset", *["step"] * steps, "end"]
        assert (diary.outcome.steps, diary.outcome.reason, diary.outcome.error) == (steps, reason, True)


def test_an_observer_that_fails_in_a_step_ends_the_episode_for_all() -> None:
    failing, other = Diary("step"), Diary()
    with pytest.raises(RuntimeError, match="disk full"):
        run_episode(FakeRig(9), Constant(np.zeros(2, np.float32)), [failing, other])
    assert failing.reported == ["reset", "step", "end"]
    assert other.reported == ["reset", "end"]  # it never saw the step that the first one failed in
    assert other.outcome.error
    assert other.outcome.reason == "RuntimeError: disk full"


def test_an_observer_that_fails_at_reset_gets_the_end_and_later_ones_are_not() -> None:
    failing, never = Diary("reset"), Diary()
    with pytest.raises(RuntimeError, match="disk full"):
        run_episode(FakeRig(9), Constant(np.zeros(2, np.float32)), [failing, never])
    assert failing.reported == ["reset", "end"]
    assert never.reported == []


def test_an_observer_that_fails_at_the_end_does_not_keep_it_from_the_next() -> None:
    failing, other = Diary("end"), Diary()
    with pytest.raises(RuntimeError, match="disk full"):
        run_episode(FakeRig(2), Constant(np.zeros(2, np.float32)), [failing, other])
    assert other.reported == ["reset", "step", "step", "end"]
    assert other.outcome.reason == "complete"
