"""Action chunks: the actions that follow a step, which a policy is trained to predict."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from aloha_kit.data.index import EpisodeTable

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class Chunks:
    """The K actions that follow any step, zero past its episode's end.

    Episodes are laid end to end with K rows of zeros behind each, so every chunk is one contiguous piece of memory:
    gathering copies B pieces, where a masked index copies B · K rows and takes ten times as long.
    """

    def __init__(self, table: EpisodeTable, length: int) -> None:
        episode = np.repeat(np.arange(len(table.names)), table.lengths)  # (N,)
        rows = np.arange(len(table))
        size = table.action.shape[1]
        actions = np.zeros((len(table) + length * len(table.names), size), np.float32)
        is_pad = np.ones(len(actions), np.bool_)
        actions[rows + length * episode] = table.action
        is_pad[rows + length * episode] = False
        first = np.maximum(rows - table.offsets[episode], table.starts[episode])
        self._shape = (length, size)
        self._first = first + length * episode
        self._actions = sliding_window_view(actions.reshape(-1), length * size)[::size]  # (…, K · A), overlapping
        self._is_pad = sliding_window_view(is_pad, length)  # (…, K)

    def __call__(self, rows: Ints) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """(B, K, A) actions and (B, K) is_pad of B rows of the table."""
        first = self._first[rows]
        return self._actions[first].reshape(-1, *self._shape), self._is_pad[first]

    def present(self, rows: Ints) -> Ints:
        """(B,) number of the K actions before the episode's end."""
        counts: Ints = (~self._is_pad[self._first[rows]]).sum(axis=1)
        return counts
