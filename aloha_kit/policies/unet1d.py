"""Conditional 1-D U-Net over the time axis of an action chunk (Janner et al., 2022; Chi et al., 2023)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn, Tensor


class ConditionalUnet1d(nn.Module):
    """(B, K, A) and a condition (B, C) to (B, K, A). K is a multiple of 2 for each level but the last.

    Args:
        action_dim: A.
        condition_dim: C, of the observation.
        down_dims: channels of the levels.
        time_embedding: size of the embedding of the denoising time.
        kernel_size: of the convolutions, odd.
        n_groups: of the group normalisation.
    """

    def __init__(
        self,
        action_dim: int,
        condition_dim: int,
        *,
        down_dims: Sequence[int],
        time_embedding: int,
        kernel_size: int,
        n_groups: int,
    ) -> None:
        super().__init__()
        self.time = nn.Sequential(
            SinusoidalEmbedding(time_embedding),
            nn.Linear(time_embedding, 4 * time_embedding),
            nn.Mish(),
            nn.Linear(4 * time_embedding, time_embedding),
        )
        condition_dim += time_embedding

        def pair(inputs: int, outputs: int) -> nn.ModuleList:
            """Two residual blocks, the first of which changes the channels."""
            return nn.ModuleList(
                FilmBlock(size, outputs, condition_dim, kernel_size, n_groups) for size in (inputs, outputs)
            )

        self.down = nn.ModuleList(pair(a, b) for a, b in pairwise((action_dim, *down_dims)))
        self.downsample = nn.ModuleList(nn.Conv1d(size, size, 3, stride=2, padding=1) for size in down_dims[:-1])
        self.middle = pair(down_dims[-1], down_dims[-1])
        self.up = nn.ModuleList(pair(2 * b, a) for a, b in reversed(list(pairwise(down_dims))))
        self.upsample = nn.ModuleList(
            nn.ConvTranspose1d(size, size, 4, stride=2, padding=1) for size in reversed(down_dims[:-1])
        )
        self.last = ConvBlock(down_dims[0], down_dims[0], kernel_size, n_groups)
        self.head = nn.Conv1d(down_dims[0], action_dim, 1)

    def forward(self, chunk: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """Args: noisy chunk (B, K, A), denoising time (B,) in [0, 100], condition (B, C)."""
        condition = torch.cat([self.time(time), condition], dim=-1)
        x = chunk.mT
        skips = []
        for level, blocks in enumerate(self.down):
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, condition)
            skips.append(x)
            if level < len(self.downsample):
                x = self.downsample[level](x)
        for block in self.middle:
            x = block(x, condition)
        # the first level's output is not concatenated anywhere: the published network leaves it out as well
        for blocks, upsample in zip(self.up, self.upsample, strict=True):
            x = torch.cat([x, skips.pop()], dim=1)
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, condition)
            x = upsample(x)
        out: Tensor = self.head(self.last(x))
        return out.mT


class FilmBlock(nn.Module):
    """Residual block of two convolutions, scaled and shifted by the condition between them (Perez et al., 2018)."""

    def __init__(self, inputs: int, outputs: int, condition_dim: int, kernel_size: int, n_groups: int) -> None:
        super().__init__()
        self.first = ConvBlock(inputs, outputs, kernel_size, n_groups)
        self.second = ConvBlock(outputs, outputs, kernel_size, n_groups)
        self.film = nn.Sequential(nn.Mish(), nn.Linear(condition_dim, 2 * outputs))
        self.shortcut = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B, inputs, K) to (B, outputs, K)."""
        scale, shift = self.film(condition).unsqueeze(-1).chunk(2, dim=1)
        out: Tensor = self.second(scale * self.first(x) + shift) + self.shortcut(x)
        return out


class ConvBlock(nn.Sequential):
    """Convolution over time, group normalisation, Mish: (B, inputs, K) to (B, outputs, K)."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int, n_groups: int) -> None:
        super().__init__(
            nn.Conv1d(inputs, outputs, kernel_size, padding=kernel_size // 2),
            nn.GroupNorm(n_groups, outputs),
            nn.Mish(),
        )


class SinusoidalEmbedding(nn.Module):
    """(B,) to (B, size): sines, then cosines, of wavelengths from 2 pi to 20000 pi."""

    frequencies: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        half = size // 2
        frequencies = torch.exp(torch.arange(half) * (-math.log(10000) / (half - 1)))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, time: Tensor) -> Tensor:
        angles = time.unsqueeze(-1) * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1)
