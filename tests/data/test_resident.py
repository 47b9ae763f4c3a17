"""The frame cache in a device's memory; the CPU stands for the device, or a pretended GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from aloha_kit.config.policies import ActConfig
from aloha_kit.config.training import TrainConfig
from aloha_kit.core import ConfigError
from aloha_kit.data import resident
from aloha_kit.data.batch import to_device
from aloha_kit.data.cache import cached_frames
from aloha_kit.data.camera_frames import DirectFrames, MappedFrames, RGB
from aloha_kit.data.index import read_table
from aloha_kit.data.loader import Loader
from aloha_kit.data.resident import free_memory, resident_frames, ResidentFrames
from aloha_kit.formats import open_source
from aloha_kit.train.training_data import open_frames
from tests.pretended_gpu import Crossings, GPU
from tests.synthetic import write_dataset

SIZES = {"top": (24, 32), "wrist": (12, 16)}


def test_resident_frames_are_the_recorded_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = write_dataset(tmp_path, lengths=(9, 14, 6), cameras={"top": (24, 32), "wrist": (24, 32)})
    monkeypatch.setattr(resident, "_BLOCK", 8)  # several pieces, the last one not full
    # the files hold rows in another order: their third episode was cached first
    cached_frames(
        read_table(open_source(sorted(tmp_path.glob("*.hdf5"))[2])), SIZES, tmp_path / "c", workers=1, progress=False
    )
    table = read_table(open_source(tmp_path))
    frames = resident_frames(table, SIZES, tmp_path / "c", "cpu", workers=2, progress=False)
    for file in (tmp_path / "c").glob("*.frames"):
        file.unlink()  # it is needed no more
    rows = np.array([28, 3, 3, 0, 17])
    images = frames.gather(rows)
    recorded = np.concatenate([episode.images["top"][:-1] for episode in written]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(images["top"].numpy(), recorded[rows])
    assert images["wrist"].shape == (5, 3, 12, 16)
    assert images["wrist"].dtype == torch.uint8


def test_what_is_on_the_device_is_not_copied_again(tmp_path: Path) -> None:
    write_dataset(tmp_path, lengths=(5,))
    table = read_table(open_source(tmp_path))
    frames = resident_frames(table, {"top": (24, 32)}, tmp_path / "c", "cpu", workers=1, progress=False)
    batch = Loader(table, frames, chunk_size=3).batch(np.array([4, 1]))
    moved = to_device(batch, "cpu")
    assert moved["images"]["top"].data_ptr() == batch["images"]["top"].data_ptr()


def test_frames_that_do_not_fit_are_refused_before_anything_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path, lengths=(9, 14), cameras={"top": (24, 32), "wrist": (24, 32)})
    never = replace(RGB, read=lambda *_: pytest.fail("decoded"))
    table = read_table(open_source(tmp_path))
    sizes = {"top": (4000, 3000), "wrist": (2000, 3000)}  # 23 steps of 3 · 18e6 bytes
    monkeypatch.setattr(resident, "free_memory", lambda _: 1_600_000_000)
    with pytest.raises(ConfigError) as error:
        resident_frames(table, sizes, tmp_path / "c", "cpu", workers=1, progress=False, kind=never)
    assert str(error.value) == (
        "the frames need 1.2 GB on cpu, where 1.6 GB are free and a quarter is left to the network. "
        "Use a smaller --image_size, fewer cameras, or --cache disk"
    )
    assert not (tmp_path / "c").exists()


def test_free_memory_is_what_the_system_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    assert free_memory("cpu") == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: {"cuda:1": (5, 9)}[device])
    assert free_memory("cuda:1") == 5


@pytest.mark.parametrize(
    ("choice", "kind"), [("disk", MappedFrames), ("device", ResidentFrames), ("none", DirectFrames)]
)
def test_training_takes_the_frames_it_is_given(tmp_path: Path, choice: Any, kind: type) -> None:
    written = write_dataset(tmp_path, lengths=(9, 14))
    network = ActConfig(image_size=(24, 32))
    frames = open_frames(read_table(open_source(tmp_path)), network, TrainConfig(cache=choice, workers=1), "cpu")
    assert type(frames) is kind
    expected = written[1].images["top"][3].transpose(2, 0, 1)
    np.testing.assert_array_equal(frames.gather(np.array([12]))["top"][0].numpy(), expected)


def test_on_a_gpu_only_row_numbers_are_sent_and_nobody_waits() -> None:
    with FakeTensorMode():
        frames = ResidentFrames({name: torch.zeros(50, 3, 24, 32, dtype=torch.uint8, device=GPU) for name in SIZES})
        with Crossings() as crossings:
            gathered = frames.gather(np.array([3, 1, 49]))
    assert {name: (str(images.device), *images.shape) for name, images in gathered.items()} == dict.fromkeys(
        SIZES, (GPU, 3, 3, 24, 32)
    )
    assert crossings.copies == [("data/resident.py", (3,), True)]
