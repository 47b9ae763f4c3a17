"""Paired statistics against scipy, numpy and their own definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from aloha_kit.eval.compare import CheckpointComparison


def test_only_starts_that_both_have_been_through_are_pairs() -> None:
    a = {1: True, 2: True, 3: False, 4: False, 5: True}
    b = {2: False, 3: True, 4: False, 5: True, 6: True}
    assert CheckpointComparison.of(a, b) == CheckpointComparison(both=1, only_a=1, only_b=1, neither=1)
    assert CheckpointComparison.of(a, {9: True}).starts == 0


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 1), (5, 0), (0, 6), (3, 14), (30, 31), (700, 900)])
def test_the_test_is_exact(only_a: int, only_b: int) -> None:
    ours = CheckpointComparison(50, only_a, only_b, 7).p_value()
    assert ours == pytest.approx(binomtest(only_a, only_a + only_b, 0.5).pvalue, rel=1e-9)


def test_equal_starts_say_nothing() -> None:
    same = CheckpointComparison(190, 0, 0, 10)
    assert same.p_value() == 1.0
    low, high = same.interval()
    assert low < 0 < high  # 200 starts on which they agree still leave room
    assert "only 0 of 200 starts differed, and fewer than 6 never decide (p = 1)" in same.verdict()


def test_without_correlation_the_interval_adds_two_wilson_intervals() -> None:
    ours = CheckpointComparison(both=30, only_a=10, only_b=45, neither=15)  # 30 · 15 = 10 · 45
    a, b = (binomtest(hits, 100).proportion_ci(0.95, method="wilson") for hits in (40, 75))
    low, high = ours.interval()
    assert low == pytest.approx(0.35 - math.hypot(0.75 - b.low, a.high - 0.40))
    assert high == pytest.approx(0.35 + math.hypot(b.high - 0.75, 0.40 - a.low))


@pytest.mark.parametrize("counts", [(10, 40, 35, 15), (60, 5, 15, 20)])
def test_the_correlation_is_pearsons_and_a_positive_one_is_drawn_towards_zero(counts: tuple[int, ...]) -> None:
    ours = CheckpointComparison(*counts)
    outcomes = np.repeat([(1, 1), (1, 0), (0, 1), (0, 0)], counts, axis=0)
    phi = np.corrcoef(outcomes.T)[0, 1]
    product, n = counts[0] * counts[3] - counts[1] * counts[2], sum(counts)
    if product > 0:
        phi *= (product - n / 2) / product
    rates = outcomes.mean(axis=0)
    a, b = (binomtest(int(hits), n).proportion_ci(0.95, method="wilson") for hits in outcomes.sum(axis=0))
    down = np.array([rates[1] - b.low, a.high - rates[0]])
    expected = rates[1] - rates[0] - np.sqrt(down @ np.array([[1, -phi], [-phi, 1]]) @ down)
    assert ours.interval()[0] == pytest.approx(expected)


def test_exchanging_the_policies_turns_the_interval_round() -> None:
    low, high = CheckpointComparison(60, 5, 15, 20).interval()
    assert CheckpointComparison(60, 15, 5, 20).interval() == pytest.approx((-high, -low))


def test_the_interval_holds_the_truth_19_times_in_20() -> None:
    rng = np.random.default_rng(0)
    for truth in ([0.5, 0.15, 0.25, 0.1], [0.85, 0.02, 0.08, 0.05]):
        held = []
        for counts in rng.multinomial(60, truth, size=3000):
            low, high = CheckpointComparison(*counts.tolist()).interval()
            held.append(low <= truth[2] - truth[1] <= high)
        assert 0.94 <= np.mean(held) <= 0.985


def test_the_verdict_names_the_better_one_or_states_what_is_possible() -> None:
    assert CheckpointComparison(150, 4, 30, 16).verdict().startswith("B is better than A: if they were equally good")
    assert CheckpointComparison(150, 30, 4, 16).verdict().startswith("A is better than B")
    undecided = CheckpointComparison(150, 14, 20, 16)
    low, high = (100 * bound for bound in undecided.interval())
    assert f"anything from {low:+.1f} to {high:+.1f} points" in undecided.verdict()
    table = undecided.table()
    assert "B against A on the same 200 starts" in table
    assert f"+3.0 points        95 % interval {low:+.1f} to {high:+.1f}" in table
