"""What the denoising families share: the observation as a condition of the U-Net, and the chunk that is denoised."""

from __future__ import annotations

import torch
from torch import nn, Tensor

from aloha_kit.config.denoising import DenoisingConfig
from aloha_kit.core import Contract
from aloha_kit.data.batch import Batch
from aloha_kit.data.stats import Statistics
from aloha_kit.policies.cnnmlp import SpatialSoftmax
from aloha_kit.policies.generator import BatchGenerator
from aloha_kit.policies.metrics import Mean
from aloha_kit.policies.network import ChunkNetwork, masked_mean
from aloha_kit.policies.unet1d import ConditionalUnet1d


class DenoisingNetwork(ChunkNetwork):
    """Keypoints of each camera and all vectors condition a 1-D U-Net over the normalised chunk."""

    loss_columns: tuple[str, ...] = ("mse",)
    selects = "val_deployed"  # the loss is an error at random noise levels, which says little of the chunk
    config: DenoisingConfig

    def __init__(self, config: DenoisingConfig, contract: Contract, stats: Statistics) -> None:
        super().__init__(config, contract, stats)
        width = self.state_dim + self.environment_dim
        self.keypoints = nn.ModuleList()
        if self.vision is not None:
            points = config.n_obs_steps * config.keypoints
            self.keypoints.extend(SpatialSoftmax(self.vision.channels, points) for _ in self.vision.cameras)
            width += 2 * points * len(self.keypoints)
        self.unet = ConditionalUnet1d(
            self.action_dim,
            width,
            down_dims=config.down_dims,
            time_embedding=config.time_embedding,
            kernel_size=config.kernel_size,
            n_groups=config.n_groups,
        )

    @property
    def head(self) -> nn.Module:
        return self.unet.head

    @property
    def validation_columns(self) -> tuple[str, ...]:
        loss, *errors = super().validation_columns
        return loss, self.selects, *errors

    def validation(self, batch: Batch, generator: BatchGenerator | None = None) -> dict[str, Mean]:
        """Adds `val_deployed`, the mean absolute error of the normalised chunk that `predict` gives."""
        predicted = self.predict(batch, generator)
        actions, is_pad = self.targets(batch)
        error = (self.normaliser("action", predicted) - actions).abs()
        count = len(actions)
        return {
            "val_loss": Mean(self.losses(batch)["loss"], count),
            self.selects: Mean(masked_mean(error, is_pad, over="valid", valid_rows=batch.get("valid_rows")), count),
            **self.errors(predicted, batch),
        }

    def condition(self, batch: Batch) -> Tensor:
        """(B, C) of the observations."""
        qpos, environment = self.states(batch)
        parts = [points(features) for points, features in zip(self.keypoints, self.feature_maps(batch), strict=True)]
        parts.append(qpos)
        if environment is not None:
            parts.append(environment)
        return torch.cat(parts, dim=-1)

    def clean_chunk(self, batch: Batch) -> Tensor:
        """Normalised actions (B, K, A); rows past the episode's end repeat its last action.

        The convolutions read those rows, so they are neither zeros nor whatever stands in the batch.
        """
        actions, is_pad = self.targets(batch)
        last = (~is_pad).sum(1).clamp(min=1) - 1
        rows = torch.arange(actions.shape[1], device=actions.device).minimum(last.unsqueeze(1))
        return actions.gather(1, rows.unsqueeze(-1).expand_as(actions))

    def mean_square(self, error: Tensor, batch: Batch) -> Tensor:
        """Mean square of (B, K, A) over the rows that exist."""
        is_pad = batch["is_pad"][:, : self.chunk_size]
        return masked_mean(error.square(), is_pad, over="valid", valid_rows=batch.get("valid_rows"))
