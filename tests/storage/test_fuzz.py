"""Three hundred damaged and hostile files: a verdict each, within bounded memory, whatever reads them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from aloha_kit.core import EpisodeError
from aloha_kit.episode import Episode
from aloha_kit.episode.validate import validate
from aloha_kit.storage.codec import decode_depth, decode_image, encoded_size
from aloha_kit.storage.recovery import recover
from tests.episode.command import main
from tests.storage import foreign, fuzz
from tests.storage.recording import record, Rig

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("first", [0, 150])
def test_every_damaged_file_ends_in_a_result_or_one_line(first: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.storage.fuzz", str(tmp_path), str(first), str(first + 150)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, f"it died of {done.returncode}: {done.stderr[-2000:]}"
    assert done.stdout == ""


@pytest.mark.parametrize("make", [fuzz.giant_jpeg, fuzz.giant_png, fuzz.giant_webp])
def test_an_image_that_claims_to_be_giant_is_refused_before_memory_is_taken(make: object) -> None:
    data = make()  # type: ignore[operator]
    size = encoded_size(data)
    assert size in ((65500, 65500), (16384, 16384))
    assert size is not None
    with pytest.raises(EpisodeError, match=f"its header gives {size[0]}x{size[1]} pixels"):
        decode_image(data)
    if make is fuzz.giant_png:
        with pytest.raises(EpisodeError, match="its header gives 65500x65500 pixels"):
            decode_depth(data)


@pytest.mark.parametrize(("form", "flags"), [(".jpg", []), (".png", []), (".webp", [64, 80]), (".webp", [64, 101])])
def test_the_size_of_an_encoded_image_is_read_without_decoding(form: str, flags: list[int]) -> None:
    assert cv2.IMWRITE_WEBP_QUALITY == 64
    data = cv2.imencode(form, np.zeros((24, 37, 3), np.uint8), flags)[1].tobytes()
    assert encoded_size(data) == (24, 37)
    assert encoded_size(data[:12]) is None


def test_one_bad_file_ends_nothing_for_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each of the commands names the error of each of the bad ones, and does its work on the good one."""
    record(tmp_path, 12)
    for i in range(1, 8):
        foreign.aloha(tmp_path / f"episode_{i}.hdf5", Rig())
    with h5py.File(tmp_path / "episode_1.hdf5", "r+") as file:
        del file["observations/qpos"]
        file["observations/qpos"] = h5py.Empty("f4")
    with h5py.File(tmp_path / "episode_2.hdf5", "r+") as file:
        del file["action"]
        file.create_dataset("action", (10**12, 14), "f4", chunks=(1, 14))
    with h5py.File(tmp_path / "episode_3.hdf5", "r+") as file:
        del file["observations/qpos"]
        file.create_group("observations/qpos")
    with h5py.File(tmp_path / "episode_4.hdf5", "r+") as file:
        del file["observations/images/cam_high"]
        file.create_dataset("observations/images/cam_high", (40, 60000, 60000, 3), "u1", chunks=(1, 4000, 4000, 3))
    (tmp_path / "episode_5.hdf5").write_bytes(b"")
    (tmp_path / "episode_6.hdf5").write_text("words")
    whole = (tmp_path / "episode_7.hdf5").read_bytes()
    (tmp_path / "episode_7.hdf5").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "episode_8.hdf5").mkdir()
    expected = {
        1: "/observations/qpos",
        2: "/action has shape (1000000000000, 14) in its header, 56000.0 GB: more than its file can hold",
        3: "/observations/qpos",
        4: "has rows of 10.8 GB",
        5: "is damaged or not an episode (0 bytes on disk)",
        6: "is damaged or not an episode (5 bytes on disk)",
        7: "is damaged or not an episode",
        8: "is a folder; expected an episode",
    }
    assert main(["validate", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "1 ok, 0 warning, 8 error" in out
    for text in expected.values():
        assert text in out
    for command in ("info", "stats"):
        assert main([command, str(tmp_path)]) == 1
        seen = capsys.readouterr()
        assert len([line for line in seen.err.splitlines() if " error: " in line]) == 8
        assert "1 episode, 12 " in seen.out
    assert main(["export", str(tmp_path), str(tmp_path / "copies")]) == 1
    assert [file.name for file in (tmp_path / "copies").iterdir()] == ["episode_0.hdf5"]
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rate_hz", float("nan")), ("rate_hz", 0.0), ("rate_hz", "fast"), ("rate_hz", np.arange(3.0)),
        ("contract", "{}"), ("contract", "[]"), ("contract", "NaN"), ("contract", "[" * 30000), ("camera_names", 3.0),
    ],
)  # fmt: skip
def test_attributes_of_an_odd_type_are_named(key: str, value: object, tmp_path: Path) -> None:
    path = record(tmp_path, 12)
    with h5py.File(path, "r+") as file:
        file.attrs[key] = value
    (finding,) = validate(path).findings
    assert finding.level == "error"
    assert key.replace("contract", "not an embodiment contract") in finding.found
    assert len(finding.found) < 500


def test_odd_attributes_that_nothing_depends_on_are_shown_as_text(tmp_path: Path) -> None:
    path = record(tmp_path, 12)
    with h5py.File(path, "r+") as file:
        for i, value in enumerate([file.ref, np.complex64(1j), np.void(b"a"), b"\xff\xfe", np.array([b"a", b"\xff"])]):
            file.attrs[f"x{i}"] = value
        file.attrs["x5"] = h5py.Empty("f4")
    with Episode.open(path) as episode:
        found = episode.attrs
    assert found["x1"] == "1j"
    assert found["x3"] == "��"
    assert found["x4"] == ["a", "�"]


def test_a_journal_of_another_version_is_left_as_it_is(tmp_path: Path) -> None:
    journal = tmp_path / "episode_0.hdf5.partial"
    (tmp_path / "out").mkdir()
    fuzz.make_journal(journal, 9)
    data = journal.read_bytes().replace(b"aloha_kit jrnl1\n", b"aloha_kit jrnl7\n")
    journal.write_bytes(data)
    found = recover(journal)
    assert (found.outcome, found.message) == (
        "failed", "is a journal of version '7', this version reads '1'; left as it is"
    )  # fmt: skip
    assert journal.read_bytes() == data
