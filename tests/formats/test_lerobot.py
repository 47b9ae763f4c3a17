"""LeRobot's data sets: written by the published layout, read by LeRobot itself, and read back by us."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

from aloha_kit.convert.__main__ import main as convert
from aloha_kit.core import EpisodeError
from aloha_kit.core.jpeg import psnr
from aloha_kit.episode import Episode
from aloha_kit.formats import open_source, ReadOptions
from aloha_kit.formats.lerobot_export import LeRobotExporter
from aloha_kit.formats.lerobot_v21_export import LeRobotV21Exporter
from aloha_kit.media.video_files import VideoFrames
from aloha_kit.storage.contract_file import given_contract
from aloha_kit.testing.exporters import check_exporter
from aloha_kit.testing.sources import check_source
from tests.commands import failure
from tests.synthetic import write_dataset

LENGTHS = (30, 41, 25)
CAMERAS = {"top": (96, 128), "left_wrist": (64, 96)}
PEER = Path(os.environ.get("ALOHA_KIT_PEERS", Path.home() / ".cache/aloha_kit/peers")) / "lerobot"
needs_lerobot = pytest.mark.skipif(
    not (PEER / "installed").is_file(),
    reason=f"no LeRobot 0.6.1 in {PEER}; `python benchmarks/lerobot_dataset.py` installs it",
)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "ours"
    write_dataset(folder, LENGTHS, CAMERAS, images="jpeg")
    return folder


@pytest.fixture(scope="module")
def converted(ours: Path) -> dict[str, Path]:
    """{format: data set}."""
    made = {}
    for name, flags in (
        ("lerobot", []),
        ("lerobot_v21", ["--workers", "2"]),
        ("openpi", []),
        ("av1", ["--codec", "av1"]),
    ):
        made[name] = ours.with_name(name)
        kind = "lerobot" if name == "av1" else name
        convert([str(ours), str(made[name]), "--format", kind, *flags])
    return made


def expected(ours: Path) -> dict[str, npt.NDArray[Any]]:
    """What h5py reads of the episodes, one after the other."""
    tables: dict[str, list[npt.NDArray[Any]]] = {}
    for number, length in enumerate(LENGTHS):
        with h5py.File(ours / f"episode_{number}.hdf5") as file:
            for column, name in {
                "action": "action",
                "observation.state": "observations/qpos",
                "privileged.environment_state": "observations/environment_state",
                "stamp.camera.top": "stamps/images/top",
                "stamp.command": "stamps/command",
            }.items():
                tables.setdefault(column, []).append(file[name][:length])
        tables.setdefault("frame_index", []).append(np.arange(length))
        tables.setdefault("episode_index", []).append(np.full(length, number))
    found = {name: np.concatenate(parts) for name, parts in tables.items()}
    return found | {"index": np.arange(sum(LENGTHS))}


def images(ours: Path, camera: str) -> list[npt.NDArray[np.uint8]]:
    found = []
    for number, length in enumerate(LENGTHS):
        with Episode.open(ours / f"episode_{number}.hdf5") as episode:
            found += [episode.image(camera, i) for i in range(length)]
    return found


def assert_same(ours: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    for name, values in expected(ours).items():
        assert np.array_equal(arrays[name].reshape(values.shape), values), name
    times = np.concatenate([np.arange(length) / 50 for length in LENGTHS])
    np.testing.assert_allclose(arrays["timestamp"].reshape(-1), times, atol=1e-6)


@pytest.mark.parametrize("name", ["lerobot", "av1"])
def test_version_3_follows_the_published_layout(ours: Path, converted: dict[str, Path], name: str) -> None:
    folder = converted[name]
    info = json.loads((folder / "meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["total_episodes"], info["total_frames"]) == ("v3.0", 50, 3, 96)
    table = pq.read_table(folder / info["data_path"].format(chunk_index=0, file_index=0))
    assert pq.ParquetFile(folder / "data/chunk-000/file-000.parquet").num_row_groups == 3
    stored = {key: value for key, value in info["features"].items() if value["dtype"] != "video"}
    assert set(table.column_names) == set(stored)
    assert str(table.schema.field("action").type) == "fixed_size_list<element: float>[14]"
    assert_same(ours, {key: np.stack(table[key].to_pylist()) for key in stored})
    assert pq.read_table(folder / "meta/tasks.parquet").to_pylist() == [{"task_index": 0, "task": "synthetic"}]
    entries = pq.read_table(folder / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [entry["dataset_from_index"] for entry in entries] == [0, 30, 71]
    assert [entry["dataset_to_index"] for entry in entries] == [30, 71, 96]
    for camera, size in CAMERAS.items():
        key = f"observation.images.{camera}"
        assert info["features"][key]["shape"] == [*size, 3]
        assert [entry[f"videos/{key}/from_timestamp"] for entry in entries] == [0, 30 / 50, 71 / 50]
        with av.open(str(folder / info["video_path"].format(video_key=key, chunk_index=0, file_index=0))) as video:
            frames = list(video.decode(video=0))
        times = [Fraction(frame.pts) * frame.time_base for frame in frames]
        assert times == [Fraction(i, 50) for i in range(96)]
        quality = [psnr(o, f.to_ndarray(format="rgb24")) for o, f in zip(images(ours, camera), frames, strict=True)]
        assert min(quality) > 30, "another image, or red and blue exchanged, has less than 20 dB"
        records = [json.loads(line) for line in (folder / "conversion_episodes.jsonl").read_text().splitlines()]
        assert all(abs(record["images"][camera]["psnr_db"] - np.mean(quality)) < 3 for record in records)
        pixels = b"".join(image.tobytes() for image in images(ours, camera)[:30])
        assert records[0]["images"][camera]["sha256"] == hashlib.sha256(pixels).hexdigest()
    stats = json.loads((folder / "meta/stats.json").read_text())
    action = expected(ours)["action"].astype(np.float64)
    np.testing.assert_allclose(stats["action"]["mean"], action.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(stats["action"]["std"], action.std(axis=0), atol=1e-6)
    assert stats["action"]["count"] == [96]
    top = np.stack(images(ours, "top")) / 255
    np.testing.assert_allclose(np.ravel(stats["observation.images.top"]["mean"]), top.mean(axis=(0, 1, 2)), atol=0.02)


def test_version_2_1_and_openpi_follow_the_published_layout(ours: Path, converted: dict[str, Path]) -> None:
    for name, top in (("lerobot_v21", "top"), ("openpi", "cam_high")):
        folder = converted[name]
        info = json.loads((folder / "meta/info.json").read_text())
        assert info["codebase_version"] == "v2.1"
        tables = []
        for number, length in enumerate(LENGTHS):
            place = {"episode_chunk": 0, "episode_index": number}
            tables.append(pq.read_table(folder / info["data_path"].format(**place)))
            video = folder / info["video_path"].format(video_key=f"observation.images.{top}", **place)
            with av.open(str(video)) as opened:
                assert sum(1 for _ in opened.decode(video=0)) == length
        arrays = {key: np.concatenate([np.stack(t[key].to_pylist()) for t in tables]) for key in tables[0].column_names}
        if name == "openpi":
            for key in ("observation.state", "action"):
                assert np.array_equal(arrays[key], expected(ours)[key])
            assert {key for key in info["features"] if key.startswith("observation.images")} == {
                "observation.images.cam_high",
                "observation.images.cam_left_wrist",
            }
            assert not any(key.startswith("stamp") for key in arrays)
        else:
            assert_same(ours, arrays)
        lines = [json.loads(line) for line in (folder / "meta/episodes_stats.jsonl").read_text().splitlines()]
        assert lines[1]["stats"]["action"]["count"] == [41]


@pytest.mark.parametrize("exporter", [LeRobotExporter, LeRobotV21Exporter])
def test_exporters_and_the_source_keep_their_contracts(
    tmp_path: Path, exporter: type[LeRobotExporter], converted: dict[str, Path]
) -> None:
    write_dataset(tmp_path / "ours", (6, 5))
    (tmp_path / "made").mkdir()
    made = check_exporter(exporter, open_source(tmp_path / "ours"), tmp_path / "made")
    check_source(open_source(made))


@pytest.mark.parametrize("name", ["lerobot", "lerobot_v21"])
def test_the_way_back(ours: Path, converted: dict[str, Path], tmp_path: Path, name: str) -> None:
    convert([str(converted[name]), str(tmp_path / "back"), "--format", "hdf5", "--images", "raw"])
    for number, length in enumerate(LENGTHS):
        file = f"episode_{number}.hdf5"
        with Episode.open(ours / file) as old, Episode.open(tmp_path / "back" / file) as new:
            assert (new.length, new.frames) == (length, length)
            assert np.array_equal(new.action, old.action)
            assert np.array_equal(new.vectors["environment_state"], old.vectors["environment_state"][:length])
            assert np.array_equal(new.stamps["images/top"], old.stamps["images/top"][:length])
            assert np.array_equal(new.stamps["command"], old.stamps["command"])
            assert (new.contract, new.success) == (old.contract, old.success)
            assert new.describe["converted"]["id"] == old.id
            assert psnr(new.image("top", length - 1), old.image("top", length - 1)) > 30


def test_images_in_any_order(ours: Path, converted: dict[str, Path]) -> None:
    source = open_source(converted["lerobot"])
    wanted = images(ours, "top")[30:71]
    with closing(source.episode(1)) as episode:
        for i in (40, 0, 1, 2, 17, 16, 40):
            assert psnr(episode.image("top", i), wanted[i]) > 30
    with pytest.raises(EpisodeError, match="frames 0 to 40 of this episode, given frame 41"):
        VideoFrames(converted["lerobot"] / "videos/observation.images.top/chunk-000/file-000.mp4", 50, 30, 41).read(41)


def test_a_data_set_of_others_needs_a_contract(ours: Path, converted: dict[str, Path], tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    shutil.copytree(converted["lerobot"], foreign)
    for file in foreign.glob("meta/aloha_kit*"):
        file.unlink()
    info = json.loads((foreign / "meta/info.json").read_text())  # with a column of text
    info["features"]["observation.phase"] = {"dtype": "string", "shape": [1], "names": None}
    (foreign / "meta/info.json").write_text(json.dumps(info))
    data = foreign / "data/chunk-000/file-000.parquet"
    table = pq.read_table(data)
    pq.write_table(table.append_column("observation.phase", [["reach"] * len(table)]), data)
    message = failure(convert, [str(foreign), str(tmp_path / "out"), "--format", "hdf5"])
    assert "does not record names and units of its numbers: give --rig NAME" in message
    source = open_source(foreign, options=ReadOptions(given_contract(None, "sim")))
    assert "not read: privileged.environment_state, observation.phase" in source.unused
    with closing(source.episode(2)) as episode:
        assert episode.contract.units["joints"] == "rad"
        assert episode.contract.rate_hz == 50
        assert "sensors/environment_state" not in episode.vectors  # privileged: it is no observation
        stamps = expected(ours)["stamp.camera.top"][71:]  # also without our own files, as after LeRobot's merge
        assert np.array_equal(episode.stamps["images/top"], stamps)
    convert([str(foreign), str(tmp_path / "out"), "--format", "hdf5", "--rig", "sim"])


@pytest.mark.parametrize("left", [0, 500])
def test_a_damaged_video_is_named(converted: dict[str, Path], tmp_path: Path, left: int) -> None:
    shutil.copytree(converted["lerobot_v21"], tmp_path / "data")
    video = tmp_path / "data/videos/chunk-000/observation.images.top/episode_000001.mp4"
    video.write_bytes(video.read_bytes()[:left])
    message = failure(convert, [str(tmp_path / "data"), str(tmp_path / "out"), "--format", "hdf5"])
    assert f"1 episode of 3 cannot be read, such as 1: {video}: frame 0 cannot be decoded" in message


@needs_lerobot
def test_lerobot_reads_every_image_of_it(ours: Path, converted: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(converted["lerobot_v21"], tmp_path / "v21")
    read = {}
    for name, folder, flags in (
        ("lerobot", converted["lerobot"], []),
        ("av1", converted["av1"], []),
        ("v21", tmp_path / "v21", ["--convert"]),  # by LeRobot's own converter
    ):
        script = Path(__file__).with_name("lerobot_reads.py")
        run_lerobot("python", str(script), str(folder), str(tmp_path / f"{name}.npz"), *flags)
        read[name] = dict(np.load(tmp_path / f"{name}.npz"))
        assert_same(ours, read[name])
        for camera in CAMERAS:
            decoded = np.moveaxis(read[name][f"observation.images.{camera}"], 1, 3)
            assert min(map(psnr, images(ours, camera), decoded)) > 30
    assert read["lerobot"].keys() == read["v21"].keys()
    for key, values in read["lerobot"].items():
        if values.dtype.kind == "U":
            assert np.array_equal(read["v21"][key], values)
        else:
            np.testing.assert_allclose(read["v21"][key], values, rtol=1e-5, atol=1e-6, err_msg=key)


@needs_lerobot
def test_lerobot_trains_on_it(converted: dict[str, Path], tmp_path: Path) -> None:
    flags = f"--dataset.repo_id=local/data --dataset.root={converted['lerobot']} --output_dir={tmp_path / 'run'} "
    flags += (
        "--policy.type=act --policy.device=cpu --policy.push_to_hub=false --policy.dim_model=32 --policy.n_heads=2 "
    )
    flags += "--policy.dim_feedforward=64 --policy.chunk_size=8 --policy.n_action_steps=8 --steps=2 --batch_size=2 "
    flags += (
        "--policy.pretrained_backbone_weights=null --num_workers=0 --wandb.enable=false --dataset.video_backend=pyav"
    )
    run_lerobot("lerobot-train", *flags.split())
    config = next((tmp_path / "run").rglob("pretrained_model/config.json"))
    inputs = json.loads(config.read_text())["input_features"]
    assert "observation.state" in inputs
    assert not any("stamp" in key or "privileged" in key for key in inputs)


def run_lerobot(program: str, *arguments: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [str(PEER / "bin" / program), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
