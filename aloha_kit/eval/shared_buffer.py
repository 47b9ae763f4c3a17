"""Shared memory of the processes: each environment's newest observation, and the chunk predicted from it."""

from __future__ import annotations

import ctypes
import math
import multiprocessing
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.core import Contract, Observation
from aloha_kit.core.inputs import read, shape_of

Chunk = npt.NDArray[np.float32]


class SharedBuffer:
    """One row an environment of what a policy of `contract` reads, `n_obs_steps` of them, and of chunks (K, A).

    A row belongs to its environment until that sends a request, then to the network until it responds; nothing else
    guards it. The memory has no name, so none is left behind however the processes end. It can be handed to a
    process only when that is started.
    """

    def __init__(self, rows: int, contract: Contract, chunk_size: int, n_obs_steps: int = 1) -> None:
        self.rows, self.contract, self.n_obs_steps = rows, contract, n_obs_steps
        self._entries: dict[str, tuple[tuple[int, ...], str]] = {
            feature.name: (shape_of(feature, n_obs_steps), feature.dtype) for feature in contract.inputs
        }
        self._inputs = tuple(self._entries)
        self._entries["seed"] = ((2,), "int64")
        self._entries["chunk"] = ((chunk_size, len(contract.action_names)), "float32")
        context = multiprocessing.get_context("spawn")
        self._memory = {
            name: context.RawArray(ctypes.c_uint8, rows * math.prod(shape) * np.dtype(kind).itemsize)
            for name, (shape, kind) in self._entries.items()
        }

    def put_observation(self, row: int, observation: Observation, seed: tuple[int, int] = (0, 0)) -> None:
        """Write what the policy reads of an observation, and the seed of its inference.

        Raises:
            ContractError: see `core.inputs.read`.
        """
        for name, values in read(observation, self.contract, self.n_obs_steps).items():
            self._table(name)[row] = values
        self._table("seed")[row] = seed

    def seeds(self, rows: Sequence[int]) -> list[list[int]]:
        """Seeds of the inferences of some rows."""
        found: list[list[int]] = self._table("seed")[list(rows)].tolist()
        return found

    def read(self, rows: Sequence[int]) -> dict[str, npt.NDArray[Any]]:
        """{input: (len(rows), …)} a copy of some rows."""
        return {name: self._table(name)[list(rows)] for name in self._inputs}

    def put_chunk(self, row: int, chunk: Chunk) -> None:
        """Write the chunk for a row's observation."""
        self._table("chunk")[row] = chunk

    def chunk(self, row: int) -> Chunk:
        """A copy of a row's chunk."""
        copy: Chunk = self._table("chunk")[row].copy()
        return copy

    def _table(self, name: str) -> npt.NDArray[Any]:
        shape, kind = self._entries[name]
        return np.frombuffer(memoryview(self._memory[name]), np.dtype(kind)).reshape(self.rows, *shape)
