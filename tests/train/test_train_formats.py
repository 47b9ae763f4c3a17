"""Training straight from data sets of other formats, without a conversion to HDF5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from aloha_kit.convert.__main__ import main as convert
from aloha_kit.formats import open_source
from aloha_kit.train.__main__ import main as train
from tests.formats import bags
from tests.synthetic import write_dataset
from tests.tiny import write_policy


@pytest.mark.parametrize("kind", ["zarr", "mp4", "rlds", "lerobot", "mcap"])
def test_two_steps_from_a_format(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "ours", (9, 12, 7), {"top": (24, 32)})
    convert([str(tmp_path / "ours"), str(tmp_path / "data"), "--format", kind])
    write_policy(tmp_path / "tiny.yaml")
    places = ["--dataset_dir", str(tmp_path / "data"), "--ckpt_dir", str(tmp_path / "run")]
    sizes = ["--num_steps", "2", "--batch_size", "2", "--threads", "1", "--device", "cpu"]
    train(["--policy", str(tmp_path / "tiny.yaml"), *places, *sizes])
    assert (tmp_path / "run/checkpoints/best").is_dir()

    def refuse(*_: Any) -> None:
        raise AssertionError("a name needs no open episode")

    source = open_source(tmp_path / "data")
    monkeypatch.setattr(type(source), "open", refuse)
    assert len({source.name(number) for number in range(3)}) == 3


def test_two_steps_from_bags(tmp_path: Path) -> None:
    (tmp_path / "bags").mkdir()
    task = bags.write_task(tmp_path)
    for number, seconds in enumerate((1.0, 1.4)):
        bags.write_ros1(tmp_path / f"bags/session_{number}.bag", bags.session(seconds))
    convert([str(tmp_path / "bags"), str(tmp_path / "ours"), "--task", str(task)])
    write_policy(tmp_path / "tiny.yaml")
    for name in ("bags", "ours"):
        run = tmp_path / f"run_{name}"
        places = ["--dataset_dir", str(tmp_path / name), "--ckpt_dir", str(run), "--task", str(task)]
        sizes = ["--num_steps", "2", "--batch_size", "2", "--threads", "1", "--device", "cpu", "--val_fraction", "0.5"]
        train(["--policy", str(tmp_path / "tiny.yaml"), *places, *sizes, "--eval_every", "0"])
    weights = [load_file(tmp_path / f"run_{name}/checkpoints/last/model.safetensors") for name in ("bags", "ours")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
