"""Windows of shards: parts of a data set that a bounded cache holds, and their fetching ahead of training."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import numpy.typing as npt

from aloha_kit.core.source import Shard
from aloha_kit.data.index import EpisodeTable

Ints = npt.NDArray[np.int64]

_AHEAD = 4  # shards that are fetched at once for later


class ShardWindows:
    """Division of some episodes of a table into windows, whole shards each.

    Attributes:
        single: whether one window has them all.
        total_gb: what all shards have together.
    """

    def __init__(self, table: EpisodeTable, episodes: Ints, limit: int | None) -> None:
        """`limit` is the most bytes of a window, None for any."""
        source = table.source
        shards = [source.shard(table.numbers[e]) or Shard(f"{e}", 0, remote=False) for e in episodes.tolist()]
        places: dict[str, int] = {}
        self._of = np.array([places.setdefault(shard.name, len(places)) for shard in shards], np.int64)
        sizes = {shard.name: shard.size for shard in shards}
        self._sizes = np.array([sizes[name] for name in places], np.int64)
        self._episodes = episodes
        self._limit = limit
        self.total_gb = float(self._sizes.sum()) / 1e9
        self.single = self._limit is None or int(self._sizes.sum()) <= self._limit

    def drawn(self, rng: np.random.Generator) -> list[Ints]:
        """Windows of one epoch: positions of their episodes, ascending. Shards are shuffled unless there is one."""
        if self.single or self._limit is None:
            return [np.arange(len(self._of))]
        order = rng.permutation(len(self._sizes))
        window_of = np.empty(len(order), np.int64)
        window = filled = 0
        for shard in order.tolist():
            if filled and filled + self._sizes[shard] > self._limit:
                window, filled = window + 1, 0
            window_of[shard] = window
            filled += int(self._sizes[shard])
        of = window_of[self._of]
        return [np.flatnonzero(of == number) for number in range(window + 1)]

    def one_of_each(self, window: Ints) -> Ints:
        """An episode of each shard of a window, by the table's numbers."""
        _, first = np.unique(self._of[window], return_index=True)
        return self._episodes[window[first]]


class Upcoming(Protocol):
    """See `Sampler.upcoming`."""

    def upcoming(self, step: int) -> Ints:
        """Numbers of episodes."""
        ...


class ShardFetcher:
    """Fetches the shards of a training before they are read; does nothing without any, or where none is `needed`."""

    def __init__(self, table: EpisodeTable, sampler: Upcoming, *, needed: bool = True) -> None:
        self._table, self._sampler = table, sampler
        shards = (table.source.shard(number) for number in table.numbers)
        self._remote = needed and any(shard is not None and shard.remote for shard in shards)
        self._ahead = ThreadPoolExecutor(_AHEAD, thread_name_prefix="fetch-ahead")
        self._now = ThreadPoolExecutor(_AHEAD, thread_name_prefix="fetch")
        self._started: dict[int, Future[None]] = {}

    def fetch(self, step: int, rows: Ints) -> None:
        """Have the shards of some rows at hand; begin to fetch the others of this window, and those of the next one.

        Args:
            rows: this process's share of the batch at `step`.

        Raises:
            EpisodeError: a shard cannot be fetched.
        """
        if not self._remote:
            return
        wanted = dict.fromkeys(self._sampler.upcoming(step).tolist())
        kept = {episode: future for episode, future in self._started.items() if episode in wanted}
        new = {episode: self._ahead.submit(self._fetch, episode) for episode in wanted if episode not in kept}
        self._started = kept | new
        for _ in self._now.map(self._fetch, np.unique(self._table.episode_of(rows)).tolist()):
            pass  # raises what a fetch raised

    def close(self) -> None:
        """Begin no further fetch, and wait for those that are running."""
        for pool in (self._ahead, self._now):
            pool.shutdown(cancel_futures=True)

    def _fetch(self, episode: int) -> None:
        self._table.source.fetch(self._table.numbers[episode])
