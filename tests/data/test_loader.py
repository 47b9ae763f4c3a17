from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aloha_kit.data.cache import cached_frames
from aloha_kit.data.index import read_table
from aloha_kit.data.loader import Loader
from aloha_kit.formats import open_source
from tests.synthetic import write_dataset


def test_a_batch_holds_what_was_recorded(tmp_path: Path) -> None:
    written = write_dataset(tmp_path, lengths=(9, 14))
    table = read_table(open_source(tmp_path))
    frames = cached_frames(table, {"top": (24, 32)}, tmp_path / "c", workers=2, progress=False)
    batch = Loader(table, frames, chunk_size=6).batch(np.array([20, 4]))
    second = written[1]  # row 20 is its step 11, of 14
    np.testing.assert_array_equal(batch["qpos"][0].numpy(), second.qpos[11])
    np.testing.assert_array_equal(batch["environment_state"][0].numpy(), second.environment_state[11])
    np.testing.assert_array_equal(batch["actions"][0, :3].numpy(), second.action[11:])
    assert batch["actions"][0, 3:].abs().sum() == 0
    assert batch["is_pad"].tolist() == [[False] * 3 + [True] * 3, [False] * 5 + [True]]
    np.testing.assert_array_equal(batch["images"]["top"][1].numpy(), written[0].images["top"][4].transpose(2, 0, 1))
    assert batch["actions"].dtype == batch["qpos"].dtype == torch.float32


def test_a_history_ends_with_the_row_and_repeats_an_episodes_first(tmp_path: Path) -> None:
    written = write_dataset(tmp_path, lengths=(9, 14))
    table = read_table(open_source(tmp_path))
    frames = cached_frames(table, {"top": (24, 32)}, tmp_path / "c", workers=2, progress=False)
    batch = Loader(table, frames, chunk_size=6, n_obs_steps=3).batch(np.array([10, 4, 9]))
    wanted = [(1, [0, 0, 1]), (0, [2, 3, 4]), (1, [0, 0, 0])]  # row 9 begins the second episode
    for i, (episode, steps) in enumerate(wanted):
        np.testing.assert_array_equal(batch["qpos"][i].numpy(), written[episode].qpos[steps])
        images = written[episode].images["top"][steps].transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(batch["images"]["top"][i].numpy(), images)
    assert batch["environment_state"].shape == (3, 3, 3)
    assert batch["actions"].shape == (3, 6, 14)


def test_a_gpu_is_handed_page_locked_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors are moved there, images gathered there: once copied, they are not copied again."""
    write_dataset(tmp_path, lengths=(9,))
    locked: list[int] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: locked.append(self.data_ptr()) or self)

    class Recorder:
        def gather(self, rows: np.ndarray, *, pin: bool = False) -> dict[str, torch.Tensor]:
            assert pin
            return {"top": torch.zeros(len(rows), 3, 24, 32, dtype=torch.uint8)}

    batch = Loader(read_table(open_source(tmp_path)), Recorder(), chunk_size=2, pin=True).batch(np.array([0, 3]))
    vectors = {batch[key].data_ptr() for key in ("qpos", "actions", "is_pad", "environment_state")}
    assert set(locked) == vectors


def test_no_cameras_no_images(tmp_path: Path) -> None:
    write_dataset(tmp_path, lengths=(4,), cameras={})
    table = read_table(open_source(tmp_path))
    assert Loader(table, None, chunk_size=2).batch(np.array([0]))["images"] == {}
