"""A checkpoint is whole or not there, opens without its makers, and says what is wrong with it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from aloha_kit.config.policies import ActConfig
from aloha_kit.policies import checkpoint
from aloha_kit.policies.checkpoint import CheckpointError
from aloha_kit.policies.network import ChunkNetwork
from tests.policies.contract import batch_of, contract_of
from tests.policies.test_networks import act, network_of, TWO

CONTRACT = contract_of(TWO, environment=("cube_x",))


@pytest.fixture
def network() -> ChunkNetwork:
    torch.manual_seed(0)
    return network_of(act(), CONTRACT).eval()


@pytest.fixture
def folder(tmp_path: Path, network: ChunkNetwork) -> Path:
    checkpoint.save(tmp_path / "best", network, network.config, network.stats, CONTRACT, {"step": 7, "task": "cube"})
    return tmp_path / "best"


def test_all_that_is_needed_comes_back(folder: Path, network: ChunkNetwork) -> None:
    back = checkpoint.load(folder)
    assert not back.training
    assert (back.config, back.contract) == (network.config, network.contract)
    assert back.contract.environment_state_names == ()  # not read, so not asked of a rig
    for key, array in network.stats.to_arrays().items():
        assert (back.stats.to_arrays()[key] == array).all(), key
    batch = batch_of(CONTRACT, rows=5)
    with torch.inference_mode():
        assert torch.equal(back.predict(batch), network.predict(batch))
    assert checkpoint.notes(folder) == {"step": 7, "task": "cube"}
    assert (folder.stat().st_mode & 0o777) == 0o755


def test_pretrained_weights_are_not_fetched_to_be_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("nothing may be fetched")

    monkeypatch.setattr("torchvision.models.WeightsEnum.get_state_dict", no_network)
    config = ActConfig(chunk_size=2, hidden_dim=16, dim_feedforward=16, nheads=2, enc_layers=1)
    assert config.pretrained_backbone
    network = network_of(config, CONTRACT)
    checkpoint.save(tmp_path / "p", network, config, network.stats, CONTRACT)
    assert checkpoint.load(tmp_path / "p").config == config


def test_saving_again_replaces_and_leaves_nothing_behind(folder: Path, network: ChunkNetwork) -> None:
    with torch.no_grad():
        network.get_parameter("queries").add_(1)
    checkpoint.save(folder, network, network.config, network.stats, CONTRACT, write=lambda new: _touch(new / "more"))
    assert [p.name for p in folder.parent.iterdir()] == ["best"]
    assert (folder / "more").read_text() == "more"
    assert torch.equal(checkpoint.load(folder).get_parameter("queries"), network.get_parameter("queries"))


def test_a_save_that_fails_leaves_the_old_one(folder: Path, network: ChunkNetwork) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def full_disk(_: Path) -> None:
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        checkpoint.save(folder, network, network.config, network.stats, CONTRACT, {"step": 8}, write=full_disk)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert [p.name for p in folder.parent.iterdir()] == ["best"]


def test_an_interruption_between_the_two_renames_loses_nothing(folder: Path) -> None:
    folder.rename(folder.with_name(".best.old"))
    assert checkpoint.notes(folder)["step"] == 7
    assert checkpoint.load(folder).chunk_size == 5


def test_a_missing_folder_names_its_neighbours(folder: Path) -> None:
    expected = f"no checkpoint folder {folder.parent / 'bets'}. Did you mean 'best'? Known: best."
    with pytest.raises(CheckpointError, match=re.escape(expected)):
        checkpoint.load(folder.parent / "bets")


@pytest.mark.parametrize("name", checkpoint.FILES)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=re.escape(f"is no checkpoint: it lacks {name}; it holds ")):
        checkpoint.load(folder)


@pytest.mark.parametrize("name", checkpoint.FILES)
def test_a_damaged_file_is_named(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError) as raised:
        checkpoint.load(folder)
    assert str(folder) in str(raised.value)
    if name != "contract.json":
        assert name in str(raised.value)


def test_weights_of_another_network_are_told(folder: Path, tmp_path: Path, network: ChunkNetwork) -> None:
    other = network_of(act(hidden_dim=64), CONTRACT)
    checkpoint.save(tmp_path / "other", other, other.config, other.stats, CONTRACT)
    shutil.copy(tmp_path / "other" / checkpoint.WEIGHTS, folder)
    with pytest.raises(CheckpointError, match=r"action_head\.weight is \(14, 64\), not \(14, 32\); .*and \d+ more"):
        checkpoint.load(folder)


def test_an_unknown_setting_is_told(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "chunk_sise": 3}))
    with pytest.raises(CheckpointError, match=r"unknown key 'chunk_sise'\. Did you mean 'chunk_size'"):
        checkpoint.load(folder)
    (folder / "config.json").write_text(json.dumps({**config, "kind": "acct"}))
    with pytest.raises(CheckpointError, match=r"unknown kind 'acct'\. Did you mean 'act'\? Known: act, cnnmlp"):
        checkpoint.load(folder)


def _touch(file: Path) -> None:
    file.write_text(file.name)
