"""ACT with random weights and a random batch for it, for benchmarks that want no data."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from aloha_kit.config.policies import load_policy
from aloha_kit.core import Contract, joint_names
from aloha_kit.data.batch import Batch, to_device
from aloha_kit.data.stats import Statistics
from aloha_kit.policies.build import build
from aloha_kit.policies.network import ChunkNetwork

Sizes = Mapping[str, tuple[int, int]]


def act(cameras: Sizes, policy: str = "act") -> ChunkNetwork:
    """The network of configs/policies/`policy`.yaml for ALOHA's joints and these cameras."""
    rows = np.random.default_rng(0).standard_normal((1000, 14)).astype(np.float32)
    contract = Contract.of(joint_names(), joint_names(), dict(cameras), 50.0)
    return build(load_policy(policy), contract, Statistics.of(qpos=rows, action=rows), pretrained=False)


def batch_of(cameras: Sizes, size: int, device: str, chunk: int = 100) -> Batch:
    """`size` samples, images uint8 as training gets them."""
    batch = Batch(
        qpos=torch.randn(size, 14),
        images={name: torch.randint(0, 256, (size, 3, *hw), dtype=torch.uint8) for name, hw in cameras.items()},
        actions=torch.randn(size, chunk, 14),
        is_pad=torch.zeros(size, chunk, dtype=torch.bool),
    )
    return to_device(batch, device)
