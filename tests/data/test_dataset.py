"""The plain data set gives what the toolkit's own loader gives."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from aloha_kit.config.policies import ActConfig
from aloha_kit.data.camera_frames import DirectFrames
from aloha_kit.data.dataset import ChunkDataset
from aloha_kit.data.index import EpisodeTable, read_table
from aloha_kit.data.loader import Loader
from aloha_kit.formats import open_source
from aloha_kit.policies.normalise import Normaliser
from tests.storage.recording import record, Rig
from tests.synthetic import write_dataset

SIZES = {"top": (12, 16), "left_wrist": (12, 16)}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> EpisodeTable:
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, lengths=(9, 14, 6), cameras={"top": (24, 32), "left_wrist": (24, 32)}, images="jpeg")
    return read_table(open_source(folder))


def test_every_step_is_what_the_loader_gives(table: EpisodeTable) -> None:
    data = ChunkDataset(table, 5, image_size=(12, 16))
    assert len(data) == 29
    expected = Loader(table, DirectFrames(table, SIZES, workers=1), 5).batch(np.arange(29))
    found = next(iter(DataLoader(data, batch_size=29)))
    assert torch.equal(found["state"], expected["qpos"])
    assert torch.equal(found["action"], expected["actions"])
    assert torch.equal(found["is_pad"], expected["is_pad"])
    for camera in SIZES:
        assert torch.equal(found["image"][camera], expected["images"][camera])


def test_normalised_values_are_those_that_a_network_gets(table: EpisodeTable) -> None:
    raw, data = ChunkDataset(table, 5), ChunkDataset(table, 5, normalise=True)
    normaliser = Normaliser(ActConfig(), table.statistics(), ("qpos", "action"))
    for index in (0, 8, 28):
        before, after = raw[index], data[index]
        assert torch.equal(after["state"], normaliser("qpos", before["state"]))
        assert torch.equal(after["action"], normaliser("action", before["action"]))
        assert torch.equal(after["image"]["top"], before["image"]["top"] / 255)
        assert before["image"]["top"].shape == (3, 24, 32)


def test_history_privileged_state_and_sensors_are_what_the_loader_gives(tmp_path: Path) -> None:
    for i, steps in enumerate((9, 6)):
        record(tmp_path, steps, Rig(wrench=True), index=i)
    table = read_table(open_source(tmp_path), cameras=("cam_high",), sensors=("sensors/wrench",))
    data = ChunkDataset(table, 4, n_obs_steps=3)
    loader = Loader(table, DirectFrames(table, {"cam_high": (24, 32)}, workers=1), 4, n_obs_steps=3)
    expected, found = loader.batch(np.arange(15)), next(iter(DataLoader(data, batch_size=15)))
    assert found["state"].shape == (15, 3, 14)
    assert torch.equal(found["state"], expected["qpos"])
    assert torch.equal(found["image"]["cam_high"], expected["images"]["cam_high"])
    assert list(found["vectors"]) == ["environment_state", "sensors/wrench"]
    for name, values in found["vectors"].items():
        assert torch.equal(values, expected[name])  # type: ignore[literal-required]
    first, second = data[9], data[10]["vectors"]["sensors/wrench"]
    assert torch.equal(first["state"][0], first["state"][2]), "an episode's first observation is repeated before it"
    assert torch.equal(second[1], first["vectors"]["sensors/wrench"][2])
    assert not torch.equal(second[2], second[1])
    normalised, moments = ChunkDataset(table, 4, normalise=True)[3]["vectors"]["sensors/wrench"], table.statistics()
    wrench = moments["sensors/wrench"]
    by_hand = (table.vectors["sensors/wrench"][3] - wrench.mean) / np.maximum(wrench.std, 0.01)
    np.testing.assert_array_equal(normalised.numpy(), by_hand)
    assert list(ChunkDataset(table.without_privileged(), 4)[0]["vectors"]) == ["sensors/wrench"]


def test_some_episodes_from_random_steps_on(table: EpisodeTable) -> None:
    data, steps = ChunkDataset(table, 5, episodes=[2, 0], random_start=True), ChunkDataset(table, 5)
    assert len(data) == 2
    rows = [{row for row in range(29) if table.episode_of(np.array([row]))[0] == episode} for episode in (2, 0)]
    torch.manual_seed(0)
    for index, allowed in enumerate(rows):
        found = set()
        for _ in range(80):
            state = data[index]["state"]
            (row,) = [row for row in range(29) if torch.equal(torch.from_numpy(table.qpos[row]), state)]
            found.add(row)
        assert found == allowed  # every step of that episode, and no other
    torch.manual_seed(1)
    once = data[0]
    torch.manual_seed(1)
    assert torch.equal(once["action"], data[0]["action"])
    assert len(steps) == 29
    with pytest.raises(IndexError, match="sample 2 of 2"):
        data[2]


def test_processes_read_for_themselves(table: EpisodeTable, tmp_path: Path) -> None:
    data = ChunkDataset(table, 5)
    here = [data[index] for index in range(29)]
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy[20]["image"]["top"], here[20]["image"]["top"])
    there = list(DataLoader(data, batch_size=None, num_workers=2))
    assert all(torch.equal(a["image"]["top"], b["image"]["top"]) for a, b in zip(here, there, strict=True))
