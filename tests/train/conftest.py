"""Tiny networks gain nothing from a second thread, and lose much to it on a busy machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.synthetic import write_dataset
from tests.tiny import write_policy


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    """Flags of a run of a few steps; the data is in tmp_path/data, the run in tmp_path/run."""
    write_dataset(tmp_path / "data", lengths=(30, 41, 25), cameras={"top": (24, 32)})
    write_policy(tmp_path / "tiny.yaml")
    given = {
        "policy": tmp_path / "tiny.yaml",
        "dataset_dir": tmp_path / "data",
        "ckpt_dir": tmp_path / "run",
        "batch_size": 8,
        "num_steps": 20,
        "val_every": 10,
        "threads": 1,
        "device": "cpu",
    }
    return [word for key, value in given.items() for word in (f"--{key}", str(value))]
