"""Chunks on a schedule against rows reckoned one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aloha_kit.control.chunk_boundary import ChunkSchedule, fade_steps, resolve_boundary
from aloha_kit.control.execution import ChunkProvenance
from aloha_kit.core import ConfigError, ContractError

Rows = npt.NDArray[np.float32]


def level(value: float, length: int) -> Rows:
    return np.full((length, 1), value, np.float32)


def play(schedule: ChunkSchedule, first: int, last: int) -> list[Any]:
    actions = [schedule.action(step) for step in range(first, last)]
    return [None if action is None else action.tolist() for action in actions]


def laid(old: Rows, new: Rows, begun: int, there: int, fade: int) -> tuple[ChunkSchedule, Rows]:
    """An old chunk from step 0 and a new one, played to its end."""
    schedule = ChunkSchedule(fade=fade)
    assert schedule.add(0, old, 0)
    before = [schedule.action(step) for step in range(there)]
    assert schedule.add(begun, new, there)
    after = [schedule.action(step) for step in range(there, begun + len(new))]
    return schedule, np.array(before + after)


@st.composite
def two_chunks(draw: st.DrawFn) -> tuple[Rows, Rows, int, int, int]:
    """Old and new rows, the step that the new ones are of, when they come, and a fade."""
    length, dim = draw(st.integers(2, 30)), draw(st.integers(1, 3))
    rows = hnp.arrays(np.float32, (length, dim), elements=st.floats(-4, 4, width=32))
    begun = draw(st.integers(1, length - 1))
    there = draw(st.integers(begun, length - 1))  # while the old one still has a row
    return draw(rows), draw(rows), begun, there, draw(st.integers(1, 12))


@given(two_chunks())
@settings(max_examples=200, deadline=None)
def test_a_blend_lies_between_the_chunks_and_leads_from_one_to_the_other(
    case: tuple[Rows, Rows, int, int, int],
) -> None:
    old, new, begun, there, fade = case
    _, played = laid(*case)
    length = len(old)
    n = min(fade, length // 4, length - there)  # steps of both
    np.testing.assert_array_equal(played[:there], old[:there])
    np.testing.assert_array_equal(played[there + n :], new[there + n - begun :])
    ours, theirs = old[there : there + n], new[there - begun :][:n]
    assert np.all(played[there : there + n] >= np.minimum(ours, theirs))
    assert np.all(played[there : there + n] <= np.maximum(ours, theirs))
    if n:
        np.testing.assert_array_equal(played[there], old[there])
    for i in range(n):
        slow = (1 - i / n) * old[there + i].astype(float) + i / n * new[there + i - begun].astype(float)
        np.testing.assert_allclose(played[there + i], slow, atol=1e-6)


@given(two_chunks())
@settings(max_examples=200, deadline=None)
def test_a_blended_step_is_no_larger_than_the_chunks_own_and_a_part_of_the_gap(
    case: tuple[Rows, Rows, int, int, int],
) -> None:
    old, new, begun, there, fade = case
    _, played = laid(*case)
    n = min(fade, len(old) // 4, len(old) - there)
    if n == 0:
        return
    both_old, both_new = old[there - 1 :], new[there - begun :]  # the old one from the step before on
    gap = np.abs(old[there:] - both_new[: len(old) - there]).max()
    own = max(np.abs(np.diff(each, axis=0)).max(initial=0.0) for each in (both_old, both_new))
    steps = np.abs(np.diff(played[there - 1 : there + n + 1], axis=0))
    assert steps.max() <= own + gap / n + 1e-5


def test_without_a_fade_the_newest_counts_at_once() -> None:
    schedule, played = laid(level(1, 8), level(2, 8), 3, 5, 0)
    assert played[:, 0].tolist() == [1] * 5 + [2] * 6
    assert schedule.action(11) is None


def test_a_fade_is_a_straight_line_and_reports_who_takes_part() -> None:
    schedule = ChunkSchedule(fade=4)
    schedule.add(0, level(0, 20), 0)
    play(schedule, 0, 10)
    schedule.add(8, level(1, 20), 10)
    recorded = []
    for step, expected in enumerate([0, 0.25, 0.5, 0.75, 1, 1], start=10):
        assert schedule.action(step) == pytest.approx(expected, abs=1e-6)
        recorded.append(schedule.provenance)
    assert recorded[0] == ChunkProvenance(step=10, newest=8, oldest=0, chunks=2, row=2, boundary=True)
    assert recorded[3] == ChunkProvenance(step=13, newest=8, oldest=0, chunks=2, row=5, boundary=False)
    assert recorded[4] == ChunkProvenance(step=14, newest=8, oldest=8, chunks=1, row=6, boundary=False)


def test_a_third_chunk_fades_from_what_the_first_two_would_have_come_to() -> None:
    schedule = ChunkSchedule(fade=4)
    schedule.add(0, level(0, 16), 0)
    play(schedule, 0, 4)
    schedule.add(4, level(8, 16), 4)
    assert play(schedule, 4, 6) == [[0], [2]]
    schedule.add(5, level(-8, 16), 6)
    # without it: 4, 6, 8, 8; its own part 0, ¼, ½, ¾, 1
    assert play(schedule, 6, 11) == [[4], [0.75 * 6 - 2], [0.5 * 8 - 4], [0.25 * 8 - 6], [-8]]
    assert schedule.provenance == ChunkProvenance(step=10, newest=5, oldest=5, chunks=1, row=5, boundary=False)


def test_a_fade_is_as_long_as_both_cover_and_at_most_a_quarter_of_a_chunk() -> None:
    _, played = laid(level(0, 40), level(1, 40), 37, 38, 10)  # two rows of the old one are left
    assert played[37:42, 0].tolist() == [0, 0, 0.5, 1, 1]
    _, played = laid(level(0, 8), level(1, 8), 2, 2, 10)
    assert played[1:6, 0].tolist() == [0, 0, 0.5, 1, 1]
    _, played = laid(level(0, 3), level(1, 3), 1, 1, 10)  # too short for any
    assert played[:, 0].tolist() == [0, 1, 1, 1]


def test_after_steps_that_nothing_covered_there_is_nothing_to_fade_from() -> None:
    schedule = ChunkSchedule(fade=4)
    schedule.add(0, level(0, 16), 0)
    assert play(schedule, 15, 18) == [[0], None, None]
    assert schedule.provenance is None
    schedule.add(10, level(1, 16), 18)
    assert play(schedule, 18, 19) == [[1]]
    assert schedule.provenance == ChunkProvenance(step=18, newest=10, oldest=10, chunks=1, row=8, boundary=True)


def test_a_chunk_that_comes_after_its_last_step_is_left_out() -> None:
    schedule = ChunkSchedule()
    schedule.add(0, level(0, 4), 0)
    assert not schedule.add(1, level(1, 4), 5)
    assert schedule.add(2, level(2, 4), 5)
    assert play(schedule, 5, 7) == [[2], None]


@pytest.mark.parametrize(
    ("inference_interval", "fade", "lead", "interval"),
    [
        (None, 0, 0, 50),  # all of a chunk
        (None, 0, 10, 40),  # the next one is there when it ends
        (None, 10, 10, 30),  # and both last for the fade
        (None, 20, 10, 28),  # a quarter of 50 at most
        (25, 10, 10, 25),
        (45, 10, 10, 30),
        (None, 0, 49, 1),
        (None, 10, 70, 1),
    ],
)
def test_when_the_next_chunk_is_due(inference_interval: int | None, fade: int, lead: int, interval: int) -> None:
    schedule = ChunkSchedule(inference_interval=inference_interval, fade=fade)
    assert schedule.interval(50, lead) == interval
    assert schedule.due(0, lead)
    schedule.last_inference = 0
    schedule.add(0, level(0, 50), 0)
    due = [step for step in range(1, 60) if schedule.due(step, lead)]
    assert due == list(range(interval, 60))
    schedule.last_inference = None  # lost
    assert schedule.due(1, lead)


def test_averaging_infers_at_every_step_or_as_given() -> None:
    for every, interval in ((None, 1), (7, 7)):
        assert ChunkSchedule(ensemble_weight=0.01, inference_interval=every).interval(50, 10) == interval


def test_nan_of_a_chunk_that_counts_no_more_is_ignored() -> None:
    broken = level(0, 16)
    broken[6:] = np.nan
    _, played = laid(broken, level(1, 16), 2, 2, 4)
    assert played[:, 0].tolist() == [0, 0, 0, 0.25, 0.5, 0.75] + [1] * 12


def test_a_chunk_of_another_shape_is_answered() -> None:
    schedule = ChunkSchedule()
    schedule.add(0, level(0, 4), 0)
    with pytest.raises(ContractError, match=r"a chunk of shape \(5, 1\) after chunks of \(4, 1\)"):
        schedule.add(1, level(0, 5), 1)


def test_the_flag_comes_to() -> None:
    assert resolve_boundary(None, temporal_agg=False, late=True) == "blend"
    assert resolve_boundary(None, temporal_agg=False, late=False) == "none"
    assert resolve_boundary(None, temporal_agg=True, late=True) == "none"
    assert resolve_boundary("none", temporal_agg=False, late=True) == "none"
    assert resolve_boundary("blend", temporal_agg=False, late=False) == "blend"
    with pytest.raises(ConfigError, match=r"--chunk_boundary blend joins .*; --temporal_agg averages them instead"):
        resolve_boundary("blend", temporal_agg=True, late=True)
    assert fade_steps("none") == 0 < fade_steps("blend")
