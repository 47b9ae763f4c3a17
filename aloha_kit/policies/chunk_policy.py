"""Chunk policy: a network applied to observations, as deployment and evaluation call it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from aloha_kit.core import Contract, Observation
from aloha_kit.core.inputs import read
from aloha_kit.core.seeds import InferenceSeeds
from aloha_kit.data.batch import Batch
from aloha_kit.policies.collate import Collator
from aloha_kit.policies.goal import with_goal
from aloha_kit.policies.language import with_instruction
from aloha_kit.policies.network import ChunkNetwork, Predict


class ChunkPolicy:
    """Predicts a chunk of actions from one observation.

    A source for `execution.ChunkExecutor` and `execution.TemporalEnsemble`, which turn it into a
    `Policy`. Runs without gradients, in evaluation mode.

    Args:
        predict: the network made ready, see `engine.prepare`; by default the network as it is.
        seed: of the first rollout, for a policy that samples; each reset begins the next one.
    """

    def __init__(
        self, network: ChunkNetwork, device: str = "cpu", predict: Predict | None = None, seed: int = 0
    ) -> None:
        self.network = network.to(device).eval()
        self.device = device
        self._predict = predict or network.predict
        self._collate = Collator(device)
        self._instruction: npt.NDArray[np.float32] | None = None
        self._seeds, self._given = InferenceSeeds(seed), None  # type: InferenceSeeds, tuple[int, int] | None

    @property
    def contract(self) -> Contract:
        """Contract of the training data; compare it with the rig's before the arms move."""
        return self.network.contract

    @property
    def chunk_size(self) -> int:
        """K, the rows of a chunk."""
        return self.network.chunk_size

    def reset(self) -> None:
        """Begin the next rollout; a history comes with each observation."""
        self._seeds.start()

    def seed(self, rollout: int, inference: int) -> None:
        """Seed of the next inference, where a client counts them."""
        self._given = rollout, inference

    def instruct(self, text: str | None) -> None:
        """Set the instruction of the inferences that follow, where the policy reads one; None is the network's own.

        Raises:
            ContractError, ConfigError: see `Instructions.vector`.
        """
        language = self.network.language
        self._instruction = None if text is None or language is None else language.instructions.vector(text)

    def predict_chunk(self, observation: Observation) -> npt.NDArray[np.float32]:
        """(K, A) actions from this observation on, in raw units.

        Raises:
            ContractError: the observation lacks something or its size is not the contract's; names the entry.
        """
        seed, self._given = self._given or self._seeds.take(), None
        with torch.inference_mode():
            chunk = self._predict(self.batch(observation), self.network.generator([seed]))[0]
        return np.asarray(chunk.float().cpu().numpy(), np.float32)

    def batch(self, observation: Observation) -> Batch:
        """One observation, with its history where the network reads one, as a batch of one on the network's device."""
        arrays = read(observation, self.contract, self.network.config.n_obs_steps)
        # reshaped, since array[None] has a stride of 0, for which a compiled network would be compiled again
        single = {name: array.reshape(1, *array.shape) for name, array in arrays.items()}
        return self._collate(with_instruction(self.network, with_goal(self.network, single), self._instruction))
