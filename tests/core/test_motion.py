"""Commands to an arm: one step from the one before, two in a burst, unchanged where they keep to that."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloha_kit.core import command_step, CommandLimiter, PIPER, VX300S

MS = 1_000_000
HZ = 50.0
STEP = command_step(VX300S, HZ)
ROUNDING = 2e-6


def test_a_step_is_the_joints_speed_over_the_rate() -> None:
    np.testing.assert_allclose(command_step(VX300S, 25), [*[np.pi / 25] * 6, 10 / 25])
    np.testing.assert_allclose(command_step(PIPER, 200)[:6], np.pi / 200)


targets = st.lists(
    st.tuples(
        st.integers(0, 3000),  # ms since the command before: bursts and stalls
        st.lists(st.one_of(st.floats(-3, 3), st.sampled_from([-1e30, 1e30])), min_size=7, max_size=7),
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(targets, st.lists(st.floats(-1, 1), min_size=7, max_size=7))
def test_whatever_is_commanded_and_whatever_the_clock_does_steps_and_bursts_are_bounded(
    requested: list[tuple[int, list[float]]], pose: list[float]
) -> None:
    limiter, now = CommandLimiter(STEP, HZ), 0
    limiter.begin(pose)
    sent, times = [np.array(pose)], [0.0]
    for wait_ms, target in requested:
        now += wait_ms * MS
        command = limiter.limit(target, now)
        limiter.sent(command, now)
        sent.append(command)
        times.append(now / 1e9)
    ways = np.abs(np.diff(sent, axis=0))
    assert np.all(ways <= STEP + ROUNDING)
    for i in range(len(times)):
        for j in range(i + 1, len(times)):
            window_s = times[j] - times[i]
            assert np.all(ways[i:j].sum(axis=0) <= 2 * STEP + STEP * HZ * window_s + ROUNDING * (j - i))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 19), min_size=50, max_size=50), st.integers(0, 2**31))
def test_full_speed_at_the_rate_passes_bit_for_bit_though_each_command_is_late_by_up_to_a_period(
    late_ms: list[int], seed: int
) -> None:
    limiter = CommandLimiter(STEP, HZ)
    signs = np.sign(np.random.default_rng(seed).normal(size=(50, 7)))
    path = np.cumsum(signs * STEP, axis=0).astype(np.float32)
    limiter.begin(np.zeros(7))
    for i, (row, late) in enumerate(zip(path, late_ms, strict=True)):
        now = (20 * i + late) * MS
        command = limiter.limit(row, now)
        np.testing.assert_array_equal(command, row.astype(np.float64))
        limiter.sent(command, now)


def test_the_first_command_needs_a_pose_to_start_from() -> None:
    limiter = CommandLimiter(STEP, HZ)
    with pytest.raises(ValueError, match="no command to start from: call begin with the pose that the arm is in"):
        limiter.limit(np.zeros(7), 0)
    limiter.begin(np.ones(7))
    np.testing.assert_allclose(limiter.limit(np.zeros(7), 0), 1 - STEP)
    limiter.forget()
    assert limiter.last is None


def test_time_that_starts_again_gives_no_room() -> None:
    limiter = CommandLimiter(STEP, HZ)
    limiter.begin(np.zeros(7))
    for now in (10_000 * MS, 0, 0):
        limiter.sent(limiter.limit(np.full(7, 9.0), now), now)
    assert limiter.last is not None
    np.testing.assert_allclose(limiter.last, 2 * STEP)
