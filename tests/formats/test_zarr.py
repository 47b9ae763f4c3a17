"""Replay buffers of Diffusion Policy: ours read by the zarr package, others' written by it, damage in one line."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr

from aloha_kit.convert.__main__ import main as convert
from aloha_kit.core import ContractError, EpisodeError
from aloha_kit.episode import Episode
from aloha_kit.formats import format_of, open_source, ReadOptions
from aloha_kit.formats.zarr_export import ZarrExporter
from aloha_kit.formats.zarr_source import ZarrSource
from aloha_kit.storage.contract_file import given_contract
from aloha_kit.testing.exporters import check_exporter
from aloha_kit.testing.sources import check_source
from tests.commands import failure
from tests.formats.round_trip import (
    convert_interrupted,
    InterruptedOnce,
    LENGTHS,
    require_depth,
    require_same,
    write_depth,
    write_ours,
)
from tests.formats.test_pusht import write
from tests.synthetic import write_dataset

CAMERAS = {"top": (24, 32), "left_wrist": (16, 24)}
ENDS = np.cumsum(LENGTHS)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ours(tmp_path_factory.mktemp("data"), CAMERAS)


@pytest.fixture(scope="module")
def buffer(ours: Path) -> Path:
    made = ours.with_name("ours.zarr")
    convert([str(ours), str(made), "--format", "zarr"])
    return made


def test_the_zarr_package_reads_what_was_written(ours: Path, buffer: Path) -> None:
    root: Any = zarr.open_group(str(buffer), mode="r")
    assert root["meta/episode_ends"][:].tolist() == ENDS.tolist()
    assert root["meta/episode_ends"].dtype == np.int64
    names = {"state", "action", "top", "left_wrist", "environment_state", "reward", "stamps.qpos", "stamps.command"}
    assert names <= set(root["data"])
    records = [json.loads(line) for line in (buffer / "conversion_episodes.jsonl").read_text().splitlines()]
    for number, (length, end) in enumerate(zip(LENGTHS, ENDS, strict=True)):
        rows = slice(int(end) - length, int(end))
        with Episode.open(ours / f"episode_{number}.hdf5") as episode:
            assert episode.base_action is not None
            action = np.concatenate([episode.action, episode.base_action], axis=1)
            for key, values in {
                "action": action,
                "state": episode.qpos[:-1],
                "environment_state": episode.vectors["environment_state"][:-1],
                "stamps.images.top": episode.stamps["images/top"][:-1],
                "stamps.command": episode.stamps["command"],
            }.items():
                assert np.array_equal(root[f"data/{key}"][rows], values), key
                assert root[f"data/{key}"].dtype == values.dtype
            for camera, size in CAMERAS.items():
                assert root[f"data/{camera}"].chunks == (1, *size, 3)
                images = np.stack([episode.image(camera, i) for i in range(length)])
                assert np.array_equal(root[f"data/{camera}"][rows], images)
                digest = hashlib.sha256(images.tobytes()).hexdigest()
                assert records[number]["images"][camera] == {"rows": length, "sha256": digest, "of": "rgb"}
        assert records[number]["lost"] == ["the observation after the last action"]
    for name, array in root["data"].arrays():  # what Diffusion Policy requires of each
        assert array.shape[0] == ENDS[-1], name
        assert json.loads((buffer / "data" / name / ".zarray").read_text())["zarr_format"] == 2


def test_the_way_back(ours: Path, buffer: Path, tmp_path: Path) -> None:
    packed = Path(shutil.make_archive(str(tmp_path / "ours"), "zip", buffer.parent, buffer.name))  # in a folder of it
    for place in (buffer, packed):
        source = open_source(place)
        check_source(source)
        assert source.unused == ""
        for number, length in enumerate(LENGTHS):
            with Episode.open(ours / f"episode_{number}.hdf5") as old, closing(source.episode(number)) as new:
                require_same(new, old)
                assert np.array_equal(new.image("left_wrist", length - 1), old.image("left_wrist", length - 1))


def test_the_exporter_keeps_the_contract(tmp_path: Path) -> None:
    write_dataset(tmp_path / "ours", (6, 5))
    (tmp_path / "made").mkdir()
    made = check_exporter(ZarrExporter, open_source(tmp_path / "ours"), tmp_path / "made")
    assert (made / "data" / "img" / "10.0.0.0").is_file()  # of the only camera
    write_dataset(tmp_path / "mixed", (6,))
    write_dataset(tmp_path / "mixed", (6,), {"top": (16, 16)})
    assert "camera 'top': (24, 32)" in failure(convert, [*map(str, (tmp_path / "mixed", tmp_path / "o")), *FORMAT])


def test_depth_comes_back_exactly(tmp_path: Path) -> None:
    written = write_depth(tmp_path / "ours")
    (tmp_path / "made").mkdir()
    made = check_exporter(ZarrExporter, open_source(tmp_path / "ours"), tmp_path / "made")
    array: Any = zarr.open_group(str(made), mode="r")["data/top_depth"]
    assert (array.dtype, array.shape, array.chunks) == (np.uint16, (11, 20, 28), (1, 20, 28))
    assert np.array_equal(array[:], np.concatenate([depth[:-1] for depth in written.values()]))
    source = open_source(made)
    check_source(source)
    assert source.unused == ""
    require_depth(source, written, rows_after=0)
    before = [source.identity(number) for number in range(2)]
    chunk = made / "data" / "top_depth" / "7.0.0"
    chunk.write_bytes((made / "data" / "top_depth" / "6.0.0").read_bytes())
    after = [open_source(made).identity(number) for number in range(2)]
    assert (before[0] == after[0], before[1] == after[1]) == (True, False), "caches notice another depth"


FORMAT = ["--format", "zarr"]


class Interrupted(InterruptedOnce, ZarrExporter):
    def half_written(self) -> Path:
        return self.parts / "000001" / "tables.npz"


def test_an_interrupted_conversion_goes_on(ours: Path, buffer: Path, tmp_path: Path, capsys: Any) -> None:
    convert_interrupted(Interrupted, ours, tmp_path / "out", capsys)
    files = {path.relative_to(buffer) for path in buffer.rglob("*") if path.name != "conversion.json"}
    assert files == {p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*")} - {Path("conversion.json")}
    for file in files:
        if (buffer / file).is_file():
            assert (tmp_path / "out" / file).read_bytes() == (buffer / file).read_bytes(), file


def others() -> dict[str, Any]:
    """Arrays as a program of Diffusion Policy's family writes them."""
    rng, rows = np.random.default_rng(0), int(ENDS[-1])
    return {
        "data/action": rng.uniform(-1, 1, (rows, 14)),
        "data/state": rng.uniform(-1, 1, (rows, 14)).astype(np.float32),
        "data/head_camera": rng.integers(1, 256, (rows, 3, 20, 28)).astype(np.uint8),
        "data/img": rng.integers(1, 256, (rows, 24, 24, 3)).astype(np.float32),
        "data/keypoint": rng.uniform(0, 1, (rows, 9, 2)).astype(np.float32),
        "data/timestamp": 1.7e9 + np.arange(rows) / 10,
        "data/depth": rng.uniform(0, 1, (rows, 24, 24)).astype(np.float32),
        "meta/episode_ends": ENDS.astype(np.int64),
    }


