"""Curated data sets: every edit as readers find it, in training's table, in caches and in copies; wrong files in one
line."""

from __future__ import annotations

import hashlib
import shutil
from contextlib import closing
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from aloha_kit.convert.__main__ import main as convert
from aloha_kit.core import ConfigError, EpisodeError
from aloha_kit.data.camera_frames import DirectFrames
from aloha_kit.data.index import read_table
from aloha_kit.formats import open_joined, open_source, ReadOptions
from aloha_kit.storage.curation import Curation
from aloha_kit.testing.sources import check_source
from tests.synthetic import Synthetic, write_dataset

CAMERAS = {"top": (24, 32), "wrist": (16, 16)}
EDITS = """\
version: 1
order: [episode_2]
validation: [episode_2]
cameras: {front: top}
image_size: {wrist: [8, 12]}
episodes:
  episode_0: {start: 2, stop: 7, labels: {success: true, note: cut, grade: null}}
  episode_1: {drop: true}
"""


def digest(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.glob("*.hdf5"))}


def curated(folder: Path, edits: str = EDITS) -> list[Synthetic]:
    made = write_dataset(folder, (9, 5, 7), CAMERAS, images="jpeg")
    (folder / "curation.yaml").write_text(edits)
    return made


def test_every_edit_is_applied_when_episodes_are_read(tmp_path: Path) -> None:
    made = curated(tmp_path)
    source = open_source(tmp_path)
    check_source(source)
    assert (
        "1 dropped, 1 trimmed, 1 relabelled, 1 for validation, reordered, camera top renamed to front" in source.unused
    )
    assert [source.name(number) for number in range(len(source))] == ["episode_2.hdf5", "episode_0.hdf5"]
    assert list(source.validation) == ["episode_2.hdf5"]
    with closing(source.open(1)) as episode, h5py.File(tmp_path / "episode_0.hdf5") as file:
        assert (episode.length, episode.frames, episode.success) == (5, 6, True)
        np.testing.assert_array_equal(episode.action, made[0].action[2:7])
        np.testing.assert_array_equal(episode.vectors["qpos"], made[0].qpos[2:8])
        np.testing.assert_array_equal(episode.stamps["command"], file["stamps/command"][2:7])
        np.testing.assert_array_equal(episode.stamps["images/front"], file["stamps/images/top"][2:8])
        assert episode.attrs["note"] == "cut"
        assert dict(episode.contract.cameras) == {"front": (24, 32), "wrist": (8, 12)}
        with closing(open_source(tmp_path, options=ReadOptions(curation=Curation())).open(0)) as recorded:
            np.testing.assert_array_equal(episode.image("front", 1), recorded.image("top", 3))


def test_training_has_the_curated_steps_and_statistics(tmp_path: Path) -> None:
    made = curated(tmp_path)
    before = read_table(open_source(tmp_path, options=ReadOptions(curation=Curation())))
    table = read_table(open_source(tmp_path))
    rows = np.concatenate([made[2].action, made[0].action[2:7]])
    np.testing.assert_array_equal(table.action, rows)
    np.testing.assert_allclose(table.statistics()["action"].mean, rows.mean(axis=0), rtol=1e-6)
    assert table.cameras == ("front", "wrist")
    keys = {before.cache_key(number) for number in range(3)}
    assert not keys & {table.cache_key(number) for number in range(2)}, "images of another row or camera were reused"
    frames = DirectFrames(table, {"front": (24, 32)}, workers=1).gather(np.array([7]))["front"]
    with closing(before.open(0)) as recorded:
        assert torch.equal(frames[0], torch.from_numpy(recorded.image("top", 2).transpose(2, 0, 1).copy()))
    (tmp_path / "curation.yaml").unlink()  # undone
    again = read_table(open_source(tmp_path))
    assert [again.cache_key(number) for number in range(3)] == [before.cache_key(number) for number in range(3)]


def test_a_copy_has_the_edits_and_the_bytes_of_the_images(tmp_path: Path) -> None:
    made = curated(tmp_path / "data", EDITS.replace("image_size: {wrist: [8, 12]}\n", ""))
    before = digest(tmp_path / "data")
    convert([str(tmp_path / "data"), str(tmp_path / "copy"), "--format", "hdf5"])
    assert digest(tmp_path / "data") == before
    with h5py.File(tmp_path / "copy/episode_1.hdf5") as copy, h5py.File(tmp_path / "data/episode_0.hdf5") as recorded:
        np.testing.assert_array_equal(copy["action"], made[0].action[2:7])
        old, new = recorded["observations/images/top"], copy["observations/images/front"]
        np.testing.assert_array_equal(new, old[2:8])
        assert copy.attrs["success"]
        assert [name.decode() for name in copy.attrs["camera_names"]] == ["front", "wrist"]
    check_source(open_source(tmp_path / "copy"))
    (tmp_path / "data/curation.yaml").write_text("episodes: {episode_1: {drop: true}}")
    with pytest.raises(SystemExit, match="exists already"):
        convert([str(tmp_path / "data"), str(tmp_path / "copy"), "--format", "hdf5"])


