"""Real kills and really full disks: nothing that was flushed is lost, and nothing looks whole that is not."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from aloha_kit.core import EpisodeError
from aloha_kit.episode import Episode, list_episodes
from aloha_kit.storage.journal import PREAMBLE
from aloha_kit.storage.recovery import recover_all
from tests.storage.recording import feed, outcome, record, Rig, writer_for

ROOT = Path(__file__).parents[2]

RECORD = """
import os, sys, time, dm_env
from pathlib import Path
from tests.storage.recording import Rig, writer_for
rig = Rig()
writer = writer_for(Path(sys.argv[1]), rig, images=sys.argv[2])
writer.on_reset(dm_env.restart(rig.observation(0)))
for row in range(100_000):
    writer.on_step(rig.action(row), dm_env.transition(0.0, rig.observation(row + 1)))
    os.write(1, b"%d\\n" % writer.written)
"""

RECORD_MANY = """
import os, sys
from pathlib import Path
from tests.storage.recording import feed, outcome, Rig, writer_for
rig = Rig()
for number in range(10_000):
    writer = writer_for(Path(sys.argv[1]), rig, images=sys.argv[2])
    feed(writer, rig, 12)
    os.write(1, b"begun %d\\n" % number)
    writer.on_end(outcome(12))
    os.write(1, b"kept %d\\n" % number)
"""

RECORD_TILL_FULL = """
import resource, sys, time, dm_env
from pathlib import Path
from aloha_kit.core import EpisodeError
from tests.storage.recording import feed, outcome, Rig, writer_for
rig, limit = Rig(), int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
writer = writer_for(Path(sys.argv[1]), rig, images="raw", flush_s=0.05)
try:
    feed(writer, rig, 100_000)
except EpisodeError as error:
    print(error)
try:
    writer.on_end(outcome(writer.written, error=True, reason="disk"))
except EpisodeError as error:
    print(error)
print(writer.written, writer.committed)
"""

FINISH_WHEN_FULL = """
import resource, sys, time
from pathlib import Path
from aloha_kit.core import EpisodeError
from tests.storage.recording import feed, outcome, Rig, writer_for
rig, limit = Rig(), int(sys.argv[2])
writer = writer_for(Path(sys.argv[1]), rig, images="raw")
feed(writer, rig, 60)
while writer.written < 60:
    time.sleep(0.01)
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    writer.on_end(outcome(60, reason="all done"))
except EpisodeError as error:
    print(error)
print(writer.written, writer.committed)
"""


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)


def kill_after(script: str, seconds: float, *arguments: object) -> list[str]:
    """Start, wait for the first line and then `seconds`, kill -9; the lines it printed whole."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        lines = (first + process.stdout.read()).decode().splitlines(keepends=True)
    assert process.returncode == -signal.SIGKILL
    return [line.strip() for line in lines if line.endswith("\n")]


