"""A network behind an observation: what deployment and evaluation call."""

from __future__ import annotations

from collections.abc import Callable

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

    Args:
        ask: the network made ready, see `engine.prepare`; by default the network as it is.
    """

    def __init__(
        self, network: ChunkNetwork, device: str = "cpu", ask: Callable[[Batch], torch.Tensor] | None = None
    ) -> None:
        self.network = network.to(device).eval()
        self.device = device
        self._ask = ask or network.predict
        self._pinned: dict[str, torch.Tensor] = {}

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
            chunk = self._ask(self.batch(observation))[0]
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
        return self._moved(key, torch.from_numpy(array.copy())[None])

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
        return self._moved(name, torch.from_numpy(np.ascontiguousarray(image))[None]).permute(0, 3, 1, 2)

    def _moved(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """On the device; to a GPU by way of memory that it reads by itself, so that transfers overlap.

        That memory may be filled anew once the chunk is here, since by then everything before it is done.
        """
        if not self.device.startswith("cuda"):
            return tensor.to(self.device)
        if name not in self._pinned:
            self._pinned[name] = torch.empty_like(tensor, pin_memory=True)
        return self._pinned[name].copy_(tensor).to(self.device, non_blocking=True)
