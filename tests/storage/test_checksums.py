"""A flipped bit anywhere in an episode's file is found; copies, other readers and older files are none the worse."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from aloha_kit.core import EpisodeError
from aloha_kit.episode import Episode
from aloha_kit.episode.validate import validate
from aloha_kit.storage import checksums
from aloha_kit.storage.export import export
from aloha_kit.storage.label import label
from tests.episode.command import main
from tests.storage.recording import record, Rig

FLIPS = """
import random, sys
from pathlib import Path
from aloha_kit.episode.validate import validate
source, target, seed, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
whole, draw, found = source.read_bytes(), random.Random(seed), 0
for _ in range(count):
    content = bytearray(whole)
    bit = draw.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    target.write_bytes(content)
    verdict = validate(target, deep=True)
    found += verdict.level == "error"
    if verdict.level != "error":
        print("missed", bit, file=sys.stderr)
print(found)
"""


def table_of(path: Path) -> tuple[list[int], list[int]]:
    """The table as stored and as it should be, computed from the description in docs/data_format.md alone."""
    with h5py.File(path) as file:
        stored = file["checksums"][()].tolist()
        begin, size = file["checksums"].id.get_offset(), file["checksums"].id.get_storage_size()
    content = bytearray(path.read_bytes())
    content[begin : begin + size] = bytes(size)
    blocks = [zlib.crc32(content[at : at + 65536]) for at in range(0, len(content), 65536)]
    return stored, blocks + [0] * (len(stored) - len(blocks))


@pytest.fixture(scope="module")
def episode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("sums"), 80, Rig(depth=True, base=True))


@pytest.mark.parametrize(("images", "seed", "steps"), [("jpeg", 1, 12), ("raw", 2, 12), ("jpeg", 3, 1)])
def test_a_flipped_bit_is_found(tmp_path: Path, images: str, seed: int, steps: int) -> None:
    """At any place: pixels, numbers, names, attributes, padding, the table. In a process: damage may crash HDF5."""
    source = record(tmp_path / "good", steps, Rig(depth=True), images=images)
    command = [sys.executable, "-c", FLIPS, source, tmp_path / "episode_0.hdf5", str(seed), "100"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout.strip()) == (0, "100"), done.stderr[-2000:]


@pytest.mark.parametrize("length", [0, 1, 100])
@pytest.mark.parametrize("images", ["jpeg", "raw"])
def test_bytes_added_or_taken_are_found(tmp_path: Path, images: str, length: int) -> None:
    path = record(tmp_path, 5, images=images)
    with path.open("ab") as file:
        file.write(bytes(length))
    assert (checksums.damage(path) == []) == (length == 0)
    os.truncate(path, path.stat().st_size - length - 1)
    assert validate(path, deep=True).level == "error"


def test_the_table_is_the_documented_one(episode: Path, tmp_path: Path) -> None:
    stored, expected = table_of(episode)
    assert stored == expected
    assert checksums.damage(episode) == []
    big = record(tmp_path, 90, Rig(sizes={"cam_high": (48, 64)}), images="raw")
    stored, expected = table_of(big)
    assert sum(value != 0 for value in stored) > 10
    assert stored == expected


def test_the_damaged_rows_are_named(tmp_path: Path) -> None:
    path = record(tmp_path, 90, Rig(sizes={"cam_high": (48, 64)}), images="raw")
    with h5py.File(path) as file:
        begin = file["observations/images/cam_high"].id.get_offset()
    with path.open("r+b") as file:
        file.seek(begin + 50 * 48 * 64 * 3)
        file.write(b"\xff\x00\xff\x01")
    (message,) = checksums.damage(path) or []
    assert message.startswith("1 of its blocks of 64 KiB differ, in /observations/images/cam_high rows ")
    first, last = (int(word) for word in message.split(" rows ")[1].split(" to "))
    assert first <= 50 <= last <= first + 8
    with pytest.raises(EpisodeError, match="is not as it was written: 1 of its blocks"):
        label(path, success=True)  # which would vouch for the damage


def test_validate_reports(episode: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(episode, tmp_path / "episode_0.hdf5")
    assert main(["validate", str(tmp_path), "--deep", "--strict"]) == 0
    assert "every byte is as it was written" in capsys.readouterr().out
    with h5py.File(tmp_path / "episode_0.hdf5", "r+") as file:
        file.attrs["task"] = "another"
    assert main(["validate", str(tmp_path)]) == 0
    assert main(["validate", str(tmp_path), "--deep"]) == 1
    assert "damaged, or changed by another program, since it was written" in capsys.readouterr().out


def test_a_file_without_checksums_reports_it(episode: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(shutil.copy(episode, tmp_path / "episode_0.hdf5"))
    with h5py.File(path, "r+") as file:
        del file["checksums"], file.attrs["checksums"]
    assert checksums.damage(path) is None
    assert main(["validate", str(tmp_path), "--deep", "--strict"]) == 0
    assert "no checksums" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["table", "attribute"])
def test_half_of_the_checksums_is_damage(episode: Path, tmp_path: Path, what: str) -> None:
    """Damage that one of the two misses is found by the other."""
    path = Path(shutil.copy(episode, tmp_path / "episode_0.hdf5"))
    with h5py.File(path, "r+") as file:
        if what == "table":
            del file["checksums"]
        else:
            del file.attrs["checksums"]
    assert checksums.damage(path)


def test_changes_of_ours_keep_the_checksums_right(episode: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(episode, tmp_path / "episode_0.hdf5"))
    for success in (False, True):
        label(path, success=success)
        assert checksums.damage(path) == []
        with Episode.open(path) as labelled:
            assert labelled.success is success
    for flags in ({"classic": True}, {"raw": True}, {"start": 3, "stop": 9}):
        copy = export(path, tmp_path / json.dumps(flags), **flags)  # type: ignore[arg-type]
        assert checksums.damage(copy) == []
        with h5py.File(copy) as file, Episode.open(copy) as read:
            assert file["checksums"].shape != (read.length,)
            assert "checksums" not in read.cameras


def test_damage_of_whole_stretches_is_found(episode: Path, tmp_path: Path) -> None:
    """What disks do: sectors of zeros, sectors of another file."""
    whole = episode.read_bytes()
    path = tmp_path / "episode_0.hdf5"
    draw = random.Random(7)
    with h5py.File(episode) as file:
        begin = file["observations/images/cam_high"].id.get_offset()
        length = file["observations/images/cam_high"].id.get_storage_size()
    for size in (1, 2, 4, 512, 4096):
        content = bytearray(whole)
        at = begin + draw.randrange(length - size)
        content[at : at + size] = np.random.default_rng(size).bytes(size)
        if bytes(content) == whole:
            continue
        path.write_bytes(content)
        assert checksums.damage(path), f"{size} bytes at {at}"
