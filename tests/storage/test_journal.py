"""The journal gives back the longest prefix of whole rows, whatever was cut off or flipped."""

import os
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloha_kit.core import EpisodeError
from aloha_kit.storage.journal import Contents, END, HEADER, Journal, read_row, row_parts, scan, STEP
from aloha_kit.storage.rows import RowLayout

LAYOUT = RowLayout((("qpos", (2,)), ("action", (2,)), ("reward", ())), ("qpos", "command"), (("top", 2, 2),), ())
ROWS = 6


def image(row: int) -> bytes:
    return bytes([row + 1]) * (5 + row)


def record_of(row: int) -> np.ndarray:
    record = np.zeros((), LAYOUT.dtype)
    record["qpos"], record["action"], record["stamps"] = (row, -row), (row * 2, 7), (row * 10**15, 3)
    return record


def write(path: Path, rows: int = ROWS, *, end: bool = True) -> list[int]:
    """A journal; returns the size of the file after each record, the header's first."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    journal = Journal(fd)
    journal.append_json(HEADER, {"layout": LAYOUT.to_mapping(), "task": "x"})
    sizes = [os.fstat(fd).st_size]
    for row in range(rows):
        parts, _ = row_parts(record_of(row), [image(row)])
        journal.append(STEP, parts)
        sizes.append(os.fstat(fd).st_size)
    if end:
        journal.append_json(END, {"reason": "complete"})
    journal.sync()
    os.close(fd)
    return sizes


def read(path: Path) -> Contents | None:
    fd = os.open(path, os.O_RDONLY)
    try:
        contents = scan(fd, path)
        for row in range(len(contents.rows) if contents else 0):
            assert contents is not None
            record, images = read_row(fd, contents, row)
            assert record.tobytes() == record_of(row).tobytes()
            assert [bytes(p) for p in images] == [image(row)]
        return contents
    finally:
        os.close(fd)


def test_a_whole_journal(tmp_path: Path) -> None:
    write(tmp_path / "j")
    contents = read(tmp_path / "j")
    assert contents is not None
    assert (len(contents.rows), contents.longest, contents.problem) == (ROWS, [5 + ROWS - 1], "")
    assert contents.header["task"] == "x"
    assert contents.layout == LAYOUT
    assert contents.end == {"reason": "complete"}
    assert contents.good_bytes == contents.total_bytes == (tmp_path / "j").stat().st_size


def test_the_record_format_is_the_documented_one(tmp_path: Path) -> None:
    """An independent reading of the bytes, from the description alone."""
    write(tmp_path / "j", 1, end=False)
    data = (tmp_path / "j").read_bytes()
    assert data[:16] == b"aloha_kit jrnl1\n"
    at, kinds = 16, []
    while at < len(data):
        kind, number, length, crc = struct.unpack_from("<4sIII", data, at)
        payload = data[at + 16 : at + 16 + length]
        assert crc == zlib.crc32(data[at : at + 12] + bytes(4) + payload)
        assert number == len(kinds)
        kinds.append(kind)
        at += 16 + length
    assert kinds == [b"AKRh", b"AKRs"]


def test_cut_off_at_every_byte(tmp_path: Path) -> None:
    path, cut = tmp_path / "j", tmp_path / "cut"
    sizes = write(path)
    data = path.read_bytes()
    for length in range(len(data) + 1):
        cut.write_bytes(data[:length])
        contents = read(cut)
        if length < sizes[0]:
            assert contents is None, f"at byte {length}"
            continue
        assert contents is not None
        whole = sum(size <= length for size in sizes) - 1
        assert len(contents.rows) == whole, f"at byte {length}"
        assert (contents.end is not None) == (length == len(data))
        assert contents.good_bytes == (length if length == len(data) else sizes[whole])
        assert bool(contents.problem) == (contents.good_bytes != length)


def test_a_damaged_length_of_the_last_row_is_no_torn_write(tmp_path: Path) -> None:
    path = tmp_path / "episode_0.hdf5.partial"
    begin = write(path, end=False)[-2]
    data = path.read_bytes()
    for bit in range(32):  # the length follows the kind and the number
        flipped = bytearray(data)
        flipped[begin + 8 + bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        contents = read(path)
        assert contents is not None
        assert len(contents.rows) == ROWS - 1
        assert not contents.torn, f"bit {bit}: the row is there, so that the journal has to be kept"


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_ends_the_prefix(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "j"
        sizes = write(path)
        raw = bytearray(path.read_bytes())
        position = data.draw(st.integers(0, len(raw) - 1))
        raw[position] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(raw)
        if position < 16:
            with pytest.raises(EpisodeError, match=r"is (not an episode|a) journal"):
                read(path)
            return
        if position < sizes[0]:
            # A length that now points past the end looks like a cut; anything else is reported as damage.
            try:
                assert read(path) is None
            except EpisodeError as error:
                assert "header" in str(error)  # noqa: PT017
            return
        contents = read(path)  # compares every row that it gives with what was written
        assert contents is not None
        hit = sum(size <= position for size in sizes) - 1
        assert len(contents.rows) == min(hit, ROWS)
        assert contents.end is None
        assert contents.problem


@settings(max_examples=60, deadline=None)
@given(junk=st.binary(min_size=1, max_size=64))
def test_junk_after_the_last_record_changes_nothing(junk: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "j"
        sizes = write(path, end=False)
        path.write_bytes(path.read_bytes() + junk)
        contents = read(path)
        assert contents is not None
        assert (len(contents.rows), contents.good_bytes) == (ROWS, sizes[-1])


def test_a_failed_write_leaves_the_record_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes half a record and then refuses."""
    path = tmp_path / "j"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    journal = Journal(fd)
    journal.append_json(HEADER, {"layout": LAYOUT.to_mapping()})
    parts, _ = row_parts(record_of(0), [image(0)])
    journal.append(STEP, parts)
    size, real = path.stat().st_size, os.writev
    calls: list[int] = []

    def half(fd: int, views: list[memoryview]) -> int:
        calls.append(len(views))
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return real(fd, [views[0][:7]])

    monkeypatch.setattr(os, "writev", half)
    with pytest.raises(OSError, match="No space left"):
        journal.append(STEP, parts)
    assert path.stat().st_size == size
    monkeypatch.undo()
    parts, _ = row_parts(record_of(1), [image(1)])
    journal.append(STEP, parts)  # there is room again
    os.close(fd)
    contents = read(path)
    assert contents is not None
    assert len(contents.rows) == 2


@pytest.mark.parametrize("content", [b"\x89HDF\r\n\x1a\n", b"hello"])
def test_not_a_journal(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "j").write_bytes(content)
    with pytest.raises(EpisodeError, match="is not an episode journal: it begins"):
        read(tmp_path / "j")
