"""Statistics against numpy over all rows at once."""

from __future__ import annotations

import json

import numpy as np
import pytest

from aloha_kit.core import ContractError
from aloha_kit.data.stats import Accumulator, Moments, Statistics


def test_pieces_give_what_the_whole_gives() -> None:
    rng = np.random.default_rng(0)
    # far from zero and hardly moving: where sums of squares lose everything
    rows = rng.normal([0.0, 1000.0, -3.0], [1.0, 1e-3, 0.0], (5000, 3)).astype(np.float32)
    accumulator = Accumulator()
    for piece in np.split(rows, [1, 2, 2, 700, 4999]):
        accumulator.add(piece)
    moments = accumulator.moments()
    exact = rows.astype(np.float64)
    np.testing.assert_allclose(moments.mean, exact.mean(0), rtol=1e-6)
    np.testing.assert_allclose(moments.std, exact.std(0, ddof=1), rtol=1e-5)
    np.testing.assert_array_equal(moments.min, rows.min(0))
    np.testing.assert_array_equal(moments.max, rows.max(0))
    assert (moments.count, moments.size) == (5000, 3)


def test_one_row_has_no_spread() -> None:
    moments = Statistics.of(qpos=[[1.0, 2.0]])["qpos"]
    assert moments.std.tolist() == [0.0, 0.0]
    assert moments.mean.tolist() == [1.0, 2.0]


def test_arrays_and_json_bring_everything_back() -> None:
    rng = np.random.default_rng(0)
    stats = Statistics.of(qpos=rng.normal(size=(50, 14)), action=rng.normal(size=(50, 16)))
    as_json = json.loads(json.dumps({key: value.tolist() for key, value in stats.to_arrays().items()}))
    back = Statistics.from_arrays({key: np.asarray(value) for key, value in as_json.items()})
    assert list(back.moments) == ["qpos", "action"]
    for key, value in stats.to_arrays().items():
        np.testing.assert_array_equal(back.to_arrays()[key], value)
    assert back["action"].mean.dtype == np.float32
    assert "action" in back
    assert "environment_state" not in back


def test_what_cannot_be_is_answered() -> None:
    accumulator = Accumulator()
    with pytest.raises(ContractError, match="statistics of no rows at all"):
        accumulator.moments()
    with pytest.raises(ContractError, match=r"need \(N, D\) rows, given shape \(3,\)"):
        accumulator.add([1.0, 2.0, 3.0])
    with pytest.raises(ContractError, match="row 1, dimension 0 is nan: statistics need finite values"):
        accumulator.add([[1.0, 2.0], [np.nan, 0.0]])
    accumulator.add([[1.0, 2.0]])
    with pytest.raises(ContractError, match="rows of 3 dimensions after rows of 2"):
        accumulator.add([[1.0, 2.0, 3.0]])
    with pytest.raises(ContractError, match=r"unknown statistics 'actoin'\. Did you mean 'action'"):
        Statistics.of(actoin=[[1.0]])
    with pytest.raises(ContractError, match=r"no statistics of 'action'\. Known: qpos\."):
        Statistics.of(qpos=[[1.0]])["action"]
    with pytest.raises(ContractError, match="must be vectors of one length"):
        Moments(np.zeros(2, np.float32), *(np.zeros(3, np.float32) for _ in range(3)), count=1)  # type: ignore[misc]
    flat = Statistics.of(qpos=[[1.0]]).to_arrays()
    del flat["qpos.std"]
    with pytest.raises(ContractError, match=r"statistics lack 'qpos\.std'; there are: qpos\.count, qpos\.max"):
        Statistics.from_arrays(flat)
