"""Folders of MP4 and a table: ours read by PyAV and pyarrow, those of others and ABC's, damage in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from aloha_kit.convert.__main__ import main as convert
from aloha_kit.core import EpisodeError
from aloha_kit.core.jpeg import psnr
from aloha_kit.episode import Episode
from aloha_kit.formats import format_of, open_source, ReadOptions
from aloha_kit.formats.mp4_export import Mp4Exporter
from aloha_kit.storage.contract_file import given_contract
from aloha_kit.testing.exporters import check_exporter
from aloha_kit.testing.sources import check_source
from tests.commands import failure
from tests.formats.round_trip import convert_interrupted, InterruptedOnce, LENGTHS, require_same, write_ours
from tests.synthetic import write_dataset

CAMERAS = {"top": (48, 64), "left_wrist": (31, 45)}  # odd sizes, which yuv420p has not


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ours(tmp_path_factory.mktemp("data"), CAMERAS)


@pytest.fixture(scope="module")
def folders(ours: Path) -> Path:
    made = ours.with_name("folders")
    convert([str(ours), str(made), "--format", "mp4"])
    return made


def test_pyav_and_pyarrow_read_what_was_written(ours: Path, folders: Path) -> None:
    for number, length in enumerate(LENGTHS):
        folder = folders / f"episode_{number:06d}"
        table = pq.read_table(folder / "table.parquet")
        with Episode.open(ours / f"episode_{number}.hdf5") as episode:
            assert table["timestamp"].to_pylist() == [i / 50 for i in range(length)]  # constant rate
            assert table["stamps/images/top"].to_pylist() == episode.stamps["images/top"][:length].tolist()  # true ones
            for i, entry in enumerate(episode.contract.state_names):
                assert np.array_equal(table[f"qpos.{entry}"], episode.qpos[:length, i])
                assert np.array_equal(table[f"action.{entry}"], episode.action[:, i])
            assert episode.base_action is not None
            assert np.array_equal(table["base_action.base_angular"], episode.base_action[:, 1])
            for camera, (height, width) in CAMERAS.items():
                with av.open(str(folder / f"{camera}.mp4")) as video:
                    frames = list(video.decode(video=0))
                assert [Fraction(frame.pts) * frame.time_base for frame in frames] == [
                    Fraction(i, 50) for i in range(length)
                ]
                for i, frame in enumerate(frames):
                    image = frame.to_ndarray(format="rgb24")[:height, :width]
                    assert psnr(episode.image(camera, i), image) > 25


def test_the_way_back(ours: Path, folders: Path) -> None:
    source = open_source(folders)
    assert format_of(folders) == "mp4"
    check_source(source)
    for number, length in enumerate(LENGTHS):
        with Episode.open(ours / f"episode_{number}.hdf5") as old, closing(source.episode(number)) as new:
            require_same(new, old)
            assert new.name == f"episode_{number:06d}"
            for i in (length - 1, 0, 3, 2):
                assert psnr(new.image("left_wrist", i), old.image("left_wrist", i)) > 25


class Interrupted(InterruptedOnce, Mp4Exporter):
    def half_written(self) -> Path:
        return self.folder / "episode_000001" / "top.mp4"


def test_exporter_and_interruption(ours: Path, folders: Path, tmp_path: Path, capsys: Any) -> None:
    write_dataset(tmp_path / "ours", (6, 5))
    (tmp_path / "made").mkdir()
    check_exporter(Mp4Exporter, open_source(tmp_path / "ours"), tmp_path / "made")
    convert_interrupted(Interrupted, ours, tmp_path / "out", capsys)
    for file in folders.glob("episode_*/*"):
        assert (tmp_path / "out" / file.relative_to(folders)).read_bytes() == file.read_bytes(), file


def video(path: Path, frames: Sequence[npt.NDArray[np.uint8]], times: Sequence[int]) -> None:
    """A video of frames at irregular times (ms), with frames that depend on later ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "12", "bf": "2", "g": "5"})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for image, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


ROWS = 12
IMAGES = [np.full((48, 32, 3), 20 * i, np.uint8) for i in range(ROWS)]
TIMES = [35 * i + 7 * (i % 3) for i in range(ROWS)]
TABLE = np.random.default_rng(0).uniform(-1, 1, (ROWS, 14))


