"""Base of networks that read one feature vector for each step of observation."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn, Tensor

from aloha_kit.config.policies import PolicyConfig
from aloha_kit.core import Contract
from aloha_kit.data.batch import Batch
from aloha_kit.data.stats import Statistics
from aloha_kit.policies.cnnmlp import SpatialSoftmax
from aloha_kit.policies.network import DeployedErrorNetwork


class StepFeatureNetwork(DeployedErrorNetwork):
    """Keypoints of each camera and all vectors, for each of the `window` observations (first the goal).

    Attributes:
        step_dim: D, the size of a step's features.
    """

    def __init__(self, config: PolicyConfig, contract: Contract, stats: Statistics, keypoints: int) -> None:
        super().__init__(config, contract, stats)
        self.step_dim = (self.state_dim + self.environment_dim) // config.window
        self.keypoints = nn.ModuleList()
        if self.vision is not None:
            channels = self.vision.channels // config.window
            self.keypoints.extend(SpatialSoftmax(channels, keypoints) for _ in self.vision.cameras)
            self.step_dim += 2 * keypoints * len(self.keypoints)

    def step_features(self, batch: Batch) -> Tensor:
        """(B, window, D), a goal first, then oldest first."""
        steps = self.config.window
        parts = [self.step_vectors(batch)]
        for points, maps in zip(self.keypoints, self.feature_maps(batch), strict=True):
            single = maps.reshape(-1, maps.shape[1] // steps, *maps.shape[2:])
            parts.append(points(single).reshape(maps.shape[0], steps, -1))
        return torch.cat(parts, dim=-1)


def perceptron(*widths: int) -> nn.Sequential:
    """Linear layers of these widths, input first, each followed by a ReLU; nothing for a single width."""
    return nn.Sequential(*(layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())))