def test_a_buffer_of_others_needs_a_contract(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values, place = others(), write(tmp_path, others())
    assert format_of(place) == "zarr"
    message = failure(convert, [str(place), str(tmp_path / "out"), "--format", "hdf5"])
    assert "does not record names and units of its numbers: give --rig NAME" in message
    assert "rate_hz: 10.0" in capsys.readouterr().out
    source = open_source(place, options=ReadOptions(given_contract(None, "sim")))
    check_source(source)
    assert source.unused.endswith("arrays that are not read: depth")
    with closing(source.episode(1)) as episode:
        assert (episode.length, episode.rate_hz, episode.contract.units["joints"]) == (12, 10, "rad")
        assert episode.contract.cameras == {"head_camera": (20, 28), "img": (24, 24)}
        np.testing.assert_array_equal(episode.action, values["data/action"][9:21].astype(np.float32))
        np.testing.assert_array_equal(episode.vectors["sensors/keypoint"][3], values["data/keypoint"][12].reshape(-1))
        np.testing.assert_array_equal(episode.image("img", 11), values["data/img"][20])
        np.testing.assert_array_equal(episode.image("head_camera", 0).transpose(2, 0, 1), values["data/head_camera"][9])
        assert episode.stamps["deadline"].tolist() == [round(t * 1e9) for t in values["data/timestamp"][9:21]]
    convert([str(place), str(tmp_path / "out"), "--format", "hdf5", "--rig", "sim", "--images", "raw"])
    with Episode.open(tmp_path / "out" / "episode_2.hdf5") as episode:
        assert np.array_equal(episode.image("img", 6), values["data/img"][27])
    narrow = write(tmp_path / "narrow", {**values, "data/state": values["data/state"][:, :6]})
    with pytest.raises(ContractError, match="names 14 entries of qpos"):
        open_source(narrow, options=ReadOptions(given_contract(None, "sim")))


def changed(**arrays: Any) -> Callable[[Path], None]:
    """Write a buffer of others with some arrays changed, or left out where None."""
    values = {**others(), **{name.replace("__", "/"): value for name, value in arrays.items()}}
    return lambda folder: (write(folder, {k: v for k, v in values.items() if v is not None}), None)[1]


def damaged(name: str, left: int | None) -> Callable[[Path], None]:
    """Cut a file of a buffer to so many bytes, or remove it."""

    def damage(folder: Path) -> None:
        file = write(folder, others()) / name
        if left is None:
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[:left])

    return damage


