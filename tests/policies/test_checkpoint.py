"""A checkpoint is whole or not there, opens without its makers, and errors state what is wrong with it."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from aloha_kit.config.policies import ActConfig
from aloha_kit.policies import checkpoint
from aloha_kit.policies.intact import CheckpointError, CHECKSUMS
from aloha_kit.policies.network import ChunkNetwork
from aloha_kit.testing.policies import batch_of, contract_of
from tests.policies.test_networks import act, network_of, TWO

CONTRACT = contract_of(TWO, poses=("cube_x",))


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
    assert back.contract.privileged == ()  # not read, so not required of a robot
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
    assert str(folder / name) in str(raised.value)
    (folder / CHECKSUMS).unlink()  # an older checkpoint
    with pytest.raises(CheckpointError) as raised:
        checkpoint.load(folder)
    assert str(folder) in str(raised.value)


def test_weights_of_another_network_are_reported(folder: Path, tmp_path: Path, network: ChunkNetwork) -> None:
    (folder / CHECKSUMS).unlink()
    other = network_of(act(hidden_dim=64), CONTRACT)
    checkpoint.save(tmp_path / "other", other, other.config, other.stats, CONTRACT)
    shutil.copy(tmp_path / "other" / checkpoint.WEIGHTS, folder)
    with pytest.raises(CheckpointError, match=r"action_head\.weight is \(14, 64\), not \(14, 32\); .*and \d+ more"):
        checkpoint.load(folder)


def test_an_unknown_setting_is_reported(folder: Path) -> None:
    (folder / CHECKSUMS).unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "chunk_sise": 3}))
    with pytest.raises(CheckpointError, match=r"unknown key 'chunk_sise'\. Did you mean 'chunk_size'"):
        checkpoint.load(folder)
    (folder / "config.json").write_text(json.dumps({**config, "kind": "acct"}))
    with pytest.raises(CheckpointError, match=r"no 'acct' among the policies\. Did you mean 'act'\? Known: act, "):
        checkpoint.load(folder)


@pytest.mark.parametrize("seed", range(3))
def test_a_flipped_bit_in_any_file_is_found(folder: Path, seed: int) -> None:
    draw = random.Random(seed)
    for file in sorted(folder.iterdir()):
        whole = file.read_bytes()
        for _ in range(17):
            content, bit = bytearray(whole), draw.randrange(8 * len(whole))
            content[bit // 8] ^= 1 << bit % 8
            file.write_bytes(content)
            with pytest.raises(CheckpointError) as raised:
                checkpoint.load(folder)
            assert file.name in str(raised.value), f"bit {bit} of {file.name}"
        file.write_bytes(whole)
    assert checkpoint.load(folder).chunk_size == 5


def test_notes_are_compared_too(folder: Path) -> None:
    (folder / "extra.json").write_text((folder / "extra.json").read_text().replace("cube", "cubf"))
    message = "extra.json is not as it was saved, its SHA-256 differs: damaged, or edited. To use it as it is, remove"
    with pytest.raises(CheckpointError, match=re.escape(message)):
        checkpoint.notes(folder)
    (folder / CHECKSUMS).unlink()
    assert checkpoint.notes(folder)["task"] == "cubf"


def test_the_checksums_are_sha256(folder: Path) -> None:
    known = json.loads((folder / "checksums.json").read_text())
    files = [file for file in folder.iterdir() if file.name != "checksums.json"]
    own = json.dumps({key: value for key, value in known.items() if key != "checksums.json"}, sort_keys=True)
    assert known.pop("checksums.json") == hashlib.sha256(own.encode()).hexdigest()
    assert known == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_an_older_checkpoint_and_foreign_files_beside_it_load(folder: Path) -> None:
    (folder / "deploy.json").write_text("{}")
    assert checkpoint.load(folder).chunk_size == 5
    (folder / CHECKSUMS).unlink()
    assert checkpoint.load(folder).chunk_size == 5


def test_a_newer_format_is_refused_by_its_number(folder: Path) -> None:
    (folder / CHECKSUMS).unlink()
    config = json.loads((folder / "config.json").read_text())
    assert config["format"] == 1
    for number in (2, 0, "1", True):
        (folder / "config.json").write_text(json.dumps({**config, "format": number}))
        expected = f"the format is {number!r}, and this version of aloha_kit reads 1 to 1; update it"
        with pytest.raises(CheckpointError, match=re.escape(expected)):
            checkpoint.load(folder)


def test_files_that_were_removed_are_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert checkpoint.load(folder).chunk_size == 5
    assert caplog.messages == []
    (folder / "extra.json").unlink()
    assert checkpoint.load(folder).chunk_size == 5
    assert caplog.messages == [f"{folder} lacks extra.json, saved with the checkpoint"]
    (folder / CHECKSUMS).unlink()
    assert checkpoint.load(folder).chunk_size == 5
    assert caplog.messages[1:] == [f"{folder} has no {CHECKSUMS}: its files are loaded without comparing them"]
    config = json.loads((folder / "config.json").read_text())
    del config["format"]  # a checkpoint from before there was a number
    (folder / "config.json").write_text(json.dumps(config))
    assert checkpoint.load(folder).chunk_size == 5
    assert len(caplog.messages) == 2


def test_all_files_are_equally_readable(tmp_path: Path, network: ChunkNetwork) -> None:
    for mask, mode in ((0o022, 0o644), (0o027, 0o640), (0o002, 0o664)):
        before = os.umask(mask)
        try:
            checkpoint.save(tmp_path / str(mask), network, network.config, network.stats, CONTRACT)
        finally:
            os.umask(before)
        assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / str(mask)).iterdir()} == {mode}


def test_what_a_killed_save_left_is_swept_and_a_running_one_is_not(folder: Path, network: ChunkNetwork) -> None:
    dead, other, live = (folder.with_name(name) for name in (".best.new.abc", ".last.new.def", ".best.new.ghi"))
    for leftover in (dead, other, live):
        leftover.mkdir()
        (leftover / "model.safetensors").write_bytes(b"half")
    script = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 0), 2); print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script, live], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as saving:
        assert saving.stdout is not None
        saving.stdout.readline()
        checkpoint.save(folder, network, network.config, network.stats, CONTRACT)
        assert sorted(p.name for p in folder.parent.iterdir()) == [".best.new.ghi", ".last.new.def", "best"]
        checkpoint.sweep(folder.parent)
        assert sorted(p.name for p in folder.parent.iterdir()) == [".best.new.ghi", "best"]
        saving.communicate()
    checkpoint.sweep(folder.parent)
    assert [p.name for p in folder.parent.iterdir()] == ["best"]


def test_a_fifo_among_its_files_is_named(folder: Path) -> None:
    (folder / "extra.json").unlink()
    os.mkfifo(folder / "extra.json")
    with pytest.raises(CheckpointError, match=r"extra\.json is a FIFO"):
        checkpoint.notes(folder)
    assert checkpoint.load(folder).chunk_size == 5


def _touch(file: Path) -> None:
    file.write_text(file.name)


@pytest.mark.parametrize("name", ["config.json", "statistics.json", "contract.json"])
def test_mutated_json_is_refused_in_one_line_and_little_time(name: str, folder: Path) -> None:
    """Without checksums, as a checkpoint of an older version or one that somebody edited."""
    (folder / CHECKSUMS).unlink()
    whole = json.loads((folder / name).read_text())
    words = ["NaN", "Infinity", "1e999", "{}", "[]", "null", '"x"', "-1", "0", "[[1]]", str(10**12)]
    words += ["9" * 5000, "[" * 30_000]
    draw, refused = random.Random(3), 0
    for number in range(100):
        values = json.loads(json.dumps(whole))
        inner = draw.choice(
            [values, *(value for value in values.values() if isinstance(value, (dict, list)) and value)]
        )
        key = draw.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
        inner[key] = "@"
        text = json.dumps(values).replace('"@"', draw.choice(words))
        if number < len(words):
            text = words[number]
        elif number % 10 == 0:
            text = text[: draw.randrange(len(text))]
        (folder / name).write_text(text)
        try:
            checkpoint.load(folder)
        except CheckpointError as error:
            refused += 1
            assert "\n" not in str(error), text[:200]  # noqa: PT017 - some are still right
            assert len(str(error)) < 1500, text[:200]  # noqa: PT017
    assert refused > 60
