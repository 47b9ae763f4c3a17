"""Embedding of a task's instruction, a feature of every policy network."""

from __future__ import annotations

import torch
from torch import nn, Tensor

from aloha_kit.core import ContractError
from aloha_kit.data.batch import Batch
from aloha_kit.data.instructions import Instructions


class InstructionEmbedding(nn.Module):
    """Trained projection of an instruction's frozen vector: (B, W) to (B, `size`).

    Of a table's vectors, which have one entry each that is not 0, it is a table of trained embeddings.

    Attributes:
        instructions: those of the training data, with their vectors.
    """

    def __init__(self, instructions: Instructions, size: int) -> None:
        super().__init__()
        self.instructions = instructions
        self.project = nn.Linear(instructions.width, size, bias=False)

    def forward(self, batch: Batch) -> Tensor:
        if "instruction" not in batch:
            raise ContractError("this policy reads an instruction, and none is given")
        width, given = self.instructions.width, batch["instruction"].shape[-1]
        if given != width:
            raise ContractError(
                "the vector of an instruction must have {width} entries, given {given}", width=width, given=given
            )
        out: Tensor = self.project(batch["instruction"].to(torch.float32))
        return out
