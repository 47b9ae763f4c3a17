"""RLDS: read element by element by TensorFlow Datasets itself, and read by us without it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest

from aloha_kit.convert.__main__ import main as convert
from aloha_kit.core import EpisodeError
from aloha_kit.episode import Episode
from aloha_kit.formats import format_of, open_source, ReadOptions
from aloha_kit.formats.rlds_export import RldsExporter
from aloha_kit.formats.tfrecord import FileBytes, read_message, records, write_record
from aloha_kit.storage.contract_file import given_contract
from aloha_kit.testing.exporters import check_exporter
from aloha_kit.testing.sources import check_source
from tests.commands import failure
from tests.formats.round_trip import (
    convert_interrupted,
    InterruptedOnce,
    LENGTHS,
    require_depth,
    require_same,
    write_depth,
    write_ours,
)
from tests.synthetic import write_dataset

CAMERAS = {"top": (24, 32), "left_wrist": (16, 24)}
PEER = Path(os.environ.get("ALOHA_KIT_PEERS", Path.home() / ".cache/aloha_kit/peers")) / "tfds"
needs_tfds = pytest.mark.skipif(
    not any(PEER.glob("lib/*/site-packages/tensorflow_datasets")),
    reason=f"no TensorFlow Datasets in {PEER}; make it with `uv venv --python 3.12 {PEER}` and "
    f"`uv pip install -p {PEER} tensorflow-datasets==4.9.10 tensorflow-cpu==2.21.0`",
)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ours(tmp_path_factory.mktemp("data"), CAMERAS)


@pytest.fixture(scope="module")
def data(ours: Path) -> Path:
    made = ours.with_name("rlds")
    convert([str(ours), str(made), "--format", "rlds"])
    return made


@needs_tfds
def test_tensorflow_datasets_reads_every_element(ours: Path, data: Path, tmp_path: Path) -> None:
    script = Path(__file__).with_name("rlds_reads.py")
    command = [str(PEER / "bin/python"), str(script), str(data / "aloha_kit/1.0.0"), str(tmp_path / "read.npz")]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, str(tmp_path)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    read = dict(np.load(tmp_path / "read.npz"))
    assert read["count"] == 3
    for number, length in enumerate(LENGTHS):
        with Episode.open(ours / f"episode_{number}.hdf5") as episode:
            assert episode.base_action is not None
            expected = {
                "action": np.concatenate([episode.action, episode.base_action], axis=1),
                "reward": episode.reward,
                "observation/state": episode.qpos[:-1],
                "privileged/environment_state": episode.vectors["environment_state"][:-1],
                "stamps/images.top": episode.stamps["images/top"][:-1],
                "stamps/command": episode.stamps["command"],
                "observation/top": np.stack([episode.image("top", i) for i in range(length)]),
                "observation/left_wrist": np.stack([episode.image("left_wrist", i) for i in range(length)]),
                "is_first": np.arange(length) == 0,
                "is_last": np.arange(length) == length - 1,
                "is_terminal": np.arange(length) == length - 1,
                "discount": np.ones(length, np.float32),
                "language_instruction": np.full(length, b"synthetic"),
            }
            for key, values in expected.items():
                assert np.array_equal(read[f"{number}/steps/{key}"], values), key
            described = json.loads(bytes(read[f"{number}/episode_metadata/aloha_kit"]))
            assert (described["id"], described["success"]) == (episode.id, True)
    source = open_source(tmp_path / "demo", options=ReadOptions())  # that TensorFlow Datasets wrote
    check_source(source)
    assert (len(source), source.validation) == (3, ("val_000000",))
    with closing(source.episode(2)) as episode:
        rng = np.random.default_rng(2)
        steps = [(rng.random(7).astype(np.float32), rng.random(7).astype(np.float32)) for _ in range(6)]
        assert np.array_equal(episode.qpos, [state for state, _ in steps])
        assert np.array_equal(episode.action, [action for _, action in steps])
        assert episode.vectors["sensors/count"].tolist() == [[i] for i in range(6)]
        assert np.array_equal(episode.image("image", 5), np.full((20, 28, 3), 52, np.uint8))
        assert episode.reward is not None
        assert episode.reward.tolist() == [0, 0, 0, 0, 0, 1]
        assert episode.attrs["instruction"] == "open the drawer"


def test_the_way_back(ours: Path, data: Path) -> None:
    assert format_of(data) == "rlds"
    source = open_source(data)
    check_source(source)
    assert source.unused == ""
    for number, length in enumerate(LENGTHS):
        with Episode.open(ours / f"episode_{number}.hdf5") as old, closing(source.episode(number)) as new:
            require_same(new, old)
            assert new.name == f"train_{number:06d}"
            for i in (length - 1, 0):
                assert np.array_equal(new.image("left_wrist", i), old.image("left_wrist", i))


def test_a_record_follows_the_published_framing(tmp_path: Path) -> None:
    numbers = np.array([0, 127, 128, -1, 1_700_000_000_066_666_666, -(1 << 63)], np.int64)
    floats = np.array([[1.5, -2.0]], np.float32)
    (tmp_path / "list").write_bytes(b"\x0a\x03abc\x0a\x00")
    write_record(tmp_path / "r", {"n": numbers, "f": floats, "b": [b"x" * 300], "p": tmp_path / "list"})
    raw = (tmp_path / "r").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    assert len(raw) == 8 + 4 + length + 4
    for part, stated in ((raw[:8], raw[8:12]), (raw[12:-4], raw[-4:])):
        crc = google_crc32c.value(part)
        assert int.from_bytes(stated, "little") == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32
    # "f": entry of 17 bytes: key, then a feature with a packed list of two floats
    assert b"\x0a\x01f\x12\x0c\x12\x0a\x0a\x08" + floats.tobytes() in raw
    with closing(FileBytes(tmp_path / "r")) as file:
        found: dict[str, Any] = read_message(file, records(tmp_path / "r")[0], "r")
        assert np.array_equal(found["n"], numbers)
        assert np.array_equal(found["f"], floats[0])
        assert [file[slice(*place)] for place in found["b"] + found["p"]] == [b"x" * 300, b"abc", b""]


class Interrupted(InterruptedOnce, RldsExporter):
    def half_written(self) -> Path:
        return self.parts / "000001.tfrecord"


def test_exporter_and_interruption(
    ours: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path / "ours", (6, 5))
    (tmp_path / "made").mkdir()
    monkeypatch.setattr("aloha_kit.formats.rlds_export._SHARD", 1)  # an episode a shard
    made = check_exporter(RldsExporter, open_source(tmp_path / "ours"), tmp_path / "made")
    assert (made / "aloha_kit/1.0.0/aloha_kit-train.tfrecord-00001-of-00002").is_file()
    check_source(open_source(made))
    monkeypatch.undo()
    convert_interrupted(Interrupted, ours, tmp_path / "out", capsys)
    for file in (data / "aloha_kit/1.0.0").iterdir():
        assert (tmp_path / "out" / file.relative_to(data)).read_bytes() == file.read_bytes(), file


def test_depth_comes_back_exactly(tmp_path: Path) -> None:
    written = write_depth(tmp_path / "ours")
    (tmp_path / "made").mkdir()
    made = check_exporter(RldsExporter, open_source(tmp_path / "ours"), tmp_path / "made")
    features = json.loads((made / "aloha_kit" / "1.0.0" / "features.json").read_text())["featuresDict"]["features"]
    steps = features["steps"]["sequence"]["feature"]["featuresDict"]["features"]
    image = steps["observation"]["featuresDict"]["features"]["top_depth"]["image"]
    assert (image["dtype"], image["shape"]["dimensions"]) == ("uint16", ["20", "28", "1"])
    source = open_source(made)
    check_source(source)
    assert source.unused == ""
    require_depth(source, written, rows_after=0)


def foreign(data: Path, target: Path) -> Path:
    """A copy as others' data sets are, without what is ours."""
    shutil.copytree(data / "aloha_kit", target / "demo")
    (target / "demo/1.0.0/aloha_kit.json").unlink()
    return target / "demo"


