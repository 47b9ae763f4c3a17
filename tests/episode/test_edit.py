"""The editing commands: kept in curation.yaml or written as a copy, on several formats, taken back, or refused."""

from __future__ import annotations

import hashlib
from contextlib import closing
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from aloha_kit.convert.__main__ import main as convert
from aloha_kit.core import ConfigError
from aloha_kit.episode.edit import dropped, EditedDataset
from aloha_kit.formats import format_of, open_source
from tests.episode.command import main
from tests.synthetic import Synthetic, write_dataset

CAMERAS = {"top": (24, 32), "wrist": (16, 16)}


def digest(folder: Path) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != "curation.yaml")
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def edits(folder: Path) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load((folder / "curation.yaml").read_text())
    return {key: value for key, value in found.items() if key != "version"}


def paused(_: int, episode: Synthetic) -> None:
    """Still for six steps at the beginning and for eight at the end."""
    for table in (episode.action, episode.qpos):
        table[:6] = table[6]
        table[-8:] = table[-8]


def test_every_edit_is_kept_shown_and_taken_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    write_dataset(data, (9, 5, 7, 6), CAMERAS, images="jpeg")
    before = digest(data)
    commands = {
        "drop": ["1"],
        "trim": ["0", "--start", "2", "--stop", "7"],
        "relabel": ["episode_2.hdf5", "--success", "no", "--note", "slipped"],
        "rename-camera": ["top", "front"],
        "resize": ["--size", "8", "12", "--cameras", "wrist"],
        "split": ["--val", "3"],
        "reorder": ["2-3"],
    }
    for name, flags in commands.items():
        assert main([name, str(data), *flags]) == 0, name
    assert edits(data) == {
        "order": ["episode_2", "episode_3"],
        "validation": ["episode_3"],
        "cameras": {"front": "top"},
        "image_size": {"wrist": [8, 12]},
        "episodes": {
            "episode_0": {"start": 2, "stop": 7},
            "episode_1": {"drop": True},
            "episode_2": {"labels": {"success": False, "note": "slipped"}},
        },
    }
    capsys.readouterr()
    assert main(["info", str(data)]) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = [tuple(line.split()[:2]) for line in lines[2:5]]
    assert shown == [("episode_2.hdf5", "7"), ("episode_3.hdf5", "6"), ("episode_0.hdf5", "5")]
    assert "front 24x32, wrist 8x12" in lines[2]
    assert lines[2].endswith("success False, note slipped")
    assert lines[4].endswith("steps 2 to 6")
    assert main(["stats", str(data)]) == 0
    assert capsys.readouterr().out.endswith("3 episodes, 18 actions\n")
    assert main(["validate", str(data)]) in (0, 1)
    assert "episode_1.hdf5" not in capsys.readouterr().out
    for name in ("drop", "trim", "relabel", "resize", "split", "reorder"):
        assert main([name, str(data), "--undo"]) == 0, name
    assert main(["rename-camera", str(data), "front", "--undo"]) == 0
    assert not (data / "curation.yaml").exists()
    assert digest(data) == before


def test_still_steps_at_the_ends_are_found(tmp_path: Path) -> None:
    write_dataset(tmp_path, (40, 50), {"top": (8, 8)}, change=paused)
    assert main(["trim", str(tmp_path), "--still"]) == 0
    episodes = edits(tmp_path)["episodes"]
    assert isinstance(episodes, dict)
    for name, steps in (("episode_0", 40), ("episode_1", 50)):
        assert 4 <= episodes[name]["start"] <= 7
        assert steps - 9 <= episodes[name]["stop"] <= steps - 5


@pytest.mark.parametrize("kind", ["hdf5", "robomimic", "lerobot"])
def test_a_copy_has_the_edits_and_the_original_none(tmp_path: Path, kind: str) -> None:
    made = write_dataset(tmp_path / "hdf5", (9, 5, 7), {"top": (32, 32)}, images="jpeg")
    data = tmp_path / "hdf5"
    if kind != "hdf5":
        data = tmp_path / kind
        convert([str(tmp_path / "hdf5"), str(data), "--format", kind])
        data = next(data.glob("*.hdf5"), data)
    before = digest(tmp_path / kind)
    assert main(["drop", str(data), "1", "--copy", str(tmp_path / "dropped")]) == 0
    assert main(["trim", str(data), "2", "--start", "3", "--copy", str(tmp_path / "trimmed")]) == 0
    assert digest(tmp_path / kind) == before
    assert not (data if data.is_dir() else data.parent).joinpath("curation.yaml").exists()
    for copy, lengths in (("dropped", [9, 7]), ("trimmed", [9, 5, 4])):
        source = open_source(next((tmp_path / copy).glob("image.hdf5"), tmp_path / copy))
        found = []
        for number in range(len(source)):
            with closing(source.open(number)) as episode:
                found.append(episode.length)
                last = episode.action
        assert found == lengths
        np.testing.assert_allclose(last, made[2].action[-lengths[-1] :], rtol=1e-6)
    assert main(["drop", str(data), "1", "--copy", str(tmp_path / "dropped")]) == 1  # never over existing data


