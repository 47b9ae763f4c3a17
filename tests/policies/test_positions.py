"""Sine tables against the formula, entry by entry."""

from __future__ import annotations

import math

import pytest
import torch

from aloha_kit.core import ContractError
from aloha_kit.policies.positions import image_positions, LearnedPositions, sequence_positions


def test_sequence() -> None:
    table = sequence_positions(7, 12)
    assert table.shape == (7, 12)
    for place in range(7):
        for entry in range(12):
            angle = place / 10000 ** (2 * (entry // 2) / 12)
            expected = math.cos(angle) if entry % 2 else math.sin(angle)
            assert table[place, entry].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("height", "width"), [(3, 5), (1, 4), (15, 20)])
def test_image(height: int, width: int) -> None:
    dim = 16
    table = image_positions(height, width, dim)
    assert table.shape == (height * width, dim)
    for row in range(height):
        for column in range(width):
            for entry in range(dim):
                half = entry % (dim // 2)
                place, size = (row, height) if entry < dim // 2 else (column, width)
                angle = (place + 1) / (size + 1e-6) * 2 * math.pi / 10000 ** (2 * (half // 2) / (dim // 2))
                expected = math.cos(angle) if half % 2 else math.sin(angle)
                assert table[row * width + column, entry].item() == pytest.approx(expected, abs=1e-6)


def test_no_two_places_of_an_image_are_alike() -> None:
    table = image_positions(12, 16, 32)
    distance = (table[:, None] - table[None]).norm(dim=-1) + 10 * (table.new_ones(len(table)).diag())
    assert distance.min() > 1e-3


def test_learned_positions_are_of_rows_and_columns() -> None:
    torch.manual_seed(0)
    positions = LearnedPositions([(2, 3), (4, 1)], 8)
    table = positions()
    assert table.shape == (10, 8)
    for place, (row, column) in enumerate([(r, c) for r in range(2) for c in range(3)] + [(r, 0) for r in range(4)]):
        torch.testing.assert_close(table[place], torch.cat([positions.columns[column], positions.rows[row]]))
    with pytest.raises(ContractError, match=r"has 50 rows and columns, and a feature map is 60x80; use position_emb"):
        LearnedPositions([(60, 80)], 8)
