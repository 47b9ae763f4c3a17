"""Random numbers of a sampling policy: every row of a batch draws from a generator of its own.

What a row draws is then a function of its seed alone, whatever else is in the batch and whichever device the network
is on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from aloha_kit.core import ContractError


class BatchGenerator:
    """One random generator for each of the B rows of a batch.

    Args:
        seeds: of the rows; each is whole numbers that together decide it, such as (rollout, inference).
    """

    def __init__(self, seeds: Sequence[Sequence[int]]) -> None:
        self._rows = [torch.Generator().manual_seed(_mixed(seed)) for seed in seeds]

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape) draws from N(0, 1), float32 on the CPU."""
        return torch.stack([torch.randn(shape, generator=row) for row in self._rows])

    def uniform(self, *shape: int) -> Tensor:
        """(B, *shape) draws from [0, 1), float32 on the CPU."""
        return torch.stack([torch.rand(shape, generator=row) for row in self._rows])


@dataclass(frozen=True)
class Draw:
    """One draw of a network's `predict`: its distribution, and its shape without the batch."""

    kind: Literal["normal", "uniform"]
    shape: tuple[int, ...]


class RecordingGenerator(BatchGenerator):
    """A generator that lists its draws in `draws`."""

    def __init__(self, seeds: Sequence[Sequence[int]]) -> None:
        super().__init__(seeds)
        self.draws: list[Draw] = []

    def normal(self, *shape: int) -> Tensor:
        self.draws.append(Draw("normal", shape))
        return super().normal(*shape)

    def uniform(self, *shape: int) -> Tensor:
        self.draws.append(Draw("uniform", shape))
        return super().uniform(*shape)


class GivenDraws(BatchGenerator):
    """A generator whose draws are given: with it `predict` is a function of tensors alone, which can be compiled.

    Args:
        draws: what `predict` draws, in its order.
        noise: (B, *shape) of each.
    """

    def __init__(self, draws: Sequence[Draw], noise: Sequence[Tensor]) -> None:
        self._draws, self._noise, self._next = draws, noise, 0

    def normal(self, *shape: int) -> Tensor:
        return self._take("normal", shape)

    def uniform(self, *shape: int) -> Tensor:
        return self._take("uniform", shape)

    def _take(self, kind: str, shape: tuple[int, ...]) -> Tensor:
        number = self._next
        if number >= len(self._draws) or (kind, shape) != (self._draws[number].kind, self._draws[number].shape):
            raise ContractError("predict draws other random numbers than at its first inference")
        self._next = number + 1
        return self._noise[number]


def sample_draws(generator: BatchGenerator, draws: Sequence[Draw]) -> list[Tensor]:
    """(B, *shape) of each draw, in order."""
    return [getattr(generator, draw.kind)(*draw.shape) for draw in draws]


def _mixed(seed: Sequence[int]) -> int:
    """63 bits in which neighbouring seeds have nothing in common."""
    return int(np.random.SeedSequence(list(seed)).generate_state(1, np.uint64)[0] >> np.uint64(1))
