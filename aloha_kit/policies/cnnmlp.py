"""CNNMLP: images through a ResNet, features and state through a perceptron. The baseline of the ACT paper."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn, Tensor

from aloha_kit.config.policies import CnnMlpConfig
from aloha_kit.core import Contract, ContractError
from aloha_kit.data.batch import Batch
from aloha_kit.data.stats import Statistics
from aloha_kit.policies.generator import BatchGenerator
from aloha_kit.policies.network import ChunkNetwork, masked_mean


class SpatialSoftmax(nn.Module):
    """Expected image coordinates of each of P learned features: (B, C, h, w) to (B, 2 P) in [-1, 1].

    Levine et al., 2016: a softmax over the map weighs the coordinates.
    """

    def __init__(self, channels: int, points: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, points, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        # fp32 under autocast too, and no matrix product, which it would narrow: bf16 resolves 256 positions in an image
        weights = self.project(features).flatten(2).softmax(-1, torch.float32).unflatten(-1, features.shape[-2:])
        rows, columns = (torch.linspace(-1, 1, n, device=features.device) for n in features.shape[-2:])
        return torch.stack([(weights.sum(3) * rows).sum(-1), (weights.sum(2) * columns).sum(-1)], dim=-1).flatten(1)


class Convolutions(nn.Sequential):
    """The reference's three 5x5 convolutions, nothing between them: (B, C, h, w) to (B, 32 · (h - 12) · (w - 12))."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.Conv2d(channels, 128, 5), nn.Conv2d(128, 64, 5), nn.Conv2d(64, 32, 5))

    def forward(self, features: Tensor) -> Tensor:
        for convolution in self:
            features = convolution(features)
        return features.contiguous().flatten(1)


class CnnMlpNetwork(ChunkNetwork):
    """CNNMLP network as described in the module; its settings are in `CnnMlpConfig`."""

    config: CnnMlpConfig

    def __init__(self, config: CnnMlpConfig, contract: Contract, stats: Statistics) -> None:
        super().__init__(config, contract, stats)
        self.loss_columns = (config.error,)
        width = self.state_dim + self.environment_dim
        self.heads = nn.ModuleList()
        if self.vision is not None:
            for name, (height, columns) in zip(self.vision.cameras, self.vision.map_sizes, strict=True):
                if config.features == "spatial_softmax":
                    self.heads.append(SpatialSoftmax(self.vision.channels, config.keypoints))
                    width += 2 * config.keypoints
                    continue
                if min(height, columns) < 13:
                    raise ContractError(
                        "camera '{name}' gives a {height}x{width} feature map, and the three 5x5 convolutions need "
                        "13x13 or more (480x640 images give 15x20); use features spatial_softmax",
                        name=name,
                        height=height,
                        width=columns,
                    )
                self.heads.append(Convolutions(self.vision.channels))
                width += 32 * (height - 12) * (columns - 12)
        sizes = [width] + [config.hidden_dim] * config.hidden_layers
        hidden = [module for a, b in pairwise(sizes) for module in (nn.Linear(a, b), nn.ReLU())]
        self.mlp = nn.Sequential(*hidden, nn.Linear(sizes[-1], config.chunk_size * self.action_dim))

    @property
    def head(self) -> nn.Module:
        return self.mlp[-1]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`loss` = `mse` or `l1` over the rows that exist."""
        actions, is_pad = self.targets(batch)
        measure = F.mse_loss if self.config.error == "mse" else F.l1_loss
        error = measure(self._forward(batch), actions, reduction="none")
        loss = masked_mean(error, is_pad, over="valid", valid_rows=batch.get("valid_rows"))
        return {"loss": loss, self.config.error: loss.detach()}

    def predict(self, batch: Batch, generator: BatchGenerator | None = None) -> Tensor:
        return self.normaliser.undo("action", self._forward(batch))

    def _forward(self, batch: Batch) -> Tensor:
        """Normalised (B, K, A)."""
        qpos, environment = self.states(batch)
        parts = [head(features) for head, features in zip(self.heads, self.feature_maps(batch), strict=True)]
        parts.append(qpos)
        if environment is not None:
            parts.append(environment)
        out: Tensor = self.mlp(torch.cat(parts, dim=-1)).unflatten(-1, (self.config.chunk_size, self.action_dim))
        return out
