"""Interfaces of policies (operator, script, recording or network) and of sources of action chunks."""

from __future__ import annotations

from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from aloha_kit.core.features import Observation

Action: TypeAlias = npt.NDArray[np.float32]
"""(A,) normalised command in the contract's order; 14 on ALOHA: joints (rad) and gripper (0 closed, 1 open) of the left
arm, then of the right one. A mobile base adds two: linear (m/s) and angular (rad/s) velocity."""


class Policy(Protocol):
    """Chooses the next action. The same protocol serves people, scripts, recordings and networks."""

    def reset(self) -> None:
        """Forget the previous episode."""

    def act(self, observation: Observation) -> Action:
        """Return the command for the present step.

        Raises:
            StopEpisode: the episode is over (an operator's key, the end of a recording).
        """
        ...


class ChunkSource(Protocol):
    """Predicts the next K actions: a network, or a client of a remote one."""

    def reset(self) -> None:
        """Begin a new episode."""

    def predict_chunk(self, observation: Observation) -> npt.NDArray[np.float32]:
        """(K, A), the same K and A every time; row i is for i steps from now."""
        ...
