"""What every policy network is: raw units in, raw units out, losses by name."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn, Tensor

from aloha_kit.config.policies import PolicyConfig
from aloha_kit.core import Contract, ContractError
from aloha_kit.data.batch import Batch
from aloha_kit.data.stats import Statistics
from aloha_kit.policies.backbone import Vision
from aloha_kit.policies.normalise import Normaliser


class ChunkNetwork(nn.Module, abc.ABC):
    """Predicts a chunk of K actions from one observation.

    It carries all that is needed to use it: configuration, contract and statistics.

    Attributes:
        config: the family's configuration.
        contract: names and sizes of what is read and predicted, without what the network does not look at.
        stats: the data's statistics.
        assumed: what a published checkpoint does not tell and was taken from elsewhere; None where all is told.
    """

    config: PolicyConfig
    vision: Vision | None
    assumed: Mapping[str, Any] | None = None

    def __init__(self, config: PolicyConfig, contract: Contract, stats: Statistics) -> None:
        super().__init__()
        self.config = config
        self.contract = narrow(contract, config)
        self.stats = stats
        self.state_dim, self.action_dim = len(contract.state_names), len(contract.action_names)
        self.environment_dim = len(self.contract.environment_state_names)
        keys = {"qpos": self.state_dim, "action": self.action_dim}
        if self.environment_dim:
            keys["environment_state"] = self.environment_dim
        for key, size in keys.items():
            if stats[key].size != size:
                raise ContractError(f"statistics of '{key}' have {stats[key].size} entries, the contract has {size}")
        self.normaliser = Normaliser(config, stats, tuple(keys))
        self.vision = None
        if config.use_images:
            self.vision = Vision(config, self.contract.cameras)

    @property
    def chunk_size(self) -> int:
        """K, the actions that `predict` gives."""
        return self.config.chunk_size

    @property
    @abc.abstractmethod
    def head(self) -> nn.Module:
        """The layer that gives the normalised actions; it keeps fp32 where the rest of a query is narrower."""

    @abc.abstractmethod
    def losses(self, batch: Batch, sample_latent: bool = True) -> dict[str, Tensor]:
        """Scalars by name; `loss` is the one to minimise, the others are detached parts of it.

        Args:
            batch: with `actions` (B, K', A) and `is_pad` (B, K'); K' >= K, later rows are ignored.
            sample_latent: False evaluates the network as it is deployed: no look at the actions it predicts.

        Raises:
            ContractError: an entry is missing or its size is not the contract's.
        """

    @abc.abstractmethod
    def predict(self, batch: Batch) -> Tensor:
        """(B, K, A) actions in raw units; `batch` needs no actions.

        Raises:
            ContractError: an entry is missing or its size is not the contract's.
        """

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of the image backbones, which are often given a learning rate of their own."""
        return iter(()) if self.vision is None else self.vision.backbones.parameters()

    def rename_cameras(self, names: Mapping[str, str]) -> None:
        """Read cameras by a rig's names, {the policy's: the rig's}.

        Raises:
            ContractError: a name that is none of the policy's cameras, or one for two cameras.
        """
        self.contract = self.contract.renamed(names)
        if self.vision is not None:
            self.vision.rename(names)

    def states(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Normalised qpos (B, S) and environment state (B, E) or None; sizes checked."""
        qpos = self.normaliser("qpos", _sized("qpos", batch["qpos"], self.state_dim))
        if not self.environment_dim:
            return qpos, None
        if "environment_state" not in batch:
            raise ContractError("this policy reads environment_state, and the observation has none (simulation only)")
        environment = _sized("environment_state", batch["environment_state"], self.environment_dim)
        return qpos, self.normaliser("environment_state", environment)

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Normalised actions (B, K, A) and `is_pad` (B, K), cut to the chunk; sizes checked."""
        actions = _sized("actions", batch["actions"], self.action_dim)
        if actions.shape[1] < self.chunk_size:
            raise ContractError(f"actions have {actions.shape[1]} rows, the chunk needs {self.chunk_size}")
        return self.normaliser("action", actions[:, : self.chunk_size]), batch["is_pad"][:, : self.chunk_size]

    def feature_maps(self, batch: Batch) -> list[Tensor]:
        """One (B, channels, h, w) a camera; none where the network has no eyes."""
        return [] if self.vision is None else self.vision(batch["images"])


def narrow(contract: Contract, config: PolicyConfig) -> Contract:
    """`contract` without the cameras or the environment state that the network will not look at.

    Cameras come sorted by name: networks number them, and a mapping's order does not survive every file.

    Raises:
        ContractError: the network wants cameras or environment state, and there are none.
    """
    if config.use_images and not contract.cameras:
        raise ContractError("the policy wants cameras and the data has none; set use_images to false")
    if config.use_environment_state and not contract.environment_state_names:
        raise ContractError("the policy wants environment_state and the data has none (simulation records it)")
    return dataclasses.replace(
        contract,
        cameras=dict(sorted(contract.cameras.items())) if config.use_images else {},
        environment_state_names=contract.environment_state_names if config.use_environment_state else (),
    )


def masked_mean(error: Tensor, is_pad: Tensor, *, over: str, valid_rows: Tensor | None = None) -> Tensor:
    """Mean of (B, K, A) errors over the rows that exist, or over all with padded rows as zero.

    `valid_rows` is that of a piece of a batch (see `Batch`): the mean over equal pieces is then the mean of the whole.
    """
    valid = (~is_pad).unsqueeze(-1).to(error.dtype)
    total = (error * valid).sum()
    if over == "all":
        return total / error.numel()
    count = valid.sum() if valid_rows is None else len(error) * valid_rows
    return total / (count * error.shape[-1]).clamp(min=1)


def _sized(name: str, value: Tensor, size: int) -> Tensor:
    if value.shape[-1] != size:
        raise ContractError(f"{name} must have {size} entries, given shape {tuple(value.shape)}")
    return value.to(torch.float32)
