"""Folders are made or refused in words; reports are replaced whole, or not at all."""

import json
import os
from pathlib import Path

import pytest

from aloha_kit.core import ConfigError
from aloha_kit.core.files import free_path, make_folder, names_in, part_of, replacing, write_json, write_text


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


def test_the_names_in_a_folder_are_sorted_and_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("b", ".git", "a", "c"):
        (tmp_path / name).touch()
    assert names_in(tmp_path) == ["a", "b", "c"]
    assert names_in(tmp_path, 2) == ["a", "b"]
    assert names_in(tmp_path / "none") == names_in(tmp_path / "a") == []


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


def test_what_was_written_reaches_the_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, order = tmp_path / "a.yaml", []
    fsync, rename = os.fsync, os.replace

    def synced(handle: int) -> None:
        order.append(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    monkeypatch.setattr("os.fsync", synced)
    monkeypatch.setattr("os.replace", lambda part, path: (order.append("renamed"), rename(part, path)))
    write_text(file, "x: 1\n")
    assert order == [str(part_of(file)), "renamed", str(tmp_path)]
    assert file.read_text() == "x: 1\n"


def test_an_interruption_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(b"before")

    def interrupted() -> None:
        with replacing(file) as part:
            part.write_bytes(b"aft")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert file.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [file]


def test_the_name_of_a_device_or_a_fifo_is_not_taken(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, kind in ((pipe, "a FIFO"), (Path("/dev/null"), "a device")):
        with pytest.raises(ConfigError, match=f"cannot write '{path}': it is {kind}, not a file"):
            write_text(path, "x")
        assert not path.is_file()
    assert list(tmp_path.iterdir()) == [pipe]
