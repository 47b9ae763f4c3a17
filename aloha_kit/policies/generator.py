"""Random numbers of a sampling policy: every row of a batch draws from a generator of its own.

What a row draws is then a function of its seed alone, whatever else is in the batch and whichever device the network
is on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


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


def _mixed(seed: Sequence[int]) -> int:
    """63 bits in which neighbouring seeds have nothing in common."""
    return int(np.random.SeedSequence(list(seed)).generate_state(1, np.uint64)[0] >> np.uint64(1))
