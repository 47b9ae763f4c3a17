"""Which files of a folder count as episodes, and that the others are named with the reason."""

from pathlib import Path

import pytest

from aloha_kit.core import EpisodeError
from aloha_kit.episode import list_episodes
from aloha_kit.storage.selection import select
from aloha_kit.storage.transaction import reserve


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_numbered_files_are_used_and_the_rest_is_reported(tmp_path: Path) -> None:
    used = ("episode_000002.hdf5", "4.hdf5", "episode6.hdf5", "episode-7.h5", "EPISODE_8.HDF5", "episode_10.hdf5")
    touch(tmp_path, *reversed(used))
    touch(tmp_path, "mirror_episode_2.hdf5", "day2/episode_0.hdf5", "day2/cam/episode_1.hdf5", "episode_5_success.hdf5")
    touch(
        tmp_path, "._episode_10.hdf5", "episode_11.hdf5.partial", ".cache/frames.h5", "notes.txt", "episode_3/meta.json"
    )
    found = select(tmp_path)
    assert tuple(file.name for file in found.files) == used
    assert list_episodes(tmp_path) == list(found.files)
    assert found.text().startswith("6 of 12 files are used; not used: ")
    for words in (
        "day2/cam/episode_1.hdf5, day2/episode_0.hdf5 (in a sub-folder",
        "mirror_episode_2.hdf5 (a mirrored copy",
        "episode_5_success.hdf5 (no name like episode_<i>.hdf5",
        "._episode_10.hdf5 (a hidden file)",
        "episode_11.hdf5.partial (an unfinished recording",
    ):
        assert words in found.text()
    assert "\n" not in found.text()
    assert [file.name for file in found.with_journals().files][-1] == "episode_11.hdf5.partial"


def test_nothing_is_reported_where_every_file_is_used(tmp_path: Path) -> None:
    touch(tmp_path, "episode_0.hdf5", "episode_1.hdf5", "frames.csv")
    assert select(tmp_path).text() == ""


def test_of_two_files_with_one_number_the_usual_name_is_taken(tmp_path: Path) -> None:
    touch(tmp_path, "1.hdf5", "episode_0001.hdf5", "episode_1.hdf5", "episode_1/episode_1.hdf5", "0.h5", "episode0.h5")
    found = select(tmp_path)
    assert [str(file.relative_to(tmp_path)) for file in found.files] == ["0.h5", "episode_1.hdf5"]
    assert "1.hdf5, episode_0001.hdf5" in found.text()
    assert "(it has the number of episode_1.hdf5)" in found.text()
    assert "episode0.h5 (it has the number of 0.h5)" in found.text()


def test_a_folder_for_each_episode(tmp_path: Path) -> None:
    touch(tmp_path, "episode_0/episode_0.hdf5", "episode_0/instruction.json", "episode_1/episode_1.hdf5")
    touch(tmp_path, "episode_1/episode_2.hdf5")
    assert [str(file.relative_to(tmp_path)) for file in select(tmp_path).files] == [
        "episode_0/episode_0.hdf5", "episode_1/episode_1.hdf5"]  # fmt: skip
    assert "episode_1/episode_2.hdf5 (in a sub-folder" in select(tmp_path).text()


def test_several_folders_and_single_files(tmp_path: Path) -> None:
    touch(tmp_path, "a/episode_0.hdf5", "a/good/episode_0.hdf5", "b/episode_0.hdf5", "b/keep_this.hdf5", "b/other.hdf5")
    found = select(tmp_path / "a", tmp_path / "a/good", tmp_path / "b", tmp_path / "b/keep_this.hdf5", tmp_path / "a")
    assert [str(file.relative_to(tmp_path)) for file in found.files] == [
        "a/episode_0.hdf5", "a/good/episode_0.hdf5", "b/episode_0.hdf5", "b/keep_this.hdf5"]  # fmt: skip
    assert [str(file) for file, _ in found.unused] == [str(tmp_path / "b/other.hdf5")]
    assert found.first(3).text().startswith("3 of 5 files are used; not used: ")
    assert "keep_this.hdf5 (beyond the first 3)" in found.first(3).text()
    assert found.first(9) is found
    with pytest.raises(EpisodeError, match="no folder"):
        select(tmp_path / "a", tmp_path / "c")


def test_a_number_in_use_under_another_name_is_not_recorded_again(tmp_path: Path) -> None:
    touch(tmp_path, "episode0.hdf5", "1.h5")
    path, _ = reserve(tmp_path, None)
    assert path.name == "episode_2.hdf5"
