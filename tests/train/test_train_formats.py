"""Training straight from data sets of other formats, without a conversion to HDF5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aloha_kit.convert.__main__ import main as convert
from aloha_kit.formats import open_source
from aloha_kit.train.__main__ import main as train
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
