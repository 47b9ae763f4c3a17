"""Levels of the curriculum, and the reasons of a reward that stays zero."""

from __future__ import annotations

import json

import pytest

from aloha_kit.rl.curriculum import Curriculum, ZeroRewardWatch
from aloha_kit.rl.episodes import EpisodeSummary


def episode(band: int = 0, *, success: bool = True, steps: int = 50, terminated: bool = False) -> EpisodeSummary:
    return EpisodeSummary(band, success, float(success), success, steps, terminated, 0.2, 0.25, {})


def test_the_next_level_begins_above_80_percent_of_60_episodes_of_the_newest_band() -> None:
    curriculum = Curriculum(3)
    assert (curriculum.level, curriculum.weights) == (0, (1.0, 0.0, 0.0))
    for number in range(60):  # 48 of 60 are not more than 80 %
        assert not curriculum.add(episode(success=number >= 12))
    assert curriculum.level == 0
    assert curriculum.add(episode())  # the oldest failure leaves the window
    assert (curriculum.level, curriculum.weights) == (1, (0.5, 0.5, 0.0))
    for _ in range(70):  # of an easier band
        assert not curriculum.add(episode(0))
    for number in range(60):
        assert curriculum.add(episode(1)) is (number == 59)
    assert (curriculum.level, curriculum.weights) == (2, (0.25, 0.25, 0.5))
    for _ in range(60):
        curriculum.add(episode(2))
    assert curriculum.mastered
    assert curriculum.weights == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert curriculum.success == (1.0, 1.0, 1.0)


def test_without_curriculum_all_bands_are_drawn_alike() -> None:
    curriculum = Curriculum(4, enabled=False)
    assert curriculum.weights == (0.25,) * 4
    assert not any(curriculum.add(episode(3)) for _ in range(100))
    assert curriculum.success == (None, None, None, 1.0)


def test_it_goes_on_from_json() -> None:
    first, second = Curriculum(3), Curriculum(3)
    for number in range(90):
        first.add(episode(min(first.level, 1), success=number % 7 > 0))
    second.restore(json.loads(json.dumps(first.to_json())))
    assert second.level == first.level == 1
    assert second.success == first.success
    for number in range(60):
        assert first.add(episode(1, success=number % 9 > 0)) == second.add(episode(1, success=number % 9 > 0))
    assert second.to_json() == first.to_json()


BANDS = ((0.03, 0.1), (0.1, 0.35))


def test_a_reward_that_stays_zero_is_reported_once_in_20_episodes_with_its_reason() -> None:
    watch = ZeroRewardWatch(BANDS)
    warnings = [watch.add(episode(1, success=False)) for _ in range(40)]
    assert [number for number, text in enumerate(warnings) if text] == [19, 39]
    assert warnings[19] == (
        "no reward above 0 in 20 episodes: targets were 0.1 to 0.35 m away and never nearer than 0.2 m, farther than "
        "what is paid for. Unless the reward pays for coming nearer, begin with nearer targets (the curriculum, or "
        "nearer bands) or take a reward that does"
    )


def test_episodes_of_three_steps_are_named_as_the_reason() -> None:
    watch = ZeroRewardWatch(BANDS)
    warnings = [watch.add(episode(success=False, steps=3, terminated=True)) for _ in range(20)]
    assert warnings[-1].startswith(
        "no reward above 0 in 20 episodes: episodes end after 3 steps (median), 20 of 20 by termination (discount 0)"
    )


def test_one_reward_begins_the_count_anew() -> None:
    watch = ZeroRewardWatch(BANDS)
    for number in range(60):
        assert not watch.add(episode(success=number % 20 == 19))
