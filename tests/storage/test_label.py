"""Labels are written afterwards, and the episode stays what it was otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from aloha_kit.core import EpisodeError
from aloha_kit.episode import Episode
from aloha_kit.episode.validate import validate
from aloha_kit.storage.label import label
from tests.episode.command import main
from tests.storage.foreign import mobile_aloha
from tests.storage.recording import record, Rig


def test_labels_are_set_changed_and_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = record(tmp_path, 12)
    with Episode.open(path) as episode:
        action, image, attrs = episode.action, episode.jpeg("cam_high", 3), episode.attrs
    flags = ["--success", "no", "--note", "dropped the cube", "--grade", "2", "--instruction", "hand the cube over"]
    assert main(["label", str(path), *flags]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    assert main(["info", str(path), "--json"]) == 0
    (info,) = json.loads(capsys.readouterr().out)
    printed = {key: info[key] for key in ("success", "note", "grade", "instruction")}
    assert printed == {"success": False, "note": "dropped the cube", "grade": 2, "instruction": "hand the cube over"}
    assert main(["info", str(path)]) == 0
    heads, _, row, *_ = capsys.readouterr().out.splitlines()
    assert heads.split()[-6:] == ["grade", "task", "how", "it", "ended", "note"]
    assert row[heads.index("grade") :].split()[0] == "2"
    assert row.endswith("  dropped the cube")
    assert main(["label", str(tmp_path), "--success", "unknown", "--note", "", "--grade", "0"]) == 0
    with Episode.open(path) as episode:
        assert episode.success is None
        assert not {"note", "grade", "success"} & episode.attrs.keys()
        assert episode.attrs["instruction"] == "hand the cube over"
        others = {key: value for key, value in attrs.items() if key not in ("success", "instruction", "checksums")}
        assert {key: episode.attrs[key] for key in others} == others
        np.testing.assert_array_equal(episode.action, action)
        assert episode.jpeg("cam_high", 3) == image
    assert validate(path, deep=True).level == "ok"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["episode_0.hdf5"]


def test_files_of_other_tools_are_labelled_too(tmp_path: Path) -> None:
    path = tmp_path / "episode_0.hdf5"
    mobile_aloha(path, Rig())
    label(path, success=True, note="\u597d")
    with Episode.open(path) as episode:
        assert (episode.layout, episode.success, episode.attrs["note"]) == ("mobile_aloha", True, "\u597d")


def test_a_damaged_episode_is_refused_and_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = record(tmp_path, 12)
    with h5py.File(path, "r") as file:
        at = file["action"].id.get_offset()
    damaged = bytearray(path.read_bytes())
    damaged[at] ^= 1
    path.write_bytes(damaged)
    assert main(["label", str(path), "--grade", "5"]) == 1
    assert "damaged" in capsys.readouterr().err
    assert path.read_bytes() == damaged


def test_wrong_labels_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = record(tmp_path, 4)
    for flags, message in (
        ([], "nothing to set; give --success, --note, --grade or --instruction"),
        (["--grade", "6"], "--grade must be 1 to 5, or 0 for none, given 6"),
        (["--success", "maybe"], "maybe"),
    ):
        assert main(["label", str(path), *flags]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(EpisodeError, match="an episode has no label 'colour'; there are: success, note, grade, instr"):
        label(path, colour="red")
    with pytest.raises(EpisodeError, match="note has 5000 characters, at most 4000 fit"):
        label(path, note="x" * 5000)
