"""Several data sets in one training: sampled by weights, differences named, edits obeyed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aloha_kit.policies import checkpoint
from aloha_kit.train.__main__ import main as train
from tests.commands import failure
from tests.episode.command import main as episode
from tests.synthetic import write_dataset
from tests.tiny import write_policy


def flags(folder: Path, *more: str) -> list[str]:
    write_policy(folder / "tiny.yaml")
    words = ["--policy", str(folder / "tiny.yaml"), "--ckpt_dir", str(folder / "run"), "--batch_size", "4"]
    words += ["--num_steps", "2", "--threads", "1", "--device", "cpu", "--cache", "none", "--no_preflight"]
    return [*words, "--dataset_dir", str(folder / "a"), str(folder / "b"), *more]


def test_two_data_sets_of_two_sizes_train_once_they_are_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = write_dataset(tmp_path / "a", (9, 12), {"top": (24, 32)})
    other = write_dataset(tmp_path / "b", (8, 7), {"cam_high": (48, 64)})
    weights = ["--weights", "3", "1"]
    refused = failure(train, flags(tmp_path, *weights))
    assert "camera 'top' is missing; there are: cam_high" in refused
    assert "`episode rename-camera` and `resize` make cameras alike" in refused
    for words in (["rename-camera", "cam_high", "top"], ["resize", "--size", "24", "32"], ["drop", "1"]):
        assert episode([words[0], str(tmp_path / "b"), *words[1:]]) == 0
    capsys.readouterr()
    train(flags(tmp_path, *weights))
    error = capsys.readouterr().err
    assert "1 dropped, camera cam_high renamed to top, top resized to 24x32" in error
    assert "samples: 75 % of" in error
    network = checkpoint.load(tmp_path / "run/checkpoints/last")
    rows = np.concatenate([made[0].action, made[1].action, other[0].action])
    np.testing.assert_allclose(network.stats["action"].mean, rows.mean(axis=0), atol=1e-6)
    train(["--resume", str(tmp_path / "run"), "--num_steps", "3"])
    assert "samples: 75 % of" in capsys.readouterr().err


def test_another_rate_is_named_and_weights_need_their_data_sets(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a", (9,), {"top": (24, 32)})
    write_dataset(tmp_path / "b", (8,), {"top": (24, 32)}, rate_hz=25.0)
    assert "rate: 50 Hz against 25 Hz" in failure(train, flags(tmp_path, "--weights", "1", "1"))
    assert "given 3 for 2" in failure(train, flags(tmp_path, "--weights", "1", "1", "1"))
    assert "--weights must be above 0, given 1 0" in failure(train, flags(tmp_path, "--weights", "1", "0"))