def test_a_data_set_of_others_needs_a_contract(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "ours", (6, 5))
    convert([str(tmp_path / "ours"), str(tmp_path / "rlds"), "--format", "rlds"])
    place = foreign(tmp_path / "rlds", tmp_path / "in")
    flags = [str(place), str(tmp_path / "out"), "--format", "hdf5"]
    assert "does not record names and units of its numbers: give --rig NAME" in failure(convert, flags)
    assert "rate_hz: 10.0" in capsys.readouterr().out
    source = open_source(place, options=ReadOptions(given_contract(None, "sim")))
    assert "features that are not read: steps/" in source.unused
    assert "steps/privileged/environment_state" in source.unused
    with closing(source.episode(1)) as episode, Episode.open(tmp_path / "ours/episode_1.hdf5") as old:
        assert (episode.contract.units["joints"], episode.rate_hz) == ("rad", 10)
        assert np.array_equal(episode.action, old.action)
        assert np.array_equal(episode.image("top", 4), old.image("top", 4))
        assert "sensors/environment_state" not in episode.vectors  # privileged: it is no observation
    convert([*flags, "--rig", "sim"])


def edited(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / name
        file.write_text(json.dumps(change(json.loads(file.read_text()))))

    return edit


def shard(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / "aloha_kit-train.tfrecord-00000-of-00001"
        file.write_bytes(change(file.read_bytes()))

    return damage


def of_second(data: bytes, change: int) -> bytes:
    """A byte within the second record changed."""
    second = 16 + int.from_bytes(data[:8], "little")
    at = second + change
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def without_action(features: Any) -> Any:
    steps = features["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]
    del steps["action"]
    return features


def with_splits(info: Any) -> Any:
    info["splits"][0]["shardLengths"] = ["4"]
    return info


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (shard(lambda data: of_second(data, 4000)), "episode 1 of train is damaged: its checksum differs"),
        (shard(lambda data: of_second(data, 2)), "record 1 has a damaged length, at byte"),
        (shard(lambda data: data[:-300]), "record 2 is cut, at byte"),
        (edited("dataset_info.json", with_splits), "has 3 episodes, dataset_info.json states 4"),
        (edited("dataset_info.json", lambda i: {**i, "fileFormat": "array_record"}), "file format array_record"),
        (edited("dataset_info.json", lambda i: {**i, "name": "other"}), "lacks other-train.tfrecord-00000-of-00001"),
        (edited("features.json", without_action), "has no vector steps/action; its features: "),
        (lambda folder: (folder / "features.json").write_text("{"), "features.json cannot be read"),
    ],
)
def test_damage_is_one_line(data: Path, tmp_path: Path, damage: Callable[[Path], None], words: str) -> None:
    place = foreign(data, tmp_path)
    damage(place / "1.0.0")
    flags = [str(place), str(tmp_path / "out"), "--from_format", "rlds", "--format", "act"]
    (tmp_path / "c.yaml").write_text(json.dumps(CONTRACT))
    message = failure(convert, [*flags, "--contract", str(tmp_path / "c.yaml")])
    assert words in message
    assert "\n" not in message.strip()
    assert not (tmp_path / "out").exists()


CONTRACT = {
    "state_names": [f"s{i}" for i in range(14)],
    "action_names": [*(f"s{i}" for i in range(14)), "base_linear", "base_angular"],
    "rate_hz": 50,
}


def test_places_that_are_none(data: Path, tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match="no RLDS data set in 'nowhere'; expected features"):
        open_source("nowhere", kind="rlds")
    for name in ("a", "b"):
        shutil.copytree(data / "aloha_kit", tmp_path / name)
    with pytest.raises(EpisodeError, match="holds several data sets, give one of them: a, b"):
        open_source(tmp_path)
    write_dataset(tmp_path, (5,))
    assert format_of(tmp_path) == "hdf5"  # of the folder itself, whatever is in folders below
