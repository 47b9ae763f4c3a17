"""Positional encodings: fixed sine tables for sequences and for images, and a learned one for images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn, Tensor

from aloha_kit.core import ContractError


def sequence_positions(length: int, dim: int) -> Tensor:
    """(length, dim): sin and cos of the place, at wavelengths from 2π to 10000 · 2π (Vaswani et al., 2017)."""
    return _waves(torch.arange(length, dtype=torch.float64), dim).float()


def image_positions(height: int, width: int, dim: int) -> Tensor:
    """(height · width, dim), row by row: the first half of dim encodes the row, the second the column.

    As in DETR (Carion et al., 2020). Rows and columns count from 1 and are stretched so that the
    last one is at 2π, whatever the size.
    """
    rows, columns = (torch.arange(1, n + 1, dtype=torch.float64) / (n + 1e-6) * 2 * math.pi for n in (height, width))
    by_row = _waves(rows, dim // 2)[:, None].expand(height, width, -1)
    by_column = _waves(columns, dim // 2)[None].expand(height, width, -1)
    return torch.cat([by_row, by_column], dim=-1).reshape(height * width, dim).float()


class LearnedPositions(nn.Module):
    """An embedding for each row and for each column of a feature map, as DETR's learned one.

    Args:
        sizes: (height, width) of the maps, at most 50 each.
        dim: of the positions; even.

    Raises:
        ContractError: a larger map.
    """

    LIMIT = 50

    def __init__(self, sizes: Sequence[tuple[int, int]], dim: int) -> None:
        super().__init__()
        if largest := [size for size in sizes if max(size) > self.LIMIT]:
            height, width = largest[0]
            raise ContractError(
                "position_embedding learned has {limit} rows and columns, and a feature map is {height}x{width}; "
                "use position_embedding sine, or smaller images",
                limit=self.LIMIT,
                height=height,
                width=width,
            )
        self.sizes = list(sizes)
        self.rows = nn.Parameter(torch.rand(max(height for height, _ in sizes), dim // 2))
        self.columns = nn.Parameter(torch.rand(max(width for _, width in sizes), dim // 2))

    def forward(self) -> Tensor:
        """(N, dim) of all maps, one after the other, row by row: first the column's half, then the row's."""
        tables = []
        for height, width in self.sizes:
            by_column = self.columns[:width].expand(height, -1, -1)
            by_row = self.rows[:height].unsqueeze(1).expand(-1, width, -1)
            tables.append(torch.cat([by_column, by_row], dim=-1).flatten(0, 1))
        return torch.cat(tables)


def _waves(place: Tensor, dim: int) -> Tensor:
    """(N,) places to (N, dim): even entries sin, odd ones cos, a pair a frequency."""
    pair = torch.arange(dim, dtype=torch.float64) // 2
    angle = place[:, None] / 10000 ** (2 * pair / dim)
    return torch.where(torch.arange(dim) % 2 == 0, angle.sin(), angle.cos())
