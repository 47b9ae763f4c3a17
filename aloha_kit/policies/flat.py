"""A network as a function of tensors alone, for the converters of other runtimes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn, Tensor

from aloha_kit.data.batch import Batch
from aloha_kit.policies.collate import assembled, disassembled
from aloha_kit.policies.generator import BatchGenerator, Draw, GivenDraws, sample_draws
from aloha_kit.policies.network import ChunkNetwork


class FlatNetwork(nn.Module):
    """A network of tensors instead of a mapping, in the order of `names`: vectors, images (B, …, H, W, 3) as they lie
    in memory, depth (B, …, H, W), then random numbers.

    Args:
        example: a batch with the inputs that it has.
        draws: random numbers that `predict` draws.
    """

    def __init__(self, network: ChunkNetwork, example: Batch, draws: Sequence[Draw]) -> None:
        super().__init__()
        self.network, self.draws = network, draws
        self.features = list(disassembled(example))

    @property
    def names(self) -> list[str]:
        """Names of the inputs: those of the contract's features, then `noise_0`, …"""
        return [*self.features, *(f"noise_{i}" for i in range(len(self.draws)))]

    def arguments(self, batch: Batch, generator: BatchGenerator | None) -> tuple[Tensor, ...]:
        """The inputs of a batch."""
        noise = sample_draws(generator or self.network.default_generator(batch), self.draws)
        return *disassembled(batch).values(), *noise

    def forward(self, *tensors: Tensor) -> Tensor:
        inputs, noise = tensors[: len(self.features)], tensors[len(self.features) :]
        batch = assembled(dict(zip(self.features, inputs, strict=True)))
        return self.network.predict(batch, GivenDraws(self.draws, noise) if self.draws else None)
