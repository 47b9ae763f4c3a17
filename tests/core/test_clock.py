"""Deadlines are absolute: lateness is reported once and never accumulates."""

import pytest

from aloha_kit.core import Rate, VirtualClock, WallClock

MS = 1_000_000


def test_deadlines_do_not_drift_with_the_work_between_them() -> None:
    clock = VirtualClock()
    rate = Rate(50, clock)
    for work_ms in (3, 19, 0, 7):
        clock.sleep_until(clock.now_ns() + work_ms * MS)
        assert rate.sleep() == 0
    assert clock.now_ns() == 4 * 20 * MS


def test_a_late_step_is_reported_and_the_next_deadline_stays() -> None:
    clock = VirtualClock()
    rate = Rate(50, clock)
    clock.sleep_until(26 * MS)
    assert rate.sleep() == 6 * MS
    assert rate.sleep() == 0
    assert clock.now_ns() == 40 * MS


def test_a_stall_longer_than_a_period_does_not_cause_a_burst() -> None:
    clock = VirtualClock()
    rate = Rate(50, clock)
    clock.sleep_until(95 * MS)
    assert rate.sleep() == 75 * MS
    rate.sleep()
    assert clock.now_ns() == 115 * MS, "the schedule starts anew after a stall"


def test_time_that_starts_again_is_waited_for_one_period_at_most() -> None:
    clock = VirtualClock(10**12)
    rate = Rate(50, clock)
    rate.sleep()
    clock._now = 5
    assert rate.sleep() == 0
    assert clock.now_ns() == rate.deadline_ns == 5 + 20_000_000
    rate.sleep()
    assert clock.now_ns() == 5 + 40_000_000


def test_wall_clock_waits_at_least_until_the_deadline() -> None:
    clock = WallClock()
    deadline = clock.now_ns() + 5 * MS
    clock.sleep_until(deadline)
    assert clock.now_ns() >= deadline
    clock.sleep_until(deadline - 1000 * MS)  # in the past: returns


def test_rate_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="given 0 Hz"):
        Rate(0, VirtualClock())