def test_a_part_of_a_curated_folder(tmp_path: Path) -> None:
    curated(tmp_path)
    with closing(open_source(tmp_path / "episode_0.hdf5").open(0)) as episode:
        assert episode.length == 5
    with pytest.raises(ConfigError, match=r"every episode of .* is dropped by .*curation.yaml"):
        open_source(tmp_path / "episode_1.hdf5")
    assert len(open_source(tmp_path, options=ReadOptions(first=1))) == 1
    renamed = open_source(tmp_path, options=ReadOptions(rename={"cam_high": "front"}))
    with closing(renamed.open(0)) as episode:
        assert set(episode.cameras) == {"cam_high", "wrist"}


def test_several_data_sets_are_read_as_one(tmp_path: Path) -> None:
    curated(tmp_path / "a")
    write_dataset(tmp_path / "b", (4, 6), CAMERAS)
    (tmp_path / "c").mkdir()
    (tmp_path / "c/curation.yaml").write_text("data: [../a, ../b]\nepisodes: {b_episode_0: {stop: 3}}")
    source = open_source(tmp_path / "c")
    check_source(source)
    names = [source.name(number) for number in range(len(source))]
    assert names == ["episode_2.hdf5", "a_episode_0.hdf5", "b_episode_0.hdf5", "episode_1.hdf5"]
    assert [source.part(number) for number in range(4)] == [0, 0, 1, 1]
    assert list(source.validation) == ["episode_2.hdf5"]
    with closing(source.open(2)) as episode:
        assert (episode.name, episode.length) == ("b_episode_0.hdf5", 3)
    convert([str(tmp_path / "c"), str(tmp_path / "copy"), "--format", "hdf5"])
    with closing(source.open(1)) as episode, h5py.File(tmp_path / "copy/episode_1.hdf5") as copy:
        np.testing.assert_array_equal(copy["action"], episode.action)  # edited in a, named after it in c
        assert copy.attrs["success"]
    shutil.rmtree(tmp_path / "a")
    joined = open_joined([tmp_path / "b", tmp_path / "b/episode_1.hdf5"])
    assert [joined.part(number) for number in range(len(joined))] == [0, 0, 1]
    (tmp_path / "c/curation.yaml").write_text("data: [../d]")
    (tmp_path / "d").mkdir()
    (tmp_path / "d/curation.yaml").write_text("data: [../c]")
    with pytest.raises(ConfigError, match="itself, or a data set that does"):
        open_source(tmp_path / "c")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("episode: {}", r"curation.yaml: unknown key 'episode'. Did you mean 'episodes'\?"),
        ("episodes: {episode_9: {drop: true}}", r"curation.yaml: no episode 'episode_9'. Did you mean"),
        ("episodes: {episode_0: {stopp: 3}}", r"episode_0: unknown key 'stopp'. Did you mean 'stop'\?"),
        (
            "episodes: {episode_0: {start: 5, stop: 5}}",
            "episode_0: start and stop must be 0 <= start < stop, given 5 and 5",
        ),
        ("episodes: {episode_0: {labels: {grade: 9}}}", "episode_0: grade must be 1 to 5, given 9"),
        ("version: 2", "version is 2, this version of aloha_kit reads 1"),
        ("order: [episode_0, episode_0]", "order has 'episode_0' twice"),
        ("image_size: {top: [0, 4]}", "image_size of top must be"),
        ("episodes: {episode_0: {stop: 50}}", r"curation.yaml: .*has steps 0 to 8; the curation keeps \[0, 50\)"),
        ("cameras: {front: tip}", "has no camera 'tip'. Did you mean 'top'"),
    ],
)
def test_a_wrong_curation_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    curated(tmp_path, text)
    with pytest.raises((ConfigError, EpisodeError), match=message):
        open_source(tmp_path).open(0)


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        ("cameras: {a: top, b: top}", "cameras has two new names of 'top'"),
        ("cameras: {a/b: top}", "a camera cannot be named 'a/b'"),
        ("image_size: {top: 240}", "image_size of top must be [height, width] in pixels, given 240"),
        ("image_size: {nope: [8, 8]}", "has no camera 'nope'; there are: top, wrist"),
    ],
)
def test_a_wrong_camera_in_a_file_edited_by_hand_is_named(tmp_path: Path, edits: str, expected: str) -> None:
    curated(tmp_path, f"{edits}\n")
    with pytest.raises((ConfigError, EpisodeError)) as error:
        open_source(tmp_path).episode(0).close()
    message = str(error.value)
    assert message.startswith(str(tmp_path / "curation.yaml"))
    assert expected in message
    assert "\n" not in message


def test_images_keep_their_new_size_where_the_reader_renames_the_camera(tmp_path: Path) -> None:
    curated(tmp_path, "image_size: {wrist: [8, 12]}\n")
    with closing(open_source(tmp_path, options=ReadOptions(rename={"hand": "wrist"})).episode(0)) as episode:
        assert sorted(episode.cameras) == ["hand", "top"]
        assert episode.image("hand", 0).shape == (8, 12, 3) == (*episode.contract.cameras["hand"], 3)


@pytest.mark.parametrize("kind", ["mcap", "mp4", "zarr"])
def test_names_need_no_open_episode(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "data", (4, 5), {"top": (24, 32)}, images="jpeg")
    convert([str(tmp_path / "data"), str(tmp_path / "copy"), "--format", kind])
    source = open_source(tmp_path / "copy")
    expected = []
    for number in range(2):
        with closing(source.episode(number)) as episode:
            expected.append(episode.name)
    monkeypatch.setattr(type(source), "open", None)  # thousands would be opened to apply a curation
    assert [source.name(number) for number in range(2)] == expected
