"""Folders are made or refused in words; reports are replaced whole, or not at all."""

import json
from pathlib import Path

import pytest

from aloha_kit.core import ConfigError
from aloha_kit.core.files import free_path, make_folder, write_json


def test_parents_are_made_and_an_existing_folder_is_fine(tmp_path: Path) -> None:
    folder = tmp_path / "有 空格" / "b"
    assert make_folder(folder) == folder
    assert make_folder(folder).is_dir()


@pytest.mark.parametrize("inside", ["", "below"])
def test_a_file_in_the_way_is_named(tmp_path: Path, inside: str) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ConfigError, match="a file of that name is in the way"):
        make_folder(tmp_path / "file" / inside)
    assert (tmp_path / "file").read_text() == "kept"


def test_the_systems_reason_is_given() -> None:
    with pytest.raises(ConfigError, match=r"cannot make the folder '/proc/aloha_kit/x': "):
        make_folder(Path("/proc/aloha_kit/x"))


def test_a_name_that_is_taken_gets_a_number(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    for name in ("report.json", "report_1.json", "report_2.json"):
        assert free_path(file) == tmp_path / name
        free_path(file).touch()


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    write_json(file, {"done": 1})
    with pytest.raises(TypeError):
        write_json(file, {"done": {1, 2}})
    assert json.loads(file.read_text()) == {"done": 1}
    write_json(file, {"done": 2})
    assert json.loads(file.read_text()) == {"done": 2}
    assert list(tmp_path.iterdir()) == [file]
