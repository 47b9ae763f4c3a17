"""A run whose policy is a tiny network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch._dynamo  # noqa: F401 - before any OpenGL context: the tests deploy in this process

from aloha_kit.core import Contract
from aloha_kit.policies.network import ChunkNetwork
from tests import tiny

CONTRACT = tiny.contract()


def network(contract: Contract = CONTRACT) -> ChunkNetwork:
    return tiny.network(contract).eval()


def save_checkpoint(folder: Path, contract: Contract = CONTRACT, task: str = "sim_transfer_cube") -> Path:
    return tiny.save_checkpoint(folder, contract, task=task)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A run as training leaves it, with its best checkpoint."""
    save_checkpoint(tmp_path / "run" / "checkpoints" / "best")
    return tmp_path / "run"
