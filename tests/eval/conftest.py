"""A network too small to be any good, with the statistics of arms that hover at the start pose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo  # before any OpenGL context: the tests deploy in this process

from aloha_kit.core import Contract, joint_names, START_ARM_POSE
from aloha_kit.data.stats import Statistics
from aloha_kit.policies import checkpoint
from aloha_kit.policies.build import build
from aloha_kit.policies.network import ChunkNetwork
from tests.train.tiny import ACT

CONTRACT = Contract(joint_names(), joint_names(), {"top": (32, 48)}, rate_hz=50.0)


def statistics() -> Statistics:
    start = np.tile([*START_ARM_POSE, 0.5], 2)
    rows = start + np.random.default_rng(0).normal(0, 0.05, (200, 14))
    return Statistics.of(qpos=rows, action=rows)


def network(contract: Contract = CONTRACT) -> ChunkNetwork:
    torch.manual_seed(0)
    return build(ACT, contract, statistics()).eval()


def save_checkpoint(folder: Path, contract: Contract = CONTRACT, task: str = "sim_transfer_cube") -> Path:
    checkpoint.save(folder, network(contract), ACT, statistics(), contract, {"task": task})
    return folder


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A run as training leaves it, with its best checkpoint."""
    save_checkpoint(tmp_path / "run" / "checkpoints" / "best")
    return tmp_path / "run"