def foreign(folder: Path, kind: str) -> Path:
    """Two folders as others write them."""
    for name in ("run_2", "run_10"):
        video(folder / name / "front.mp4", IMAGES, TIMES)
        columns = {f"state.j{i}": TABLE[:, i] for i in range(14)} | {f"action_{i}": TABLE[:, i] / 2 for i in range(14)}
        table = pa.table({"phase": ["reach"] * ROWS, **columns})
        if kind == "csv":
            pyarrow.csv.write_csv(table, folder / name / "log.csv")
        else:
            table = pa.table({"state": TABLE.tolist(), "action": (TABLE / 2).tolist()})
            pq.write_table(table, folder / name / "log.parquet")
    return folder


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_folders_of_others_need_a_contract(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    place = foreign(tmp_path / "in", kind)
    flags = [str(place), str(tmp_path / "out"), "--from_format", "mp4", "--format", "hdf5"]
    assert "does not record names and units of its numbers" in failure(convert, flags)
    assert ("j0" in capsys.readouterr().out) == (kind == "csv")
    source = open_source(place, kind="mp4", options=ReadOptions(given_contract(None, "sim")))
    check_source(source)
    with closing(source.episode(1)) as episode:
        assert (episode.name, episode.length) == ("run_10", ROWS)
        np.testing.assert_array_equal(episode.action, (TABLE / 2).astype(np.float32))
        np.testing.assert_array_equal(episode.qpos, TABLE.astype(np.float32))
        for i in (11, 4, 5, 0):  # by number, whatever the times are
            assert psnr(episode.image("front", i), IMAGES[i]) > 35
    convert([*flags, "--rig", "sim"])


def abc(folder: Path) -> Path:
    """An episode of ABC's training data, after the description of its layout."""
    episode = folder / "train_real" / "episode_1f"
    video(episode / "combined_camera-images-rgb.mp4", IMAGES, [round(i * 100 / 3) for i in range(ROWS)])
    np.concatenate([TABLE, TABLE / 2], axis=1).tofile(episode / "states_actions.bin")
    about = {"task_name": "put_bottles", "cameras": ["top", "left", "right"], "num_steps": ROWS}
    about |= {"t0_ns": 1_700_000_000_000_000_000, "tick_ns": 33_333_333}
    (episode / "episode_metadata.json").write_text(json.dumps(about))
    return folder


def test_training_data_of_abc(tmp_path: Path) -> None:
    source = open_source(abc(tmp_path))
    check_source(source)
    with closing(source.episode(0)) as episode:
        assert (episode.name, episode.length, episode.rate_hz) == ("train_real-episode_1f", ROWS, 30.0)
        assert episode.contract.cameras == {"top": (16, 32), "left": (16, 32), "right": (16, 32)}
        assert episode.contract.action_names[6:8] == ("left_gripper", "right_joint_0")
        assert episode.contract.units == {"joints": "unknown", "gripper": "unknown"}
        np.testing.assert_array_equal(episode.action, (TABLE / 2).astype(np.float32))
        assert episode.stamps["deadline"][1] == 1_700_000_000_066_666_666
        assert psnr(episode.image("left", 7), IMAGES[7][16:32]) > 35
        assert episode.attrs["task"] == "put_bottles"


def shortened(folder: Path) -> None:
    file = folder / "episode_000001" / "table.parquet"
    pq.write_table(pq.read_table(file)[:-1], file)


def without_column(folder: Path) -> None:
    file = folder / "episode_000001" / "table.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["qpos.left_waist"]), file)


def cut(name: str, left: int) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / "episode_000001" / name
        file.write_bytes(file.read_bytes()[:left])

    return damage


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (shortened, "left_wrist.mp4 has 12 frames, table.parquet has 11 rows"),
        (without_column, "lacks the column qpos.left_waist"),
        (cut("top.mp4", 100), "top.mp4 is no video that can be read"),
        (cut("top.mp4", -300), "top.mp4"),
        (cut("table.parquet", 100), "episode_000001 cannot be read"),
        (cut("episode.json", 100), "episode_000001 cannot be read"),
        (lambda folder: (folder / "episode_000001" / "top.mp4").unlink(), "lacks top.mp4"),
    ],
)
def test_damage_is_one_line(folders: Path, tmp_path: Path, damage: Callable[[Path], None], words: str) -> None:
    shutil.copytree(folders, tmp_path / "in")
    damage(tmp_path / "in")
    message = failure(convert, [str(tmp_path / "in"), str(tmp_path / "out"), "--format", "act"])
    assert "1 episode of 3 cannot be read, such as 1: " in message
    assert words in message
    assert "\n" not in message.strip()


def test_other_places_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match="no folder 'nowhere'; expected one of episodes"):
        open_source("nowhere", kind="mp4")
    with pytest.raises(EpisodeError, match="has no folder with a table"):
        open_source(tmp_path, kind="mp4")
    table = abc(tmp_path) / "train_real" / "episode_1f" / "states_actions.bin"
    table.write_bytes(table.read_bytes()[:-8])
    with pytest.raises(EpisodeError, match="has 2680 bytes, expected rows of 28 float64"):
        open_source(tmp_path).episode(0)
    named = foreign(tmp_path / "foreign", "csv") / "run_2" / "log.csv"
    named.write_text("time,speed\n1,2\n")
    with pytest.raises(EpisodeError, match=r"has no column action or actions or action\.NAME; it has: time, speed"):
        open_source(tmp_path / "foreign", kind="mp4").episode(0)
