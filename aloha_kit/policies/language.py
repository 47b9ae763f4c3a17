"""Instruction of a policy that reads one, beside the observations of each batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.core import ContractError, UsageError
from aloha_kit.policies.network import ChunkNetwork


def set_instruction(network: ChunkNetwork, given: str | None, policy: object, default: str | None = None) -> None:
    """Set the instruction of a network's inferences: what is given (--instruction), else the default, where there is
    one and the network reads instructions.

    Args:
        policy: what messages call it.
        default: the task's, which other policies do not read.

    Raises:
        UsageError: one is given, and the network reads none.
        ContractError, ConfigError: see `Instructions.vector`.
    """
    text = default if given is None else given
    if network.language is not None and text is not None:
        network.instruction = network.language.instructions.vector(text)
    elif given is not None:
        raise UsageError("{policy} reads no instruction (no text_encoder), given --instruction", policy=policy)


def require_instruction(network: ChunkNetwork, text: str) -> None:
    """Raise where a network cannot read an instruction, see `Instructions.vector`; one that reads none takes any."""
    if network.language is not None:
        network.language.instructions.vector(text)


def with_instruction(
    network: ChunkNetwork, arrays: Mapping[str, npt.NDArray[Any]], vector: npt.NDArray[np.float32] | None = None
) -> Mapping[str, npt.NDArray[Any]]:
    """{input: (B, …)} with the vector of the instruction, (B, W), where one is read: by default the network's own.

    Raises:
        ContractError: the network reads an instruction and there is none.
    """
    if network.language is None:
        return arrays
    vector = network.instruction if vector is None else vector
    if vector is None:
        raise ContractError("the policy reads an instruction, and none is given: name one with --instruction")
    return {**arrays, "instruction": np.tile(vector, (len(arrays["qpos"]), 1))}


def with_known_instructions(
    network: ChunkNetwork, arrays: Mapping[str, npt.NDArray[Any]]
) -> Mapping[str, npt.NDArray[Any]]:
    """As `with_instruction`, of the training's instructions in turn, for batches that only try a network."""
    if network.language is None:
        return arrays
    known, rows = list(network.language.instructions.vectors.values()), len(arrays["qpos"])
    return {**arrays, "instruction": np.stack([known[row % len(known)] for row in range(rows)])}
