"""Chunks of actions against a slow, independent reading of the same episodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aloha_kit.data.chunks import Chunks
from aloha_kit.data.index import read_table
from aloha_kit.formats import open_source
from tests.synthetic import write_dataset


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("chunk", [1, 8, 50])
def test_chunks_equal_a_slow_reading(tmp_path: Path, offset: int, chunk: int) -> None:
    written = write_dataset(tmp_path, lengths=(12, 5, 9))
    table = read_table(open_source(tmp_path), action_offset=offset)
    rows = np.random.default_rng(0).permutation(len(table))
    actions, is_pad = Chunks(table, chunk)(rows)
    where = [(e, t) for e, episode in enumerate(written) for t in range(len(episode.action))]
    for i, row in enumerate(rows):
        e, t = where[row]
        tail = written[e].action[max(0, t - offset) :][:chunk]
        expected = np.zeros((chunk, 14), np.float32)
        expected[: len(tail)] = tail
        np.testing.assert_array_equal(actions[i], expected)
        assert is_pad[i].tolist() == [k >= len(tail) for k in range(chunk)]
