"""No file that holds rows is removed: not by a full disk at any moment, nor by recovery, whatever a journal holds."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aloha_kit.episode import Episode, list_episodes
from aloha_kit.storage.journal import END, Journal, scan
from aloha_kit.storage.recovery import recover_all
from tests.storage.recording import feed, outcome, Rig, writer_for

STEPS = 40

AT_LIMITS = """
import json, resource, sys
from pathlib import Path
from aloha_kit.core import EpisodeError
from tests.storage.recording import feed, outcome, Rig, writer_for
folder, images, depth = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "depth"
for limit in json.loads(sys.argv[4]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    writer, messages = None, []
    try:
        writer = writer_for(folder / str(limit), Rig(depth=depth), images=images, flush_s=0.05)
        feed(writer, Rig(depth=depth), 40)
    except EpisodeError as error:
        messages.append(str(error))
    try:
        writer.on_end(outcome(writer.written, reason="done"))
    except EpisodeError as error:
        messages.append(str(error))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(json.dumps([limit, writer.written, writer.committed, messages]))
"""


@pytest.mark.parametrize(("images", "depth", "seed"), [("jpeg", "depth", 1), ("raw", "no", 2)])
def test_a_file_size_limit_at_any_moment(tmp_path: Path, images: str, depth: str, seed: int) -> None:
    """While rows are written, while the finished file is (it is the larger one here or there), or not at all.

    The process lives through all of them and ends well: HDF5 crashes at exit once it has met a full disk.
    """
    whole = tmp_path / "whole"
    writer = writer_for(whole, Rig(depth=depth == "depth"), images=images)
    feed(writer, Rig(depth=depth == "depth"), STEPS)
    writer.on_end(outcome(STEPS))
    size = (whole / "episode_0.hdf5").stat().st_size
    draw = random.Random(seed)
    limits = sorted({10, 100, 6000, size - 1, size - 70_000, *(draw.randrange(4000, size) for _ in range(7))})
    command = [sys.executable, "-c", AT_LIMITS, tmp_path, images, depth, json.dumps(limits)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
    results: list[list[Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert [limit for limit, *_ in results] == limits
    assert len({written for _, written, *_ in results}) > 2
    for limit, written, committed, printed in results:
        folder = tmp_path / str(limit)
        assert not committed
        assert printed, f"limit {limit}"
        journal = folder / "episode_0.hdf5.partial"
        if not written and "cannot be begun" in printed[0]:
            assert os.listdir(folder) == []
            continue
        for message in printed:
            assert "File too large" in message
            assert f" {written} steps are safe in {journal}" in message
        assert os.listdir(folder) == [journal.name]
        (found,) = recover_all(folder)
        assert (found.steps, found.outcome) == (written, "recovered" if written else "empty")
        for path in list_episodes(folder):
            with Episode.open(path) as episode:
                np.testing.assert_array_equal(episode.action, [Rig().action(i) for i in range(written)])


def journal_of(folder: Path, steps: int = 444, end: bytes | None = None) -> Path:
    """A journal as a kill leaves it, with an end record of `end` where given."""
    rig = Rig(sizes={"cam_high": (8, 8)})
    writer = writer_for(folder, rig, images="raw")
    feed(writer, rig, steps)
    writer._stop()
    if end is not None:
        writer._journal.append(END, [end])
    journal = writer.path.with_name(writer.path.name + ".partial")
    writer._close("kept")
    return journal


@pytest.mark.parametrize(
    "end",
    [
        *({"cut": cut} for cut in (444, 445, 10**9, -3, "7", True, 1.5, None, [1])),
        {"success": "yes"}, {"describe": None}, {"reason": 4}, {"schema": "another"}, {"": ""}, [], None, "junk",
    ],
)  # fmt: skip
def test_a_wrong_end_record_costs_no_row(tmp_path: Path, end: object) -> None:
    journal = journal_of(tmp_path, 44 if isinstance(end, dict) and "cut" not in end else 444, json.dumps(end).encode())
    steps = 44 if isinstance(end, dict) and "cut" not in end else 444
    content = journal.read_bytes()
    (found,) = recover_all(tmp_path)
    assert (found.outcome, found.steps) == ("recovered", steps)
    assert "the end record" in found.message
    assert sorted(os.listdir(tmp_path)) == ["episode_0.hdf5", "episode_0.hdf5.kept"]
    assert (tmp_path / "episode_0.hdf5.kept").read_bytes() == content
    assert recover_all(tmp_path) == []  # what is kept aside is no journal any more
    with Episode.open(tmp_path / "episode_0.hdf5") as episode:
        assert (episode.length, episode.success) == (steps, False)
        assert episode.attrs["reason"] == f"interrupted: recovered {steps} steps"


def test_the_end_record_is_obeyed_where_it_is_right(tmp_path: Path) -> None:
    end = json.dumps({"cut": 30, "reason": "done", "error": False, "success": None}).encode()
    content = journal_of(tmp_path, 44, end).read_bytes()
    (found,) = recover_all(tmp_path)
    assert (found.outcome, found.steps) == ("recovered", 14)
    assert (
        found.message
        == "whole, 14 steps; the last 30 steps left out, as its end records: journal kept as episode_0.hdf5.kept"
    )
    assert (tmp_path / "episode_0.hdf5.kept").read_bytes() == content


def test_rows_behind_the_damage_are_kept(tmp_path: Path) -> None:
    journal = journal_of(tmp_path, 60)
    content = bytearray(journal.read_bytes())
    fd = os.open(journal, os.O_RDONLY)
    contents = scan(fd, journal)
    os.close(fd)
    assert contents is not None
    for where, steps in ((contents.rows[31] + 40, 30), (contents.rows[31] + 8, 30), (contents.rows[60] + 40, 59)):
        folder = tmp_path / str(where)
        folder.mkdir()
        damaged = bytearray(content)
        damaged[where] ^= 0x41  # in the row, in its length (which then points anywhere), in the last row
        (folder / journal.name).write_bytes(damaged)
        (found,) = recover_all(folder)
        assert (found.outcome, found.steps) == ("recovered", steps)
        assert "cannot be used" in found.message
        assert "kept as episode_0.hdf5.kept" in found.message
        assert (folder / "episode_0.hdf5.kept").read_bytes() == bytes(damaged)


@pytest.mark.parametrize("row", ["header", 0, 1])
@pytest.mark.parametrize("byte", [8, 9, 10, 11, 30])
def test_damage_before_the_first_step_deletes_nothing(tmp_path: Path, row: int | str, byte: int) -> None:
    journal = journal_of(tmp_path, 60)
    content = bytearray(journal.read_bytes())
    fd = os.open(journal, os.O_RDONLY)
    contents = scan(fd, journal)
    os.close(fd)
    assert contents is not None
    content[(16 if isinstance(row, str) else contents.rows[row]) + byte] ^= 0x10
    journal.write_bytes(content)
    (found,) = recover_all(tmp_path)
    assert found.outcome == "failed"
    assert os.listdir(tmp_path) == [journal.name]
    assert journal.read_bytes() == bytes(content)


def test_what_a_power_cut_leaves_is_no_row(tmp_path: Path) -> None:
    """A torn record, and zeros that the file system put in place of what never arrived."""
    for number, tail in enumerate((b"", bytes(5000), b"AKRs", None)):
        folder = tmp_path / str(number)
        journal = journal_of(folder, 20)
        content = journal.read_bytes()
        journal.write_bytes(content[:-100] if tail is None else content + tail)
        (found,) = recover_all(folder)
        assert (found.outcome, found.steps) == ("recovered", 19 if tail is None else 20)
        assert os.listdir(folder) == ["episode_0.hdf5"]


def test_a_damaged_episode_does_not_cost_its_journal(tmp_path: Path) -> None:
    """Killed between commit and the removal of the journal, then a bit of the episode flipped."""
    rig = Rig()
    writer = writer_for(tmp_path, rig)
    feed(writer, rig, 5)
    partial, saved = tmp_path / "episode_0.hdf5.partial", tmp_path / "saved"
    os.link(partial, saved)
    writer.on_end(outcome(5))
    os.rename(saved, partial)
    content = bytearray(writer.path.read_bytes())
    content[len(content) // 2] ^= 1
    writer.path.write_bytes(content)
    (found,) = recover_all(tmp_path)
    assert (found.outcome, found.episode) == ("recovered", tmp_path / "episode_1.hdf5")
    assert writer.path.read_bytes() == bytes(content)
    with Episode.open(tmp_path / "episode_1.hdf5") as episode:
        np.testing.assert_array_equal(episode.action, [rig.action(i) for i in range(5)])
    assert sorted(os.listdir(tmp_path)) == ["episode_0.hdf5", "episode_1.hdf5"]


def test_recovery_on_a_full_disk_names_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the index was taken meanwhile: the rows are where they were, and nothing else is left."""
    rig = Rig()
    journal = journal_of(tmp_path, 20)
    (tmp_path / "episode_0.hdf5").write_bytes(b"another")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("aloha_kit.storage.transaction.commit", full)
    (found,) = recover_all(tmp_path)
    assert found.outcome == "failed"
    assert f"20 steps are safe in {journal}; make room" in found.message
    assert sorted(os.listdir(tmp_path)) == ["episode_0.hdf5", "episode_0.hdf5.partial"]
    monkeypatch.undo()
    assert recover_all(tmp_path)[0].episode == tmp_path / "episode_1.hdf5"
    assert rig.contract


def test_what_does_not_read_back_is_not_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes a byte and gives another: the journal stays, the wrong file goes."""
    journal = journal_of(tmp_path, 20)
    from aloha_kit.storage import journal_to_hdf5

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        at = content.find(np.float32(Rig().action(7)[0]).tobytes())
        content[at] ^= 1
        path.write_bytes(content)

    monkeypatch.setattr(journal_to_hdf5.checksums, "seal", flip)
    (found,) = recover_all(tmp_path)
    assert found.outcome == "failed"
    assert "does not read back as it was written" in found.message
    assert os.listdir(tmp_path) == [journal.name]


def test_only_what_the_disk_confirmed_is_called_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network disk may refuse at the sync what it took at the write."""
    rig = Rig(sizes={"cam_high": (8, 8)})
    writer = writer_for(tmp_path, rig, flush_s=0.02)
    feed(writer, rig, 5)
    while writer._synced < 6:
        pass

    def refuse(_: Journal) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Journal, "sync", refuse)
    with pytest.raises(Exception, match="Input/output error") as raised:
        feed(writer, rig, 10_000, start=5)
    with pytest.raises(Exception, match="Input/output error") as raised:
        writer.on_end(outcome(writer.written))
    assert f"5 steps are safe in {writer.path}.partial ({writer.written - 5} more were written" in str(raised.value)
