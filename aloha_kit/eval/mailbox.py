"""Memory that the processes share: an environment's newest observation, and the chunk that answers it."""

from __future__ import annotations

import ctypes
import math
import multiprocessing
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.core import Contract, Observation

Chunk = npt.NDArray[np.float32]


class Mailbox:
    """One row an environment of what `contract` lets a policy see, and of chunks (K, A).

    A row belongs to its environment until that says "asked", then to the network until it says "answered"; nothing
    else guards it. The memory has no name, so none is left behind however the processes end. It can be handed to a
    process only when that is started.
    """

    def __init__(self, rows: int, contract: Contract, chunk_size: int) -> None:
        self.rows = rows
        self.cameras = tuple(contract.cameras)
        self._entries: dict[str, tuple[tuple[int, ...], str]] = {
            "qpos": ((len(contract.state_names),), "float32"),
            "chunk": ((chunk_size, len(contract.action_names)), "float32"),
            **{f"images/{name}": ((*size, 3), "uint8") for name, size in contract.cameras.items()},
        }
        if contract.environment_state_names:
            self._entries["environment_state"] = ((len(contract.environment_state_names),), "float32")
        context = multiprocessing.get_context("spawn")
        self._memory = {
            name: context.RawArray(ctypes.c_uint8, rows * math.prod(shape) * np.dtype(kind).itemsize)
            for name, (shape, kind) in self._entries.items()
        }

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def post(self, row: int, observation: Observation) -> None:
        """Put down what the policy may see of an observation."""
        self._table("qpos")[row] = observation["qpos"]
        for name in self.cameras:
            self._table(f"images/{name}")[row] = observation["images"][name]
        if "environment_state" in self:
            self._table("environment_state")[row] = observation["environment_state"]

    def read(self, name: str, rows: Sequence[int]) -> npt.NDArray[Any]:
        """(len(rows), …) a copy of one entry of some rows."""
        return self._table(name)[list(rows)]

    def answer(self, row: int, chunk: Chunk) -> None:
        """Put down the chunk for a row's observation."""
        self._table("chunk")[row] = chunk

    def chunk(self, row: int) -> Chunk:
        """A copy of the chunk that was put down."""
        copy: Chunk = self._table("chunk")[row].copy()
        return copy

    def _table(self, name: str) -> npt.NDArray[Any]:
        shape, kind = self._entries[name]
        return np.frombuffer(memoryview(self._memory[name]), np.dtype(kind)).reshape(self.rows, *shape)
