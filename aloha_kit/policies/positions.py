"""Positional encodings: fixed sine tables for sequences and for images."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sequence_positions(length: int, dim: int) -> Tensor:
    """(length, dim): sin and cos of the place, at wavelengths from 2π to 10000 · 2π (Vaswani et al., 2017)."""
    return _waves(torch.arange(length, dtype=torch.float64), dim).float()


def picture_positions(height: int, width: int, dim: int) -> Tensor:
    """(height · width, dim), row by row: the first half of dim encodes the row, the second the column.

    As in DETR (Carion et al., 2020). Rows and columns count from 1 and are stretched so that the
    last one is at 2π, whatever the size.
    """
    rows, columns = (torch.arange(1, n + 1, dtype=torch.float64) / (n + 1e-6) * 2 * math.pi for n in (height, width))
    by_row = _waves(rows, dim // 2)[:, None].expand(height, width, -1)
    by_column = _waves(columns, dim // 2)[None].expand(height, width, -1)
    return torch.cat([by_row, by_column], dim=-1).reshape(height * width, dim).float()


def _waves(place: Tensor, dim: int) -> Tensor:
    """(N,) places to (N, dim): even entries sin, odd ones cos, a pair a frequency."""
    pair = torch.arange(dim, dtype=torch.float64) // 2
    angle = place[:, None] / 10000 ** (2 * pair / dim)
    return torch.where(torch.arange(dim) % 2 == 0, angle.sin(), angle.cos())
