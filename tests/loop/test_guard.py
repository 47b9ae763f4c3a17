"""Commands behind the guard are safe, whatever the policy's actions are."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aloha_kit.core import (
    aloha_limits,
    ConfigError,
    Contract,
    HoldStill,
    joint_names,
    PIPER,
    SafetyError,
    START_ARM_POSE,
    StopEpisode,
    VX300S,
)
from aloha_kit.loop import run_episode, SafetyGuard
from tests.loop.fake_rig import Constant, CONTRACT, FakeRig

BIMANUAL = Contract.of(joint_names(), joint_names(), {"top": (480, 640)}, rate_hz=50.0)
MOBILE = Contract.of(joint_names(), (*joint_names(), "base_linear", "base_angular"), {}, rate_hz=50.0)
START = np.tile([*START_ARM_POSE, 0.1], 2).astype(np.float32)


class ScriptedActions:
    """A policy that gives these actions in turn, then the last for ever."""

    def __init__(self, *actions: Any) -> None:
        self.actions, self.calls = actions, 0

    def reset(self) -> None:
        self.calls = 0

    def act(self, observation: Any) -> Any:
        self.calls += 1
        return self.actions[min(self.calls, len(self.actions)) - 1]


def observe(step: int = 0, qpos: Any = START, **stamps: int) -> Any:
    now = 1_000_000_000 + 20_000_000 * step
    return {"qpos": qpos, "images": {}, "stamps": {"qpos": now, "images/top": now, "deadline": now, **stamps}}


def guarded(policy: Any, contract: Contract = BIMANUAL, **options: Any) -> SafetyGuard:
    guard = SafetyGuard(policy, aloha_limits(contract), **options)
    guard.reset()
    return guard


def test_a_good_command_passes_bit_for_bit() -> None:
    rng = np.random.default_rng(0)
    path = START + np.cumsum(rng.uniform(-0.02, 0.02, (50, 14)), 0).astype(np.float32)
    path[:, [6, 13]] = np.clip(path[:, [6, 13]], 0, 1)
    guard = guarded(ScriptedActions(*path))
    out = [guard.act(observe(i)) for i in range(50)]
    np.testing.assert_array_equal(out, path)
    assert guard.report() == {
        "commands": 50,
        "limited": 0,
        "held": 0,
        "limited_by": {"range": {}, "speed": {}, "ramp": {}},
        "faults": {},
    }


def test_limits_follow_the_urdf_the_margin_and_the_rate() -> None:
    limits = aloha_limits(BIMANUAL, margin=0.05, speed=0.5)
    shoulder = limits.names.index("right_shoulder")
    assert limits.lower[shoulder] == pytest.approx(-1.85 + 0.05)
    assert limits.upper[shoulder] == pytest.approx(1.2566 - 0.05)
    assert limits.step[shoulder] == pytest.approx(0.5 * np.pi / 50)
    assert limits.step[6] == pytest.approx(10 / 50)
    assert (limits.lower[6], limits.upper[6]) == pytest.approx((-0.1, 1.1))


numbers = st.one_of(
    st.floats(-10, 10, width=32), st.sampled_from([np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0]), st.floats(width=64)
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(hnp.arrays(np.float64, 16, elements=numbers), min_size=1, max_size=12),
    hnp.arrays(np.float32, 14, elements=st.floats(0, 1, width=32)),
)
def test_output_is_within_limits_and_bounded_in_step_whatever_the_policy_gives(actions: list[Any], share: Any) -> None:
    guard = guarded(ScriptedActions(*actions), MOBILE, hold=3)
    limits = guard.limits
    qpos = (limits.lower[:14] + share * (limits.upper - limits.lower)[:14]).astype(np.float32)
    before = np.concatenate([qpos, [0, 0]])
    for step in range(len(actions) + 5):
        try:
            out = guard.act(observe(step, qpos))
        except SafetyError:
            assert any("not finite" in fault for fault in guard.report()["faults"])
            return
        assert out.dtype == np.float32
        assert np.all(np.isfinite(out))
        assert np.all(out >= limits.lower.astype(np.float32))
        assert np.all(out <= limits.upper.astype(np.float32))
        assert np.all(np.abs(out.astype(np.float64) - before) <= limits.step + 1e-6)
        before = out.astype(np.float64)
    assert np.all(np.isfinite(actions[-1]))  # had the last word been a fault, holding would have ended


@given(hnp.arrays(np.float64, 14, elements=st.floats(-0.7, 1.75)))
@settings(max_examples=50, deadline=None)
def test_from_a_pose_outside_the_range_it_only_ever_moves_inwards(qpos: Any) -> None:
    guard = guarded(ScriptedActions(np.full(14, 5.0)))
    lower, upper = guard.limits.lower, guard.limits.upper

    def outside(x: Any) -> Any:
        return np.maximum(0, np.maximum(lower - x, x - upper))

    before = outside(qpos)
    if before.max() > 0.5:
        with pytest.raises(SafetyError, match="step 0: the first reading is not a position of an arm: "):
            guard.act(observe(0, qpos))
        return
    for step in range(5):
        now = outside(guard.act(observe(step, qpos)).astype(np.float64))
        assert np.all(now <= before + 1e-6)
        before = now


def test_the_first_command_never_jumps_and_the_ramp_ends_when_the_policy_is_met() -> None:
    target = START.copy()
    target[0] = 0.5
    guard = guarded(Constant(target))
    out = np.array([guard.act(observe(i))[0] for i in range(40)])
    ramp = np.pi / 3 / 50
    steps = np.diff(np.concatenate([[0.0], out]))
    assert steps.max() == pytest.approx(ramp, rel=1e-5)
    assert np.count_nonzero(out == np.float32(0.5)) == 40 - int(0.5 / ramp)
    assert guard.report()["limited_by"]["ramp"] == {"left_waist": int(0.5 / ramp)}


def test_the_first_command_starts_from_the_last_one_sent_whatever_the_first_reading_is() -> None:
    wrong = START.copy()
    wrong[[1, 8]] += 1.5
    sent = np.append(START, [0.0, 0.0]).astype(np.float64)
    sent[1] -= 0.1  # the arm sags: its reading is not its command
    guard = guarded(Constant(np.append(START, [0.0, 0.0])), MOBILE, start=lambda: sent)
    before = sent
    for step in range(6):
        command = guard.act(observe(step, wrong if step == 0 else START)).astype(np.float64)
        assert np.all(np.abs(command - before) <= np.pi / 3 / 50 + 1e-6)
        before = command
    np.testing.assert_allclose(before[:14], START, atol=1e-6)
    guard.reset()
    assert guard.act(observe(0, wrong))[8] == START[8], "in the next episode too"


def test_where_nothing_was_sent_it_is_the_first_reading() -> None:
    guard = guarded(Constant(START), start=lambda: None)
    away = START.copy()
    away[0] = 0.5
    assert guard.act(observe(0, away))[0] == pytest.approx(0.5 - np.pi / 3 / 50)


def test_a_first_reading_that_no_arm_can_have_is_refused() -> None:
    wrong = START.copy()
    wrong[1] = 2.0  # left_shoulder turns to 1.26 at most
    guard = guarded(Constant(START))
    with pytest.raises(SafetyError, match="the first reading is not a position of an arm: left_shoulder = 2;"):
        guard.act(observe(0, wrong))
    assert guard.command is None
    firm = START.copy()
    firm[6], firm[1] = 1.4, -1.9  # a gripper of another calibration, an arm in its stop
    assert guarded(Constant(START)).act(observe(0, firm))[1] == pytest.approx(-1.9 + np.pi / 3 / 50, abs=1e-6)


def test_after_the_ramp_a_jump_is_limited_by_speed_and_counted_by_joint() -> None:
    jump = START.copy()
    jump[12] += 1.0
    guard = guarded(ScriptedActions(START, jump))
    out = [guard.act(observe(i)) for i in range(4)]
    np.testing.assert_allclose([o[12] - START[12] for o in out], np.arange(4) * np.pi / 50, atol=1e-6)
    report = guard.report()
    assert report["limited_by"]["speed"] == {"right_wrist_rotate": 3}
    assert (report["commands"], report["limited"]) == (4, 3)


def test_each_episode_ramps_anew() -> None:
    guard = guarded(Constant(START))
    guard.act(observe(0))
    guard.reset()
    assert guard.command is None
    away = START.copy()
    away[0] = 1.0
    out = guard.act(observe(0, away))
    assert out[0] == pytest.approx(1.0 - np.pi / 3 / 50)


def test_an_arm_has_its_own_ranges() -> None:
    """Piper's shoulder turns from 0 to 3.14 rad, ViperX's from -1.85 to 1.26."""
    contract = Contract.of(joint_names(), (*joint_names(), "base_linear", "base_angular"), {}, 50.0)
    limits = aloha_limits(contract, arm=PIPER)
    np.testing.assert_allclose([limits.lower[1], limits.upper[1], limits.lower[9]], [0.02, 3.12, -2.947], atol=1e-6)
    assert limits.state_index[14:] == (None, None)
    assert aloha_limits(contract).upper[1] == pytest.approx(1.2366)


def test_joint_and_gripper_range_are_clamped_and_named() -> None:
    near = START.copy()
    near[1], near[6] = VX300S.lower[1] + 0.03, 1.08
    wanted = near.copy()
    wanted[1], wanted[6] = -3.0, 2.0
    guard = guarded(ScriptedActions(wanted))
    out = guard.act(observe(0, near))
    assert out[1] == pytest.approx(VX300S.lower[1] + 0.02)
    assert out[6] == pytest.approx(1.1)
    assert guard.report()["limited_by"]["range"] == {"left_shoulder": 1, "left_gripper": 1}


def test_a_fault_is_held_for_the_configured_steps_then_raised() -> None:
    bad = START.copy()
    bad[[2, 13]] = np.nan
    guard = guarded(ScriptedActions(START, bad), hold=2)
    first = guard.act(observe(0))
    np.testing.assert_array_equal(guard.act(observe(1)), first)
    np.testing.assert_array_equal(guard.act(observe(2)), first)
    with pytest.raises(SafetyError) as caught:
        guard.act(observe(3))
    text = "step 3: the action is not finite: left_elbow = nan, right_gripper = nan (held still for 2 steps before)"
    assert str(caught.value) == text
    assert guard.report()["held"] == 2


def test_a_fault_that_passes_is_forgiven() -> None:
    bad = np.full(14, np.nan)
    guard = guarded(ScriptedActions(START, bad, START, bad, START), hold=1)
    for step in range(5):
        np.testing.assert_array_equal(guard.act(observe(step)), START)


def test_there_is_nothing_to_hold_before_the_first_command() -> None:
    with pytest.raises(SafetyError, match=r"has shape \(7,\), expected \(14,\)$"):
        guarded(Constant(np.zeros(7))).act(observe(0))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_non_finite_observation_never_reaches_the_policy(value: float) -> None:
    policy = ScriptedActions(START)
    guard = guarded(policy, hold=0)
    guard.act(observe(0))
    qpos = START.copy()
    qpos[8] = value
    with pytest.raises(SafetyError, match=f"observed qpos is not finite: right_shoulder = {value}"):
        guard.act(observe(1, qpos))
    assert policy.calls == 1


def test_an_observation_of_another_shape_is_refused() -> None:
    with pytest.raises(SafetyError, match=r"qpos has shape \(7,\), expected one row of at least 14 values"):
        guarded(Constant(START)).act(observe(0, START[:7]))


def test_a_frozen_stream_is_named() -> None:
    guard = guarded(Constant(START), hold=0, frozen=3)
    frozen = {"images/top": 1_000_000_000}
    for step in range(3):
        guard.act(observe(step, **frozen))
    with pytest.raises(SafetyError, match="stream 'images/top' is frozen: the same stamp 4 times in a row"):
        guard.act(observe(3, **frozen))


def test_a_leaders_stamp_is_not_the_observations() -> None:
    """It is of the reading before, so it looks old after one long step, and stands still while the guard holds."""
    guard = guarded(Constant(START), hold=0, frozen=3, stale_s=0.1)
    for step in range(10):
        np.testing.assert_allclose(guard.act(observe(step, leader_left=1_000_000_000)), START, atol=1e-6)


def test_a_slow_camera_that_repeats_frames_is_not_frozen() -> None:
    guard = guarded(Constant(START), hold=0, frozen=2)
    for step in range(40):
        guard.act(observe(step, **{"images/top": 1_000_000_000 + 40_000_000 * (step // 2)}))
    assert guard.report()["faults"] == {}


def test_a_late_stream_is_named_with_the_bound() -> None:
    guard = guarded(Constant(START), stale_s=0.1, hold=0)
    observation = observe(10)
    observation["stamps"]["qpos"] -= 99_000_000
    guard.act(observation)
    observation = observe(20)
    observation["stamps"]["qpos"] -= 101_000_000
    with pytest.raises(SafetyError, match=r"stream 'qpos' is stale: more than 0\.1 s older than the newest stamp"):
        guard.act(observation)


def test_without_stamps_nothing_moves() -> None:
    with pytest.raises(SafetyError, match="no stamps"):
        guarded(Constant(START)).act({"qpos": START, "images": {}})


@pytest.mark.parametrize("kind", ["event", "function"])
def test_the_emergency_stop_ends_at_once_without_asking_the_policy(kind: str) -> None:
    event = threading.Event()
    button: Callable[[], bool] = event.is_set if kind == "event" else lambda: event.is_set()
    policy = ScriptedActions(START)
    guard = guarded(policy, estop=button)
    guard.act(observe(0))
    event.set()
    with pytest.raises(SafetyError, match="the emergency stop was pressed: no further motion was commanded"):
        guard.act(observe(1))
    event.clear()  # letting go is no order to go on
    assert guard.stopped
    with pytest.raises(SafetyError, match="emergency stop was pressed"):
        guard.act(observe(2))
    assert policy.calls == 1
    guard.reset()
    with pytest.raises(SafetyError, match="emergency stop was pressed"):
        guard.act(observe(0))


def test_the_guard_repeats_why_the_emergency_stop_was_pressed() -> None:
    guard = guarded(ScriptedActions(START), estop=lambda: "the emergency stop was pressed (by /button)")
    with pytest.raises(SafetyError, match=r"^the emergency stop was pressed \(by /button\): no further motion"):
        guard.require_released()


def test_a_base_starts_at_rest_accelerates_gently_and_stops_on_a_fault() -> None:
    drive = np.concatenate([START, [5.0, -5.0]])
    bad = np.full(16, np.nan)
    guard = guarded(ScriptedActions(*[drive] * 60, bad), MOBILE, hold=100)
    out = np.array([guard.act(observe(i)) for i in range(130)])
    assert out[0, 14] == pytest.approx(1.0 / 50)
    assert out[:, 14].max() == pytest.approx(0.5)
    assert out[:, 15].min() == pytest.approx(-1.0)
    np.testing.assert_array_equal(out[-1], [*START, 0, 0])  # arms hold their pose, the base its place


def test_unknown_entries_are_answered_with_the_known() -> None:
    odd = Contract.of(("tail",), ("tail",), {}, 50.0)
    with pytest.raises(ConfigError, match=r"no safety limits are known for action 'tail'\. .*Known: angular, elbow"):
        aloha_limits(odd)
    blind = Contract.of(("left_waist",), ("left_elbow",), {}, 50.0)
    with pytest.raises(ConfigError, match=r"'left_elbow' moves no entry of the state\. .*left_waist"):
        aloha_limits(blind)


def test_entries_are_matched_by_name_not_by_place() -> None:
    swapped = Contract.of(("left_gripper", "left_waist"), ("left_waist", "left_gripper"), {}, 50.0)
    guard = guarded(Constant(np.array([1.0, 1.0])), swapped)
    out = guard.act(observe(0, np.array([1.0, 0.0], np.float32)))
    assert out[0] == pytest.approx(np.pi / 50 / 3)  # the waist came from 0, state entry 1
    assert out[1] == 1.0  # the gripper was already open


def test_in_the_loop_the_recorded_action_is_the_limited_one_and_a_stop_passes_through() -> None:
    rig = FakeRig(20)
    guard = SafetyGuard(Constant(np.array([1.0, 0.0])), aloha_limits(CONTRACT))
    outcome = run_episode(rig, guard)
    assert outcome.reason == "complete"
    waist = np.array(rig.sent)[:, 0]
    np.testing.assert_allclose(waist, np.arange(1, 21) * np.pi / 150, atol=1e-6)

    class Stops(Constant):
        def act(self, observation: Any) -> Any:
            raise StopEpisode("enough")

    ended = run_episode(rig, SafetyGuard(Stops(0), aloha_limits(CONTRACT)))
    assert (ended.steps, ended.reason, ended.error) == (0, "enough", False)


def test_a_policy_may_ask_to_hold_and_that_is_no_fault() -> None:
    class Waits:
        def __init__(self) -> None:
            self.given = 0

        def reset(self) -> None: ...

        def act(self, observation: Any) -> Any:
            self.given += 1
            if self.given > 2:
                raise HoldStill("no chunk yet")
            return np.full(16, 0.01)

    guard = guarded(Waits(), MOBILE, hold=3)
    qpos = np.zeros(14, np.float32)
    moving = [guard.act(observe(step, qpos)) for step in range(2)][-1]
    assert moving[14] > 0
    for step in range(2, 12):  # longer than a fault would be bridged
        still = guard.act(observe(step, qpos))
    np.testing.assert_array_equal(still[:14], moving[:14])
    np.testing.assert_array_equal(still[14:], [0, 0])
    report = guard.report()
    assert (report["held"], report["faults"]) == (10, {})
    guard.reset()
    with pytest.raises(SafetyError, match="step 0: nothing to hold before the first command: no chunk yet"):
        guard.act(observe(0, qpos))
