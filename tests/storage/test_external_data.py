"""Files that reach outside themselves are refused by name, before a byte from there is read."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from aloha_kit.core import EpisodeError
from aloha_kit.episode import Episode
from aloha_kit.storage.external_data import ALLOW
from tests.episode.command import main
from tests.storage.recording import record, Rig

STEPS = 30

Change = Callable[[h5py.File, Path], None]


def storage(file: h5py.File, place: Path) -> None:
    """The pixels of a camera lie in another file."""
    data = file["observations/images/cam_high"]
    shape, length = data.shape, data.size
    del file["observations/images/cam_high"]
    file.create_dataset("observations/images/cam_high", shape, "u1", external=[(str(place), 0, length)])


def link(file: h5py.File, place: Path) -> None:
    del file["observations/qvel"]
    file["observations/qvel"] = h5py.ExternalLink(str(place), "/x")


def linked_group(file: h5py.File, place: Path) -> None:
    file["a/b/c"] = np.zeros(3)
    file["a/b/d"] = h5py.ExternalLink(str(place), "/")


def virtual(file: h5py.File, place: Path) -> None:
    layout = h5py.VirtualLayout(file["action"].shape, "f4")
    layout[:] = h5py.VirtualSource(str(place), "x", file["action"].shape)
    del file["action"]
    file.create_virtual_dataset("action", layout)


def circle(file: h5py.File, place: Path) -> None:
    """Reading such a data set ends the process: HDF5 goes round until its stack is full."""
    layout = h5py.VirtualLayout(file["action"].shape, "f4")
    layout[:] = h5py.VirtualSource(".", "action", file["action"].shape)
    del file["action"]
    file.create_virtual_dataset("action", layout)


def behind_a_soft_link(file: h5py.File, place: Path) -> None:
    file["hidden/way"] = h5py.ExternalLink(str(place), "/x")
    del file["observations/effort"]
    file["observations/effort"] = h5py.SoftLink("/hidden/way")


NAMED = {
    storage: "/observations/images/cam_high lies in '{}'",
    link: "/observations/qvel is a link to '{}'",
    linked_group: "/a/b/d is a link to '{}'",
    virtual: "/action is put together from '{}'",
    circle: "/action is put together from 'action', which holds no data itself",
    behind_a_soft_link: "/hidden/way is a link to '{}'",
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("good"), STEPS, Rig(), images="raw")


@pytest.mark.parametrize("change", NAMED, ids=lambda change: change.__name__)
def test_refused_by_name_without_reading(
    good: Path, tmp_path: Path, change: Change, capsys: pytest.CaptureFixture[str]
) -> None:
    """The place is a FIFO that nobody writes to: whoever opened it would never return."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    path = Path(shutil.copy(good, tmp_path / "episode_0.hdf5"))
    with h5py.File(path, "r+") as file:
        change(file, fifo)
    expected = f"{path} reaches outside itself: {NAMED[change].format(fifo)}, which was not read"
    with pytest.raises(EpisodeError) as raised:
        Episode.open(path)
    assert str(raised.value).startswith(expected)
    for command in (["validate"], ["validate", "--deep"], ["info"], ["stats"], ["export"]):
        target = [str(tmp_path / "out")] if command == ["export"] else []
        assert main([command[0], str(tmp_path), *target, *command[1:]]) == 1
        output = capsys.readouterr()
        assert NAMED[change].format(fifo) in output.out + output.err
        assert "--allow_external" in output.out + output.err


def test_allowed_where_it_is_requested(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Data kept apart on purpose are read like any other."""
    monkeypatch.setenv(ALLOW, "0")  # and back to what it was, at the end of the test
    path = Path(shutil.copy(good, tmp_path / "episode_0.hdf5"))
    with h5py.File(path, "r+") as file:
        values = file["action"][()]
        with h5py.File(tmp_path / "other.h5", "w") as other:
            other["x"] = values
        virtual(file, tmp_path / "other.h5")
    assert main(["info", str(tmp_path)]) == 1
    assert main(["info", str(path), "--allow-external"]) == 0
    assert os.environ[ALLOW] == "1"
    with Episode.open(path) as episode:
        np.testing.assert_array_equal(episode.action, values)


def test_what_stays_inside_is_read(good: Path, tmp_path: Path) -> None:
    """Soft links, groups that contain themselves, virtual data sets over the same file."""
    path = Path(shutil.copy(good, tmp_path / "episode_0.hdf5"))
    with h5py.File(path, "r+") as file:
        values = file["action"][()]
        file["elsewhere"] = values
        file["loop/up"] = file["/"]
        layout = h5py.VirtualLayout(values.shape, "f4")
        layout[:] = h5py.VirtualSource(".", "elsewhere", values.shape)
        del file["action"], file["reward"]
        file.create_virtual_dataset("action", layout)
        file["rewards"] = np.arange(STEPS, dtype=np.float32)
        file["reward"] = h5py.SoftLink("/rewards")
    with Episode.open(path) as episode:
        np.testing.assert_array_equal(episode.action, values)
        np.testing.assert_array_equal(episode.reward, np.arange(STEPS))


def special_files(folder: Path, name: str) -> dict[str, Path]:
    """Folders that hold one file each, which is none, by the word for it."""
    (folder / "fifo").mkdir(parents=True)
    os.mkfifo(folder / "fifo" / name)
    (folder / "link").mkdir()
    (folder / "link" / name).symlink_to(folder / "fifo" / name)
    (folder / "device").mkdir()
    (folder / "device" / name).symlink_to("/dev/zero")
    (folder / "socket").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "socket" / name))  # a path of at most 108 characters
    return {"FIFO": folder / "fifo", "FIFO ": folder / "link", "device": folder / "device", "socket": folder / "socket"}


@pytest.mark.parametrize("name", ["episode_0.hdf5", "episode_0.hdf5.partial"])
def test_what_is_no_file_is_named_and_never_waited_for(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folders = special_files(tmp_path, name)
    commands = ["validate", "info" if name.endswith(".hdf5") else "recover"]
    script = "import sys; from tests.episode.command import main\nfor c in sys.argv[1:]: print(main(c.split(' ')))"
    words = [f"{command} {folder}" for folder in folders.values() for command in commands]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", script, *words], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line in "012"] == ["1"] * len(words)
    for word in folders:
        assert f"is a {word.strip()}, not a file" in done.stdout + done.stderr
    assert (done.stdout + done.stderr).count("not a file") == len(words)
    assert "Traceback" not in done.stderr
    assert all(os.listdir(folder) == [name] for folder in folders.values())