def test_a_split_is_trained_with_and_copied_as_two_data_sets(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_dataset(data, (4, 5, 6, 7, 8), {"top": (8, 8)})
    assert main(["split", str(data), "--val_fraction", "0.4", "--seed", "3"]) == 0
    source = open_source(data)
    assert len(source.validation) == 2
    assert main(["split", str(data), "--train", "0", "2", "4", "--copy", str(tmp_path / "out")]) == 0
    assert len(open_source(tmp_path / "out/train")) == 3
    with h5py.File(tmp_path / "out/val/episode_1.hdf5") as file:
        assert len(file["action"]) == 7


def test_data_sets_are_merged_and_their_differences_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "a", (4, 5), CAMERAS)
    write_dataset(tmp_path / "b", (6,), {"top": (12, 16)}, rate_hz=25.0)
    assert main(["merge", str(tmp_path / "a"), str(tmp_path / "b"), "--into", str(tmp_path / "both")]) == 0
    error = capsys.readouterr().err
    assert "data set 2: camera 'top': (24, 32) (height, width) against (12, 16)" in error
    assert "data set 2: rate: 50 Hz against 25 Hz" in error
    assert edits(tmp_path / "both") == {"data": ["../a", "../b"]}
    assert main(["drop", str(tmp_path / "both"), "b_episode_0"]) == 0
    assert len(open_source(tmp_path / "both")) == 2
    write_dataset(tmp_path / "c", (7,), CAMERAS)
    assert main(["merge", str(tmp_path / "a"), str(tmp_path / "c"), "--copy", str(tmp_path / "joined")]) == 0
    assert len(open_source(tmp_path / "joined")) == 3
    assert main(["merge", str(tmp_path / "a"), str(tmp_path / "b"), "--into", str(tmp_path / "a")]) == 1
    assert "exists already; nothing in it is changed" in capsys.readouterr().err


def test_export_obeys_the_curation(tmp_path: Path) -> None:
    made = write_dataset(tmp_path / "data", (9, 5), {"top": (8, 8)})
    (tmp_path / "data/curation.yaml").write_text(
        "cameras: {front: top}\nepisodes: {episode_0: {start: 2, labels: {grade: 4}}, episode_1: {drop: true}}"
    )
    assert main(["export", str(tmp_path / "data"), str(tmp_path / "out")]) == 0
    (file,) = (tmp_path / "out").glob("*.hdf5")
    with h5py.File(file) as copy:
        np.testing.assert_array_equal(copy["action"], made[0].action[2:])
        assert list(copy["observations/images"]) == ["front"]
        assert copy.attrs["grade"] == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["drop", "DATA", "9"], "no episode '9'"),
        (["drop", "DATA"], "which episodes?"),
        (["trim", "DATA", "1", "--stop", "50"], "has steps 0 to 4; the curation keeps [0, 50)"),
        (["trim", "DATA"], "nothing to leave out"),
        (["relabel", "DATA", "--grade", "7"], "--grade must be 1 to 5"),
        (["rename-camera", "DATA", "tip", "front"], "has no camera 'tip'. Did you mean 'top'?"),
        (["rename-camera", "DATA", "top", "wrist"], "two cameras would have one name"),
        (["resize", "DATA", "--size", "8", "8", "--cameras", "tip"], "has no camera 'tip'; there are: top, wrist"),
        (["split", "DATA", "--val", "0", "1"], "2 of 2 episodes for validation: some must be on each side"),
        (["split", "DATA", "--val_fraction", "1.5"], "--val_fraction must be between 0 and 1"),
        (["merge", "DATA", "--into", "both"], "give at least two data sets"),
        (["merge", "DATA", "DATA", "--into", "both"], "is given twice"),
        (["drop", "DATA", "0", "--format", "act"], "--format and --workers are for --copy"),
    ],
)
def test_a_wrong_edit_is_one_line_and_changes_nothing(
    tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "data", (9, 5), CAMERAS)
    assert main([str(tmp_path / "data") if word == "DATA" else word for word in words]) in (1, 2)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "data/curation.yaml").exists()


def test_only_a_camera_that_is_there_is_renamed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    write_dataset(data, (4,), CAMERAS)
    assert main(["rename-camera", str(data), "cam_high", "top"]) != 0
    assert "has no camera 'cam_high'. Known: top, wrist." in capsys.readouterr().err
    assert not (data / "curation.yaml").exists()


def test_an_edit_made_meanwhile_is_not_lost(tmp_path: Path) -> None:
    write_dataset(tmp_path, (4, 5, 6), CAMERAS)
    first, second = EditedDataset(tmp_path), EditedDataset(tmp_path)
    second.save(dropped(second.curation, ["episode_1"]))
    with pytest.raises(ConfigError, match=r"curation\.yaml was changed by another edit .* run the command again"):
        first.save(dropped(first.curation, ["episode_2"]))
    assert edits(tmp_path) == {"episodes": {"episode_1": {"drop": True}}}


def test_a_copy_of_joined_data_sets_is_in_their_format(tmp_path: Path) -> None:
    for name, lengths in {"a": (4, 5), "b": (6,)}.items():
        write_dataset(tmp_path / name / "hdf5", lengths, {"top": (24, 32)})
        convert([str(tmp_path / name / "hdf5"), str(tmp_path / name / "zarr"), "--format", "zarr"])
    both = [str(tmp_path / name / "zarr") for name in "ab"]
    assert main(["merge", *both, "--into", str(tmp_path / "both")]) == 0
    assert main(["trim", str(tmp_path / "both"), "--start", "1", "--copy", str(tmp_path / "copy")]) == 0
    assert format_of(tmp_path / "copy") == "zarr"
    source = open_source(tmp_path / "copy")
    lengths = []
    for number in range(len(source)):
        with closing(source.episode(number)) as episode:
            lengths.append(episode.length)
    assert lengths == [3, 4, 5]
