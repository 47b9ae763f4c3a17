"""Windows of shards: every sample once an epoch, from a seed alone, and the shards there before they are read."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from aloha_kit.core import ConfigError, EpisodeError
from aloha_kit.core.source import RecordedEpisode, Shard
from aloha_kit.data.cache import cached_frames
from aloha_kit.data.index import EpisodeTable, read_table
from aloha_kit.data.sampler import Sampler
from aloha_kit.data.windows import ShardFetcher
from aloha_kit.formats import open_source
from aloha_kit.formats.curated import CuratedSource
from aloha_kit.formats.joined import JoinedSource
from aloha_kit.storage.curation import Curation
from aloha_kit.train.distributed import Distributed
from aloha_kit.train.launch import Rank
from tests.synthetic import write_dataset

LENGTHS = (9, 5, 12, 7, 6, 11, 8)
SHARDS = ("a", "a", "b", "c", "c", "d", "e")
SIZES = {"a": 300, "b": 250, "c": 350, "d": 200, "e": 400}
LIMIT = 700


class Sharded(CuratedSource):
    """HDF5 episodes that count as in shards."""

    def __init__(self, folder: Path, limit: int | None = LIMIT) -> None:
        super().__init__(open_source(folder), Curation())
        self.window_bytes = limit
        self.fetched: list[int] = []
        self.fail = False

    def shard(self, number: int) -> Shard:
        return Shard(SHARDS[number], SIZES[SHARDS[number]], remote=True)

    def fetch(self, number: int) -> None:
        if self.fail:
            raise EpisodeError("the cable")
        self.fetched.append(number)

    def open(self, number: int) -> RecordedEpisode:
        return super().open(number)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("data")
    write_dataset(made, LENGTHS, {})
    return made


@pytest.fixture
def table(folder: Path) -> EpisodeTable:
    return read_table(Sharded(folder))


def shards_of(table: EpisodeTable, rows: np.ndarray) -> list[str]:
    return [SHARDS[episode] for episode in table.episode_of(rows).tolist()]


@pytest.mark.parametrize("sampling", ["all_steps", "one_per_episode"])
def test_an_epoch_has_every_sample_once_and_no_window_exceeds_the_limit(table: EpisodeTable, sampling: str) -> None:
    sampler = Sampler(table, [0, 1, 2, 3, 5, 6], 4, seed=5, sampling=sampling)  # type: ignore[arg-type]
    orders = []
    for number in range(3):
        rows = sampler.epoch(number)
        episodes = table.episode_of(rows)
        if sampling == "all_steps":
            assert sorted(rows.tolist()) == table.rows_of([0, 1, 2, 3, 5, 6]).tolist()
        assert set(episodes.tolist()) == {0, 1, 2, 3, 5, 6}
        # a shard is left before the window of another one begins
        visits = shards_of(table, rows)
        seen = {name: (visits.index(name), len(visits) - visits[::-1].index(name)) for name in SIZES}
        windows: list[set[str]] = []
        for name, (first, _) in sorted(seen.items(), key=lambda each: each[1]):
            if windows and first < max(seen[other][1] for other in windows[-1]):
                windows[-1].add(name)
            else:
                windows.append({name})
        assert len(windows) > 1
        assert all(sum(SIZES[name] for name in window) <= LIMIT for window in windows)
        orders.append(rows.tolist())
    assert orders[0] != orders[1]
    again = Sampler(table, [0, 1, 2, 3, 5, 6], 4, seed=5, sampling=sampling)  # type: ignore[arg-type]
    assert [again.epoch(number).tolist() for number in (2, 0, 1)] == [orders[2], orders[0], orders[1]]
    other = Sampler(table, [0, 1, 2, 3, 5, 6], 4, seed=6, sampling=sampling)  # type: ignore[arg-type]
    assert other.epoch(0).tolist() != orders[0]


def test_shards_that_all_fit_are_shuffled_as_episodes_are(folder: Path) -> None:
    plain = Sampler(read_table(open_source(folder)), range(7), 4, seed=3)
    for limit in (None, sum(SIZES.values())):
        sampler = Sampler(read_table(Sharded(folder, limit)), range(7), 4, seed=3)
        assert sampler.windows == 1
        for number in range(2):
            assert sampler.epoch(number).tolist() == plain.epoch(number).tolist()
    assert Sampler(read_table(Sharded(folder)), range(7), 4, seed=3).windows > 1


def test_ranks_share_an_epoch_without_overlap(table: EpisodeTable) -> None:
    sampler = Sampler(table, range(7), 4, seed=1)
    ranks = [Distributed(Rank(rank, 2, rank)) for rank in range(2)]
    steps = sampler.epoch_size // 4
    parts = [[row for rows in sampler.batches(0, steps) for row in world.share(rows).tolist()] for world in ranks]
    assert len(parts[0]) == len(parts[1]) == 2 * steps
    assert not set(parts[0]) & set(parts[1])
    left = sampler.batch(steps)[: sampler.epoch_size % 4].tolist()
    assert sorted([*parts[0], *parts[1], *left]) == list(range(len(table)))


def test_what_a_batch_reads_is_upcoming_at_its_step_or_the_one_before(table: EpisodeTable) -> None:
    sampler = Sampler(table, range(7), 4, seed=2)
    for step in range(3 * sampler.epoch_size // 4):
        upcoming = {SHARDS[episode] for episode in sampler.upcoming(step).tolist()}
        assert set(shards_of(table, sampler.batch(step))) <= upcoming, step
        assert sum(SIZES[name] for name in upcoming) <= 2 * LIMIT


def test_a_batch_waits_for_its_shards_and_the_others_follow(table: EpisodeTable) -> None:
    source = table.source
    assert isinstance(source, Sharded)
    sampler = Sampler(table, range(7), 4, seed=2)
    with closing(ShardFetcher(table, sampler)) as fetcher:
        rows = sampler.batch(0)[:2]  # of one of two processes
        fetcher.fetch(0, rows)
        there = {SHARDS[number] for number in source.fetched}
        assert set(shards_of(table, rows)) <= there
    source.fetched.clear()
    fetcher = ShardFetcher(table, sampler)
    fetcher.fetch(0, rows)
    for future in fetcher._started.values():
        future.result(20)
    assert {SHARDS[number] for number in source.fetched} == {
        SHARDS[episode] for episode in sampler.upcoming(0).tolist()
    } | set(shards_of(table, rows))
    source.fail = True
    with pytest.raises(EpisodeError, match="the cable"):
        fetcher.fetch(1, rows)
    fetcher.close()


def test_the_frame_cache_fetches_a_shard_and_decodes_all_cameras_of_an_episode_in_a_row(tmp_path: Path) -> None:
    cameras = {"top": (24, 32), "wrist": (16, 16)}
    written = write_dataset(tmp_path, (5, 4, 6), cameras)
    source = Sharded(tmp_path)
    table = read_table(source)
    frames = cached_frames(table, cameras, tmp_path / "cache", workers=1, progress=False)
    assert source.fetched == [0, 0, 1, 1, 2, 2]
    rows = np.array([14, 0, 7])
    for camera in cameras:
        recorded = np.concatenate([episode.images[camera][:-1] for episode in written]).transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(frames.gather(rows)[camera].numpy(), recorded[rows])


def test_several_data_sets(folder: Path) -> None:
    joined = JoinedSource([Sharded(folder), Sharded(folder, 2000), open_source(folder)])
    assert joined.window_bytes == LIMIT
    assert joined.shard(7) == dataclasses.replace(joined.shard(0) or Shard("", 0, False), name="1/a")
    assert joined.shard(14) is None
    sampler = Sampler(read_table(joined), range(21), 8)
    assert sorted(sampler.epoch(0).tolist()) == list(range(3 * sum(LENGTHS)))
    with pytest.raises(ConfigError, match=r"--weights draws from all shards .* --cache_gb"):
        Sampler(read_table(joined), range(21), 8, weights=(1, 1, 1))