def uncompressed(folder: Path) -> None:
    """Cut a chunk without compression."""
    place = write(folder, others())
    array = place / "data" / "action"
    about = json.loads((array / ".zarray").read_text())
    chunk = numcodecs.get_codec(about["compressor"]).decode((array / "1.0").read_bytes())
    (array / ".zarray").write_text(json.dumps({**about, "compressor": None}))
    for file in array.glob("[0-9]*"):
        file.write_bytes(bytes(chunk)[:-8])


def version_3(folder: Path) -> None:
    write(folder, others())
    (folder / "pusht_cchi_v7_replay.zarr" / "zarr.json").write_text("{}")


def no_zip(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pusht_cchi_v7_replay.zarr.zip").write_bytes(b"PK no zip")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (changed(meta__episode_ends=None), "is no replay buffer: it lacks meta/episode_ends"),
        (changed(meta__episode_ends=ENDS / 1.0), "must be a row of whole numbers, given (3,) float64"),
        (changed(meta__episode_ends=np.array([5, 5, 28])), "must be ascending row numbers, given [5, 5, 28]"),
        (changed(data__state=None), "has no array of the state: expected state or qpos or"),
        (changed(data__action=np.zeros((28, 2, 3))), "action is (28, 2, 3) float64, expected numbers of the shape"),
        (changed(data__action=np.full((28, 2), "x")), "action is (28, 2) <U1, expected numbers of the shape"),
        (changed(data__keypoint=np.zeros((27, 9, 2))), "ends at row 28, and the arrays have rows: "),
        (changed(data__img=np.random.default_rng(0).random((28, 8, 8, 3))), "has values from 0 to 1, expected 0 to"),
        (version_3, "is of Zarr's version 3; replay buffers of Diffusion Policy are of version 2"),
        (no_zip, "is neither a folder nor a sound .zip"),
        (damaged("data/img/1.0.0.0", 900), "chunk data/img/1.0.0.0 is damaged"),
        (damaged("data/img/1.0.0.0", None), "is incomplete: it lacks the chunk data/img/1.0.0.0"),
        (damaged("data/action/1.0", 30), "chunk data/action/1.0 is damaged"),
        (damaged("data/action/.zarray", 30), "an array of data cannot be opened"),
        (uncompressed, "chunk data/action/0.0 is damaged"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, make: Callable[[Path], None], words: str) -> None:
    make(tmp_path / "in")
    (place,) = (tmp_path / "in").iterdir()
    message = failure(convert, [str(place), str(tmp_path / "out"), "--format", "act", "--rig", "sim"])
    assert words in message
    assert "\n" not in message.strip()
    assert not (tmp_path / "out").exists()


def test_places_that_are_none() -> None:
    with pytest.raises(EpisodeError, match="no folder 'nowhere'; expected a replay buffer"):
        open_source("nowhere", kind="zarr")
    with pytest.raises(EpisodeError, match="is one folder or \\.zip, given 2"):
        ZarrSource(["a", "b"], ReadOptions())
