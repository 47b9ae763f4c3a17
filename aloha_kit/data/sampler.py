"""Sampling of batches as a pure function of seed and step: resuming needs only the step number."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from aloha_kit.core import ConfigError
from aloha_kit.core.lang import Message
from aloha_kit.data.index import EpisodeTable, rows_between
from aloha_kit.data.windows import ShardWindows

Ints = npt.NDArray[np.int64]


class Sampler:
    """Shuffled epochs laid end to end; batch k is the samples k · B to (k + 1) · B of that stream.

    Every epoch shows each sample once, every batch has B samples (one may straddle two epochs), and nothing is
    remembered between batches. `sampling`: "all_steps" shuffles every step of every episode across episodes and time;
    "one_per_episode" draws one uniform step an episode an epoch, as the reference does.

    With `weights`, one for each of several data sets that are read as one, a sample is of data set i with a
    probability in proportion to `weights[i]`, and then any of its steps (or of one of its episodes): drawn anew for
    every batch, with replacement. An epoch is then as many samples as without.

    Where a cache holds only some of the data set's shards (`EpisodeSource.window_bytes`), an epoch goes through windows
    of shards, drawn anew for each epoch, and shuffles within each; not with `windowed` false, where no shard is read.

    Attributes:
        shares: part of the samples that is of each data set; empty without weights.

    Raises:
        ValueError: no episode.
        ConfigError: none of a data set that has a weight, or weights where shards are read window by window.
    """

    def __init__(
        self,
        table: EpisodeTable,
        episodes: Iterable[int],
        batch_size: int,
        *,
        seed: int = 0,
        sampling: Literal["all_steps", "one_per_episode"] = "all_steps",
        weights: Sequence[float] = (),
        windowed: bool = True,
    ) -> None:
        chosen = np.array(list(episodes), np.int64)
        if not len(chosen):
            raise ValueError(Message("no episode to sample from"))
        self.batch_size = batch_size
        self._seed = seed
        self._starts, self._lengths = table.starts[chosen], table.lengths[chosen]
        self._rows = table.rows_of(chosen) if sampling == "all_steps" else None
        self._windows = ShardWindows(table, chosen, table.source.window_bytes if windowed else None)
        if weights and not self._windows.single:
            raise ConfigError(
                "--weights draws from all shards at once, and --cache_gb holds only some of them: leave it out, "
                "or give a --cache_gb above the {total_gb:.3g} of the shards",
                total_gb=self._windows.total_gb,
            )
        self._drawn: dict[int, _Epoch] = {}
        self._upcoming: tuple[int, int, Ints] = (-1, -1, np.zeros(0, np.int64))
        parts = np.array([table.source.part(table.numbers[number]) for number in chosen]) if weights else None
        self._parts = [np.flatnonzero(parts == part) for part in range(len(weights))]  # positions in `chosen`
        self.shares = tuple(weight / sum(weights) for weight in weights)
        if missing := [part for part, positions in enumerate(self._parts) if not len(positions)]:
            raise ConfigError("data set {missing} has a weight and no episode to train on", missing=missing[0] + 1)

    @property
    def epoch_size(self) -> int:
        """Samples an epoch."""
        return len(self._starts) if self._rows is None else len(self._rows)

    @property
    def windows(self) -> int:
        """Windows of the first epoch."""
        return len(self._epoch(0).windows)

    def steps(self, epochs: float) -> int:
        """Batches that show at least so many epochs."""
        return math.ceil(epochs * self.epoch_size / self.batch_size)

    def epochs(self, steps: int) -> int:
        """Whole epochs that so many batches show; `steps` is its inverse."""
        return steps * self.batch_size // self.epoch_size

    def epoch(self, number: int) -> Ints:
        """The shuffled rows of one epoch."""
        return self._epoch(number).rows

    def upcoming(self, step: int) -> Ints:
        """Episodes, one of each shard: those of the window that the batch at a step begins in, then of the next one."""
        number, place = divmod(step * self.batch_size, self.epoch_size)
        epoch = self._epoch(number)
        current = int(np.searchsorted(epoch.ends, place, side="right"))
        if self._upcoming[:2] != (number, current):
            later = epoch.windows[current + 1 :] or self._epoch(number + 1).windows
            found = [self._windows.one_of_each(window) for window in (epoch.windows[current], later[0])]
            self._upcoming = number, current, np.concatenate(found)
        return self._upcoming[2]

    def _epoch(self, number: int) -> _Epoch:
        if number not in self._drawn:
            rng = np.random.default_rng([self._seed, number])
            windows = self._windows.drawn(rng)
            pieces = [rng.permutation(self._samples(window, rng)) for window in windows]
            drawn = _Epoch(np.concatenate(pieces), windows, np.cumsum([len(piece) for piece in pieces]))
            # the stream only moves on; two epochs are enough for a batch that straddles them
            self._drawn = {n: before for n, before in self._drawn.items() if n >= number - 1} | {number: drawn}
        return self._drawn[number]

    def _samples(self, window: Ints, rng: np.random.Generator) -> Ints:
        """Rows of a window of an epoch, in the table's order."""
        starts, lengths = self._starts[window], self._lengths[window]
        if self._rows is None:
            return np.asarray(starts + rng.integers(0, lengths))
        return self._rows if self._windows.single else rows_between(starts, lengths)

    def batch(self, step: int) -> Ints:
        """(B,) rows of the batch at a step."""
        if self.shares:
            return self._weighted(np.random.default_rng([self._seed, step, 0x3E16]))
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, places = np.divmod(positions, self.epoch_size)
        rows = np.empty(self.batch_size, np.int64)
        for number in np.unique(epochs):
            here = epochs == number
            rows[here] = self.epoch(int(number))[places[here]]
        return rows

    def _weighted(self, rng: np.random.Generator) -> Ints:
        """(B,) rows: the data set of each by its share, then an episode, by its length or uniformly, and a step."""
        rows = np.empty(self.batch_size, np.int64)
        of = rng.choice(len(self.shares), self.batch_size, p=self.shares)
        for part, positions in enumerate(self._parts):
            here = np.flatnonzero(of == part)
            lengths = self._lengths[positions].astype(np.float64)
            likely = None if self._rows is None else lengths / lengths.sum()
            drawn = rng.choice(positions, len(here), p=likely)
            rows[here] = self._starts[drawn] + rng.integers(0, self._lengths[drawn])
        return rows

    def batches(self, first: int, last: int) -> Iterator[Ints]:
        """Batches of steps `first` up to, not including, `last`."""
        return (self.batch(step) for step in range(first, last))


@dataclass(frozen=True)
class _Epoch:
    """Shuffled rows, windows as positions of their episodes, and the row behind the last one of each window."""

    rows: Ints
    windows: list[Ints]
    ends: Ints


def validation_rows(table: EpisodeTable, episodes: Iterable[int], batch_size: int, batches: int) -> list[Ints]:
    """Rows of at most `batches` validation batches, evenly distributed over some episodes.

    They are the same at every validation, so that two validations differ by the weights alone (the reference validates
    on ten random steps).
    """
    rows = table.rows_of(episodes)
    count = min(len(rows), batch_size * batches)
    if not count:
        return []
    picked = rows[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)]
    return [picked[i : i + batch_size] for i in range(0, count, batch_size)]
