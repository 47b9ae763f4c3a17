from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aloha_kit.core import ConfigError
from aloha_kit.data.index import EpisodeTable, read_table
from aloha_kit.data.sampler import Sampler, validation_rows
from aloha_kit.formats import open_joined, open_source
from tests.synthetic import write_dataset


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> EpisodeTable:
    folder = tmp_path_factory.mktemp("episodes")
    write_dataset(folder, lengths=(11, 17, 5, 9), cameras={})
    return read_table(open_source(folder))


def test_every_step_of_the_chosen_episodes_once_an_epoch(table: EpisodeTable) -> None:
    sampler = Sampler(table, [0, 1, 3], batch_size=8, seed=1)
    assert sampler.epoch_size == 11 + 17 + 9
    stream = np.concatenate([sampler.batch(step) for step in range(3 * 37 // 8 + 1)])
    expected = sorted([*range(28), *range(33, 42)])
    for epoch in range(3):
        assert sorted(stream[37 * epoch : 37 * (epoch + 1)].tolist()) == expected
    assert stream[:37].tolist() != stream[37:74].tolist()
    assert sampler.steps(2) == 10  # 74 samples in batches of 8


def test_a_batch_depends_on_seed_and_step_alone(table: EpisodeTable) -> None:
    one = Sampler(table, range(4), batch_size=5, seed=7)
    straight = [one.batch(step) for step in range(40)]
    # resumed: a new sampler that begins in the middle, or jumps back
    two = Sampler(table, range(4), batch_size=5, seed=7)
    for step in (23, 24, 39, 2, 30):
        np.testing.assert_array_equal(two.batch(step), straight[step])
    np.testing.assert_array_equal(list(two.batches(10, 13)), straight[10:13])
    other = Sampler(table, range(4), batch_size=5, seed=8)
    assert any((other.batch(step) != straight[step]).any() for step in range(3))


def test_one_start_an_episode_an_epoch(table: EpisodeTable) -> None:
    sampler = Sampler(table, [0, 2, 3], batch_size=3, seed=0, sampling="one_per_episode")
    assert sampler.epoch_size == 3
    starts = [sampler.batch(step) for step in range(400)]
    for rows in starts:
        assert sorted(table.episode_of(rows).tolist()) == [0, 2, 3]
    # uniform over each episode: every step is met, none much more often than others
    counts = np.bincount(np.concatenate(starts), minlength=len(table))
    assert (counts[:11] > 0).all()
    assert counts[11:28].sum() == 0
    assert counts[:11].max() < 3 * counts[:11].min() + 10


def test_a_batch_may_be_larger_than_an_epoch(table: EpisodeTable) -> None:
    sampler = Sampler(table, [2], batch_size=12, seed=0)
    assert sorted(sampler.batch(0).tolist()) == sorted([*range(28, 33)] * 2 + sampler.batch(0)[10:].tolist())


@pytest.mark.parametrize("sampling", ["all_steps", "one_per_episode"])
def test_weights_decide_how_often_a_data_set_is_sampled(tmp_path: Path, sampling: Any) -> None:
    for name, lengths in (("a", (5, 9)), ("b", (40, 60, 20))):
        write_dataset(tmp_path / name, lengths=lengths, cameras={})
    table = read_table(open_joined([tmp_path / "a", tmp_path / "b"]))
    weighted = Sampler(table, [0, 1, 2, 4], batch_size=8, seed=4, weights=(3, 1), sampling=sampling)
    rows = np.concatenate([weighted.batch(step) for step in range(1000)])
    counts = np.bincount(table.episode_of(rows), minlength=5) / len(rows)
    assert counts[3] == 0, "episode 3 is for validation"
    shares = [5 / 14, 9 / 14, 40 / 60, 20 / 60] if sampling == "all_steps" else [0.5] * 4
    np.testing.assert_allclose(counts[[0, 1, 2, 4]], np.array([0.75, 0.75, 0.25, 0.25]) * shares, atol=0.02)
    assert set(table.rows_of([0, 1, 2, 4])) == set(rows), "every step is met"
    again = Sampler(table, [0, 1, 2, 4], batch_size=8, seed=4, weights=(3, 1), sampling=sampling)
    np.testing.assert_array_equal(again.batch(777), weighted.batch(777))
    with pytest.raises(ConfigError, match="data set 1 has a weight and no episode to train on"):
        Sampler(table, [2, 3], batch_size=8, weights=(3, 1))


def test_nothing_to_sample_is_an_error(table: EpisodeTable) -> None:
    with pytest.raises(ValueError, match="no episode to sample from"):
        Sampler(table, [], batch_size=1)


def test_validation_rows_are_spread_and_always_the_same(table: EpisodeTable) -> None:
    batches = validation_rows(table, [1, 3], batch_size=4, batches=2)
    assert [len(rows) for rows in batches] == [4, 4]
    rows = np.concatenate(batches)
    assert rows[0] == 11
    assert rows[-1] == 41
    assert (np.diff(rows) > 0).all()
    assert set(table.episode_of(rows)) == {1, 3}
    everything = validation_rows(table, [1, 3], batch_size=4, batches=100)
    np.testing.assert_array_equal(np.concatenate(everything), [*range(11, 28), *range(33, 42)])
    assert validation_rows(table, [], batch_size=4, batches=2) == []
