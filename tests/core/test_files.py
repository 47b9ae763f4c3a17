"""Folders are made or refused in words."""

from pathlib import Path

import pytest

from aloha_kit.core import ConfigError
from aloha_kit.core.files import make_folder


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
