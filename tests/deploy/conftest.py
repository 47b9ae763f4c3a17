"""A network too small to be any good, with the statistics of arms that hover at the start pose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo  # before any OpenGL context, see aloha_kit.deploy.agent

from aloha_kit.config.policies import ActConfig
from aloha_kit.core import Contract, joint_names, START_ARM_POSE
from aloha_kit.data.stats import Statistics
from aloha_kit.policies import checkpoint
from aloha_kit.policies.build import build

CHUNK = 5
CONFIG = ActConfig(
    chunk_size=CHUNK,
    hidden_dim=16,
    dim_feedforward=16,
    nheads=2,
    enc_layers=1,
    latent_dim=4,
    backbone_layers=1,
    backbone_width=16,
    backbone_norm="group",
    pretrained_backbone=False,
)
CONTRACT = Contract(joint_names(), joint_names(), {"top": (48, 64)}, rate_hz=50.0)


def statistics() -> Statistics:
    start = np.tile([*START_ARM_POSE, 0.5], 2)
    rows = start + np.random.default_rng(0).normal(0, 0.05, (200, 14))
    return Statistics.of(qpos=rows, action=rows)


def save_checkpoint(folder: Path, contract: Contract = CONTRACT) -> Path:
    torch.manual_seed(0)
    network = build(CONFIG, contract, statistics())
    checkpoint.save(folder, network, CONFIG, statistics(), contract, {"step": 0})
    return folder


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A run as training leaves it, with its best checkpoint."""
    save_checkpoint(tmp_path / "run" / "checkpoints" / "best")
    return tmp_path / "run"
