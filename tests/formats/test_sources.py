"""Every source of episodes keeps the contract, and a class of one's own is one: it trains and is replayed."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shutil
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aloha_kit.convert.__main__ import main as convert
from aloha_kit.core import ConfigError, Contract, EpisodeError, joint_names
from aloha_kit.core.source import EpisodeData, EpisodeSource, Image, RecordedEpisode
from aloha_kit.data.camera_frames import DirectFrames
from aloha_kit.data.index import read_table
from aloha_kit.formats import open_source, ReadOptions
from aloha_kit.policies import checkpoint
from aloha_kit.replay.__main__ import main as replay
from aloha_kit.testing.sources import check_source
from aloha_kit.train.__main__ import main as train
from tests.storage.foreign import cobot_magic
from tests.storage.recording import Rig
from tests.synthetic import make, Synthetic, write, write_dataset
from tests.tiny import write_policy

SIZE = (24, 32)
OWN = f"{__name__}:MemorySource"


class MemorySource(EpisodeSource):
    """Three episodes in memory, of a robot of three joints."""

    def __init__(self, places: Sequence[str | Path], options: ReadOptions) -> None:
        options.refuse("memory", "contract", "jpeg_order", "rename")
        self.place = Path(places[0])
        self.made = [make(steps, {"top": SIZE}, seed=steps, joints=3) for steps in (30, 41, 25)][: options.first]
        names = joint_names()[:3]
        self.contract = Contract.of(names, names, {"top": SIZE}, rate_hz=50.0)

    def __len__(self) -> int:
        return len(self.made)

    def identity(self, number: int) -> str:
        return hashlib.sha256(self.made[number].action.tobytes()).hexdigest()

    def open(self, number: int) -> RecordedEpisode:
        made = self.made[number]

        def image(camera: str, i: int, at_least: tuple[int, int] | None) -> Image:
            if camera not in made.images or not 0 <= i < len(made.images[camera]):
                raise EpisodeError(f"part_{number} has no image {i} of camera '{camera}'")
            return made.images[camera][i]

        return EpisodeData(
            name=f"part_{number}.mem",
            contract=self.contract,
            action=made.action,
            qpos=made.qpos,
            read_image=image,
            attrs={"task": "three_joints"},
        )


def test_episodes_in_memory_keep_the_contract() -> None:
    check_source(open_source("nowhere", kind=OWN))


@pytest.mark.parametrize("images", ["raw", "jpeg"])
def test_a_folder_of_hdf5_files_keeps_the_contract(tmp_path: Path, images: Any) -> None:
    write_dataset(tmp_path, lengths=(9, 5), images=images)
    check_source(open_source(tmp_path))


class Broken(MemorySource):
    """Says one identity of all episodes."""

    def identity(self, number: int) -> str:
        return "always the same"


class Unrefusing(MemorySource):
    """Gives images that are not there."""

    def open(self, number: int) -> RecordedEpisode:
        return dataclasses.replace(super().open(number), read_image=lambda *_: np.zeros((*SIZE, 3), np.uint8))


class OneRowShort(MemorySource):
    """Has fewer observations than actions."""

    def open(self, number: int) -> RecordedEpisode:
        episode = super().open(number)
        return dataclasses.replace(episode, qpos=episode.qpos[:-2])


class Empty(MemorySource):
    """Gives no episode."""

    def open(self, number: int) -> RecordedEpisode:
        return None  # type: ignore[return-value]


def test_a_format_that_opens_no_episode_is_named() -> None:
    words = r"Empty.open\(0\) of .* must give a RecordedEpisode, gave None"
    with pytest.raises(ConfigError, match=words):
        read_table(Empty(["x"], ReadOptions()))
    with pytest.raises(ConfigError, match=words):
        check_source(Empty(["x"], ReadOptions()))


@pytest.mark.parametrize(
    ("kind", "reported"),
    [
        (Broken, "two episodes have one identity"),
        (Unrefusing, "must raise EpisodeError"),
        (OneRowShort, "29 observations for 30 actions"),
    ],
)
def test_the_contract_finds_a_source_that_breaks_it(kind: type[MemorySource], reported: str) -> None:
    with pytest.raises(AssertionError, match=reported):
        check_source(kind(["x"], ReadOptions()))


def test_own_episodes_train_and_their_images_are_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALOHA_KIT_CACHE", str(tmp_path / "caches"))
    monkeypatch.chdir(tmp_path)
    write_policy(tmp_path / "tiny.yaml")
    flags = ["--policy", "tiny.yaml", "--format", OWN, "--dataset_dir", "parts", "--batch_size", "8"]
    flags += ["--num_steps", "6", "--val_every", "3", "--threads", "1", "--device", "cpu"]
    train([*flags, "--ckpt_dir", "run"])
    assert "2 episodes to train on, 1 to validate; 96 steps; cameras: top" in capsys.readouterr().err
    network = checkpoint.load(tmp_path / "run" / "checkpoints" / "last")
    made = MemorySource(["x"], ReadOptions()).made
    expected = np.concatenate([episode.action for episode in made]).mean(axis=0)
    np.testing.assert_allclose(network.stats["action"].mean, expected, atol=1e-6)
    (frames,) = (tmp_path / "caches").glob("parts-*/top_24x32.0.frames")
    assert frames.stat().st_size == 96 * 3 * 24 * 32
    # a run goes on with the values it was started with, the format among them
    train(["--resume", "run", "--num_steps", "9"])
    assert checkpoint.notes(tmp_path / "run" / "checkpoints" / "last")["step"] == 9


def test_own_episodes_are_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replay([str(tmp_path / "parts"), "--format", OWN, "--output", str(tmp_path / "out"), "--no_rrd"])
    printed = capsys.readouterr().out
    assert "30 actions, 31 observations, 50 Hz" in printed
    names = {f"part_{i}" for i in range(3)}
    assert {path.stem for path in (tmp_path / "out").glob("*.mp4")} == names
    assert {path.name for path in (tmp_path / "out").glob("*_joints.png")} == {f"{name}_joints.png" for name in names}


def test_a_table_holds_what_the_source_gives() -> None:
    source = open_source("x", kind=OWN)
    table = read_table(source)
    made: list[Synthetic] = source.made  # type: ignore[attr-defined]
    assert table.names == ("part_0.mem", "part_1.mem", "part_2.mem")
    np.testing.assert_array_equal(table.qpos, np.concatenate([episode.qpos[:-1] for episode in made]))
    rows = np.array([0, 30, 95])
    expected = np.stack([made[0].images["top"][0], made[1].images["top"][0], made[2].images["top"][24]])
    images = DirectFrames(table, {"top": SIZE}, workers=1).gather(rows)["top"]
    assert torch.equal(images, torch.from_numpy(expected.transpose(0, 3, 1, 2).copy()))


def test_what_a_format_cannot_do_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"format memory are read without --rename"):
        open_source("x", kind=OWN, options=ReadOptions(rename={"top": "front"}))
    with pytest.raises(ConfigError, match=r"no 'hdf' among the formats. Did you mean 'hdf5'\?"):
        open_source("x", kind="hdf")


def test_files_are_known_by_name_size_and_time_so_that_caches_stay_valid(tmp_path: Path) -> None:
    """The key that caches were written with since the first version."""
    file = write(tmp_path, make(5, {"top": SIZE}, seed=0))
    source, status = open_source(file), file.stat()
    assert source.identity(0) == f"episode_0.hdf5:{status.st_size}:{status.st_mtime_ns}"
    assert read_table(source).cache_key(0) == source.identity(0)
    renamed = read_table(open_source(file, options=ReadOptions(rename={"front": "top"})))
    assert renamed.cache_key(0) == f"{source.identity(0)}:front is top"


def test_numbers_and_places(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a", lengths=(5, 6, 7))
    source = open_source(tmp_path / "a", options=ReadOptions(first=2))
    assert len(source) == 2
    assert "episode_2.hdf5 (beyond the first 2)" in source.unused
    assert len(source.identities()) >= 3  # of the whole folder
    with closing(source.open(1)) as episode:
        assert (episode.name, episode.length) == ("episode_1.hdf5", 6)
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(EpisodeError):
        source.open(0)


class NoArguments(MemorySource):
    def __init__(self) -> None:
        super().__init__([], ReadOptions())


class NoPlace(MemorySource):
    def __init__(self, places: Sequence[str | Path], options: ReadOptions) -> None:
        super().__init__(places, options)
        del self.place


class OnlyLength(EpisodeSource):
    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("NoArguments", "is called with (places, options), but takes () -> 'None': too many positional arguments"),
        ("NoPlace", "must give an EpisodeSource with a `place`, gave"),
        ("OnlyLength", "lacks methods of an EpisodeSource: identity, open"),
    ],
)
def test_an_own_class_that_is_incomplete_is_one_line(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(text)):
        open_source("anywhere", kind=f"{__name__}:{name}")


@pytest.mark.parametrize("kind", ["zarr", "rlds", "robomimic", "shards", "mcap"])
def test_depth_of_a_foreign_file_without_a_contract_is_carried(tmp_path: Path, kind: str) -> None:
    (tmp_path / "cobot").mkdir()
    rig = Rig()
    cobot_magic(tmp_path / "cobot/episode_0.hdf5", rig)
    convert([str(tmp_path / "cobot"), str(tmp_path / "out"), "--format", kind])
    place = next((tmp_path / "out").glob("*.hdf5"), tmp_path / "out")
    with closing(open_source(place).episode(0)) as episode:
        assert episode.depth_cameras == ("cam_high",)
        for row in (0, episode.length - 1):
            np.testing.assert_array_equal(episode.depth("cam_high", row), rig.depth_image(row))
