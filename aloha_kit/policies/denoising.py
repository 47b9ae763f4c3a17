"""Shared parts of the denoising families: the condition from observations, the denoising network, the clean chunk."""

from __future__ import annotations

import torch
from torch import nn, Tensor

from aloha_kit.config.denoising import DenoisingConfig
from aloha_kit.core import Contract
from aloha_kit.data.batch import Batch
from aloha_kit.data.stats import Statistics
from aloha_kit.policies.cnnmlp import SpatialSoftmax
from aloha_kit.policies.denoising_transformer import ConditionalTransformer
from aloha_kit.policies.network import DeployedErrorNetwork, masked_mean
from aloha_kit.policies.unet1d import ConditionalUnet1d


class DenoisingNetwork(DeployedErrorNetwork):
    """Keypoints of each camera and all vectors condition a U-Net or a transformer over the normalised chunk."""

    loss_columns: tuple[str, ...] = ("mse",)
    config: DenoisingConfig

    def __init__(self, config: DenoisingConfig, contract: Contract, stats: Statistics) -> None:
        super().__init__(config, contract, stats)
        width = self.state_dim + self.environment_dim
        self.keypoints = nn.ModuleList()
        if self.vision is not None:
            points = config.n_obs_steps * config.keypoints
            self.keypoints.extend(SpatialSoftmax(self.vision.channels, points) for _ in self.vision.cameras)
            width += 2 * points * len(self.keypoints)
        if config.denoiser == "unet":
            self.unet = ConditionalUnet1d(
                self.action_dim,
                width,
                down_dims=config.down_dims,
                time_embedding=config.time_embedding,
                kernel_size=config.kernel_size,
                n_groups=config.n_groups,
            )
        else:
            self.transformer = ConditionalTransformer(
                self.action_dim,
                width // config.n_obs_steps,
                chunk_size=config.chunk_size,
                steps=config.n_obs_steps,
                layers=config.transformer_layers,
                heads=config.transformer_heads,
                size=config.transformer_size,
                dropout=config.transformer_dropout,
            )

    @property
    def head(self) -> nn.Module:
        denoiser = self.unet if self.config.denoiser == "unet" else self.transformer
        return denoiser.head

    def denoise(self, chunk: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """The denoising network: noisy chunk (B, K, A), time (B,) in [0, 100] and `condition` to (B, K, A)."""
        denoiser = self.unet if self.config.denoiser == "unet" else self.transformer
        out: Tensor = denoiser(chunk, time, condition)
        return out

    def condition(self, batch: Batch) -> Tensor:
        """Condition from the observations: (B, C) for the U-Net, (B, n_obs_steps, C) for the transformer."""
        parts = [points(features) for points, features in zip(self.keypoints, self.feature_maps(batch), strict=True)]
        if self.config.denoiser == "transformer":
            tokens = [part.unflatten(1, (self.config.n_obs_steps, -1)) for part in parts]
            return torch.cat([*tokens, self.step_vectors(batch)], dim=-1)
        qpos, environment = self.states(batch)
        return torch.cat([*parts, qpos] if environment is None else [*parts, qpos, environment], dim=-1)

    def mean_square(self, error: Tensor, batch: Batch) -> Tensor:
        """Mean square of (B, K, A) over the rows that exist."""
        is_pad = batch["is_pad"][:, : self.chunk_size]
        return masked_mean(error.square(), is_pad, over="valid", valid_rows=batch.get("valid_rows"))