def assert_prefix(path: Path, rig: Rig, steps: int, *, exact_images: bool) -> None:
    """Every row of the file is the row that was recorded."""
    with Episode.open(path) as episode:
        assert (episode.length, episode.frames) == (steps, steps + 1)
        np.testing.assert_array_equal(episode.qpos, np.stack([rig.qpos(i) for i in range(steps + 1)]))
        np.testing.assert_array_equal(episode.action, np.stack([rig.action(i) for i in range(steps)]))
        np.testing.assert_array_equal(
            episode.stamps["command"], [rig.observation(i + 1)["stamps"]["command"] for i in range(steps)]
        )
        for row in {0, steps // 2, steps - 1, steps}:
            for camera in episode.cameras:
                got, given = episode.image(camera, row).astype(int), rig.image(camera, row).astype(int)
                assert np.abs(got - given).mean() <= (0 if exact_images else 12)


@pytest.mark.parametrize(("images", "seed"), [("raw", 1), ("jpeg", 2), ("jpeg", 3), ("raw", 4)])
def test_kill_while_recording(tmp_path: Path, images: str, seed: int) -> None:
    lines = kill_after(RECORD, random.Random(seed).uniform(0.02, 0.5), tmp_path, images)
    assert os.listdir(tmp_path) == ["episode_0.hdf5.partial"]
    assert list_episodes(tmp_path) == []
    flushed = int(lines[-1])
    (found,) = recover_all(tmp_path)
    assert found.outcome == "recovered"
    assert found.steps >= flushed
    assert found.steps > 0
    assert os.listdir(tmp_path) == ["episode_0.hdf5"]
    assert_prefix(tmp_path / "episode_0.hdf5", Rig(), found.steps, exact_images=images == "raw")
    with Episode.open(tmp_path / "episode_0.hdf5") as episode:
        assert episode.success is False
        assert episode.attrs["reason"] == f"interrupted: recovered {found.steps} steps"


@pytest.mark.parametrize("seed", [5, 6, 7])
def test_kill_anywhere_between_episodes(tmp_path: Path, seed: int) -> None:
    """Short episodes spend their time finishing: every file is whole or absent, every one kept is there."""
    lines = kill_after(RECORD_MANY, random.Random(seed).uniform(0.1, 0.6), tmp_path, "jpeg")
    kept = [int(line.split()[1]) for line in lines if line.startswith("kept")]
    begun = [int(line.split()[1]) for line in lines if line.startswith("begun")]
    for path in list_episodes(tmp_path):
        assert_prefix(path, Rig(), 12, exact_images=False)
    recover_all(tmp_path)
    names = os.listdir(tmp_path)
    assert all(name.endswith(".hdf5") for name in names)
    assert {f"episode_{number}.hdf5" for number in kept} <= set(names)
    if begun and begun[-1] not in kept:  # its steps had reached the queue, at least a part of them the journal
        last = tmp_path / f"episode_{begun[-1]}.hdf5"
        if last.exists():
            with Episode.open(last) as episode:
                assert_prefix(last, Rig(), episode.length, exact_images=False)


@contextlib.contextmanager
def small_disk(folder: Path, size: str, wanted: bool) -> Iterator[bool]:
    """A real file system of `size` at `folder`; False where it is not wanted or mounting is not permitted."""
    folder.mkdir()
    if not wanted:
        yield False
        return
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def enlarge(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)


@pytest.mark.parametrize("kind", ["disk", "limit"])
def test_full_while_recording(tmp_path: Path, kind: str) -> None:
    """A full disk (or a file-size limit) is reported at a step; what was written is recovered once there is room.

    Where mounting is not permitted, "disk" meets a limit of another size, so it always tests something.
    """
    folder = tmp_path / "data"
    with small_disk(folder, "400k", kind == "disk") as real:
        limit = 0 if real else 300_000 if kind == "limit" else 200_000
        output = run(RECORD_TILL_FULL, folder, limit).stdout.splitlines()
        steps, committed = output[-1].split()
        assert committed == "False"
        assert int(steps) > 20
        cause = "No space left on device" if real else "File too large"
        for message in output[:-1]:
            assert cause in message
            assert f"{steps} steps are safe in {folder / 'episode_0.hdf5.partial'}" in message
            assert f"python -m aloha_kit.episode recover {folder}" in message
        assert os.listdir(folder) == ["episode_0.hdf5.partial"]
        if real:
            (still,) = recover_all(folder)
            assert still.outcome == "failed"
            assert "needed in" in still.message
            assert os.listdir(folder) == ["episode_0.hdf5.partial"]
            enlarge(folder)
        (found,) = recover_all(folder)
        assert (found.outcome, found.steps, found.lost_bytes) == ("recovered", int(steps), 0)
        assert os.listdir(folder) == ["episode_0.hdf5"]
        assert_prefix(folder / "episode_0.hdf5", Rig(), int(steps), exact_images=True)


@pytest.mark.parametrize("kind", ["disk", "limit"])
def test_full_while_finishing(tmp_path: Path, kind: str) -> None:
    """No room for the finished file: the journal stays, with the verdict in it, and nothing else does."""
    folder = tmp_path / "data"
    with small_disk(folder, "400k", kind == "disk") as real:
        limit = 0 if real else 100_000
        message, state = run(FINISH_WHEN_FULL, folder, limit).stdout.splitlines()
        assert state == "60 False"
        assert "episode_0.hdf5 could not be finished" in message
        assert "60 steps are safe" in message
        assert os.listdir(folder) == ["episode_0.hdf5.partial"]
        if real:
            enlarge(folder)
        (found,) = recover_all(folder)
        assert (found.outcome, found.steps) == ("recovered", 60)
        with Episode.open(folder / "episode_0.hdf5") as episode:
            # Under the limit the verdict could not be added to the journal either.
            assert episode.attrs["reason"] == ("all done" if real else "interrupted: recovered 60 steps")
        assert_prefix(folder / "episode_0.hdf5", Rig(), 60, exact_images=True)


def test_killed_before_the_first_row(tmp_path: Path) -> None:
    for index, content in enumerate([b"", PREAMBLE, PREAMBLE + b"AKRh\0\0"]):
        (tmp_path / f"episode_{index}.hdf5.partial").write_bytes(content)
    found = recover_all(tmp_path)
    assert [r.outcome for r in found] == ["empty"] * 3
    assert os.listdir(tmp_path) == []


def test_a_journal_left_beside_its_episode(tmp_path: Path) -> None:
    """Killed after the commit, before the journal was removed."""
    rig = Rig()
    writer = writer_for(tmp_path, rig)
    feed(writer, rig, 5)
    partial = tmp_path / "episode_0.hdf5.partial"
    saved = tmp_path / "saved"
    os.link(partial, saved)
    writer.on_end(outcome(5))
    os.rename(saved, partial)
    before = writer.path.read_bytes()
    (found,) = recover_all(tmp_path)
    assert (found.outcome, found.steps) == ("finished", 5)
    assert os.listdir(tmp_path) == ["episode_0.hdf5"]
    assert writer.path.read_bytes() == before


def test_recovery_never_overwrites_another_episode(tmp_path: Path) -> None:
    rig = Rig()
    writer = writer_for(tmp_path, rig)
    feed(writer, rig, 5)
    saved = tmp_path / "saved"
    os.link(tmp_path / "episode_0.hdf5.partial", saved)
    writer.discard()
    other = record(tmp_path, 9, rig)
    os.rename(saved, tmp_path / "episode_0.hdf5.partial")
    before = other.read_bytes()
    (found,) = recover_all(tmp_path)
    assert (found.outcome, found.episode) == ("recovered", tmp_path / "episode_1.hdf5")
    assert other.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["episode_0.hdf5", "episode_1.hdf5"]


def test_a_damaged_header_is_reported_and_kept(tmp_path: Path) -> None:
    rig = Rig()
    writer = writer_for(tmp_path, rig)
    feed(writer, rig, 5)
    partial = tmp_path / "episode_0.hdf5.partial"
    content = bytearray(partial.read_bytes())
    writer.discard()
    content[60] ^= 0x10
    partial.write_bytes(content)
    (found,) = recover_all(partial)
    assert found.outcome == "failed"
    assert "header" in found.message
    assert "checksum" in found.message
    assert partial.read_bytes() == bytes(content)


def test_what_can_be_recovered(tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match="no folder"):
        recover_all(tmp_path / "nowhere")
    path = record(tmp_path, 3)
    with pytest.raises(EpisodeError, match=r"not a journal; those are called episode_<i>\.hdf5\.partial"):
        recover_all(path)
    assert recover_all(tmp_path) == []


def test_a_leftover_temporary_that_shares_a_committed_file_is_not_written_into(tmp_path: Path) -> None:
    """Killed between the two names: `.tmp` is the committed file itself, which may have been moved away since."""
    kept = tmp_path / "moved.hdf5"
    path = record(tmp_path, 5)
    os.link(path, tmp_path / "episode_0.hdf5.tmp")
    os.rename(path, kept)
    before = kept.read_bytes()
    assert record(tmp_path, 9).name == "episode_0.hdf5"
    assert kept.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["episode_0.hdf5", "moved.hdf5"]
