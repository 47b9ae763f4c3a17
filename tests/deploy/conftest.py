"""A run whose policy is a tiny network."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch._dynamo  # noqa: F401 - before any OpenGL context, see aloha_kit.deploy.local_policy

from aloha_kit.core import Contract
from tests import tiny

CHUNK = 5
CONFIG = dataclasses.replace(tiny.ACT, chunk_size=CHUNK)
CONTRACT = tiny.contract(48, 64)


def save_checkpoint(folder: Path, contract: Contract = CONTRACT) -> Path:
    return tiny.save_checkpoint(folder, contract, CONFIG)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A run as training leaves it, with its best checkpoint."""
    save_checkpoint(tmp_path / "run" / "checkpoints" / "best")
    return tmp_path / "run"
