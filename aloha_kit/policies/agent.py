"""A network behind an observation: what deployment and evaluation call."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from aloha_kit.core import Contract, ContractError, Observation
from aloha_kit.data.batch import Batch
from aloha_kit.policies.network import ChunkNetwork


class ChunkPolicy:
    """Gives the chunk of actions that a network predicts from one observation.

    A source for `execution.ChunkExecutor` and `execution.TemporalEnsemble`, which turn it into a
    `Policy`. Runs without gradients, in evaluation mode.
    """

    def __init__(self, network: ChunkNetwork, device: str = "cpu") -> None:
        self.network = network.to(device).eval()
        self.device = device

    @property
    def contract(self) -> Contract:
        """What the network was trained on; compare it with the rig's before the arms move."""
        return self.network.contract

    @property
    def chunk_size(self) -> int:
        """K, the rows of a chunk."""
        return self.network.chunk_size

    def reset(self) -> None:
        """Nothing is remembered between observations."""

    def predict_chunk(self, observation: Observation) -> npt.NDArray[np.float32]:
        """(K, A) actions from this observation on, in raw units.

        Raises:
            ContractError: the observation lacks something or its size is not the contract's; says what.
        """
        with torch.inference_mode():
            chunk = self.network.predict(self.batch(observation))[0]
        return np.asarray(chunk.float().cpu().numpy(), np.float32)

    def batch(self, observation: Observation) -> Batch:
        """One observation as a batch of one, on the network's device."""
        contract = self.contract
        qpos = self._vector(observation, "qpos", contract.state_names)
        images = {name: self._picture(observation, name, size) for name, size in contract.cameras.items()}
        batch = Batch(qpos=qpos, images=images)
        if contract.environment_state_names:
            batch["environment_state"] = self._vector(
                observation, "environment_state", contract.environment_state_names
            )
        return batch

    def _vector(self, observation: Observation, key: str, names: tuple[str, ...]) -> torch.Tensor:
        values = observation.get(key)
        if values is None:
            raise ContractError(f"the observation has no '{key}'; it has: {', '.join(observation)}")
        array = np.asarray(values, np.float32)
        if array.shape != (len(names),):
            raise ContractError(
                f"{key} must have {len(names)} entries ({names[0]} … {names[-1]}), given shape {array.shape}"
            )
        return torch.from_numpy(array.copy()).unsqueeze(0).to(self.device)

    def _picture(self, observation: Observation, name: str, size: tuple[int, int]) -> torch.Tensor:
        images = observation.get("images", {})
        if name not in images:
            raise ContractError(f"camera '{name}' is missing; there are: {', '.join(images) or '(none)'}")
        image = images[name]
        if image.shape != (*size, 3) or image.dtype != np.uint8:
            raise ContractError(
                f"camera '{name}' must be {(*size, 3)} uint8 as in training, given {image.shape} {image.dtype}"
            )
        # to the device as bytes, a quarter of what floats would be
        return torch.from_numpy(np.ascontiguousarray(image)).to(self.device).permute(2, 0, 1).unsqueeze(0)
