"""`python -m aloha_kit.convert`: equal arrays and images, a report that can be checked, interruptions, refusals."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
import yaml

from aloha_kit.convert.__main__ import main as convert
from aloha_kit.core import Contract
from aloha_kit.core.exporter import ExportRecord
from aloha_kit.core.source import EpisodeData, EpisodeSource, Image, RecordedEpisode
from aloha_kit.episode import Episode
from aloha_kit.episode.validate import validate
from aloha_kit.formats import open_source, ReadOptions
from aloha_kit.formats.hdf5_export import ActExporter, Hdf5Exporter, MobileAlohaExporter
from aloha_kit.testing.exporters import check_exporter
from tests.commands import failure
from tests.synthetic import Synthetic, write_dataset

ROOT = Path(__file__).parents[2]
CAMERAS = {"top": (48, 64), "left_wrist": (24, 32)}


class OtherSource(EpisodeSource):
    """Two episodes of two joints without an observation after the last action; `long` has one of 1500 steps."""

    def __init__(self, places: Sequence[str | Path], options: ReadOptions) -> None:
        self.place = Path(places[0])
        self.long = self.place.name == "long"

    def __len__(self) -> int:
        return 1 if self.long else 2

    def identity(self, number: int) -> str:
        return f"{self.place}{number}"

    def open(self, number: int) -> RecordedEpisode:
        size, steps = ((240, 320), 1500) if self.long else ((24, 32), 12 + number)
        time = np.arange(steps + 2)[:, None]
        waves = (np.sin(time * [0.35, 0.09] + number)).astype(np.float32)
        tables = waves[2:], waves[1:-1], waves[:-2]

        def image(camera: str, i: int, at_least: tuple[int, int] | None) -> Image:
            return np.full((*size, 3), (60 + i % 150, 100 + number, 90), np.uint8)

        contract = Contract.of(("a", "b"), ("a", "b"), {"top": size}, 10.0, {"joints": "rad", "gripper": "m"})
        return EpisodeData(
            f"{number}.x",
            contract,
            tables[0],
            tables[1],
            image,
            id=f"id{number}",
            layout="x",
            further_vectors={"sensors/force": tables[2]},
            attrs={"task": "push", "instruction": "push it", "rig": "arm", "sim": False},
            success=bool(number),
        )


class Interrupted(Hdf5Exporter):
    """Ends the process as `kill -9` does at the second episode while the file `kill` is there."""

    def write(self, number: int, episode: RecordedEpisode, record: ExportRecord) -> None:
        if number == 1 and Path("kill").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        super().write(number, episode, record)


OTHER = f"{__name__}:OtherSource"


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "conversion_episodes.jsonl").read_text().splitlines()]


def test_our_episodes_are_copied_and_every_hash_is_that_of_the_source(tmp_path: Path) -> None:
    write_dataset(tmp_path / "ours", (9, 5, 7), CAMERAS, images="jpeg")
    convert([str(tmp_path / "ours"), str(tmp_path / "copy"), "--format", "hdf5", "--workers", "2"])
    for number, record in enumerate(lines(tmp_path / "copy")):
        name = f"episode_{number}.hdf5"
        with h5py.File(tmp_path / "ours" / name) as old, h5py.File(tmp_path / "copy" / name) as new:
            assert old.attrs["id"] == new.attrs["id"] == record["id"].encode()
            for key in ("action", "reward", "observations/qpos", "stamps/command", "stamps/images/top"):
                assert np.array_equal(old[key][:], new[key][:])
                held = record["arrays"][key.removeprefix("observations/")]
                assert held["sha256"] == hashlib.sha256(old[key][:].tobytes()).hexdigest()
            for index, camera in enumerate(CAMERAS):
                rows = zip(old[f"observations/images/{camera}"], old["compress_len"][index], strict=True)
                codes = b"".join(row[: int(length)].tobytes() for row, length in rows)
                entry = {"rows": len(old["observations/qpos"]), "sha256": hashlib.sha256(codes).hexdigest()}
                assert record["images"][camera] == entry | {"of": "stored"}
        assert record["lost"] == []


def test_the_layouts_of_act_and_mobile_aloha(tmp_path: Path) -> None:
    write_dataset(tmp_path / "ours", (9, 5), {"top": (48, 64)}, images="jpeg")
    for kind in ("act", "mobile_aloha"):
        convert([str(tmp_path / "ours"), str(tmp_path / kind), "--format", kind])
    with Episode.open(tmp_path / "ours" / "episode_1.hdf5") as ours, h5py.File(tmp_path / "act/episode_1.hdf5") as act:
        assert len(act["action"]) == len(act["observations/qpos"]) == 5
        assert np.array_equal(act["observations/images/top"][3], ours.image("top", 3))
        with h5py.File(tmp_path / "mobile_aloha/episode_1.hdf5") as mobile:
            row = mobile["observations/images/top"][3]
            assert np.array_equal(cv2.imdecode(row, cv2.IMREAD_COLOR), ours.image("top", 3))  # their reader's decoding
    assert lines(tmp_path / "act")[1]["lost"] == ["the observation after the last action"]


def test_another_format_becomes_our_episodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["elsewhere", str(tmp_path / "out"), "--from_format", OTHER, "--format", "hdf5"]
    convert([*flags, "--images", "raw"])
    printed = capsys.readouterr().out
    assert "2 episodes, 25 steps, format hdf5" in printed
    assert "changed: it has no rewards: they are 0" in printed
    source = OtherSource(["elsewhere"], ReadOptions())
    for number in range(2):
        theirs = source.open(number)
        with Episode.open(tmp_path / "out" / f"episode_{number}.hdf5") as ours:
            assert (ours.length, ours.frames, ours.success) == (12 + number, 12 + number, bool(number))
            assert np.array_equal(ours.action, theirs.action)
            assert np.array_equal(ours.qpos, theirs.qpos)
            assert np.array_equal(ours.sensors["force"], theirs.vectors["sensors/force"])
            assert np.array_equal(ours.image("top", 11), theirs.image("top", 11))
            assert (ours.attrs["task"], ours.attrs["instruction"], ours.attrs["rig"]) == ("push", "push it", "arm")
            assert ours.describe["converted"]["id"] == f"id{number}"
            assert ours.contract.with_sensors(()) == theirs.contract
        assert validate(tmp_path / "out" / f"episode_{number}.hdf5").level != "error"
    rgb = b"".join(source.open(1).image("top", i).tobytes() for i in range(13))
    assert lines(tmp_path / "out")[1]["images"]["top"]["sha256"] == hashlib.sha256(rgb).hexdigest()


@pytest.mark.parametrize("exporter", [Hdf5Exporter, ActExporter, MobileAlohaExporter])
def test_exporters_keep_the_contract(tmp_path: Path, exporter: type[Hdf5Exporter]) -> None:
    write_dataset(tmp_path / "ours", (6, 5), images="jpeg")
    for name, source in (("a", open_source(tmp_path / "ours")), ("b", OtherSource(["x"], ReadOptions()))):
        (tmp_path / name).mkdir()
        made = check_exporter(exporter, source, tmp_path / name)
        assert [file.name for file in sorted(made.iterdir())] == ["episode_0.hdf5", "episode_1.hdf5"]


def test_a_killed_conversion_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "ours", (6, 5, 4))
    (tmp_path / "kill").touch()
    flags = [str(tmp_path / "ours"), str(tmp_path / "out"), "--format", f"{__name__}:Interrupted"]
    command = [sys.executable, "-m", "aloha_kit.convert", *flags]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    (tmp_path / "kill").unlink()
    other = failure(convert, [*flags[:3], "hdf5"])
    assert "holds an unfinished conversion with format" in other
    convert(flags)
    assert "1 episode finished already; going on" in capsys.readouterr().err
    assert [record["steps"] for record in lines(tmp_path / "out")] == [6, 5, 4]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ours", "out"]


def test_existing_data_and_damaged_episodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "ours", (6, 5, 4), state=False)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    flags = [str(tmp_path / "ours"), str(tmp_path / "out"), "--format", "hdf5"]
    assert "exists already; nothing in it is changed" in failure(convert, flags)
    (tmp_path / "out" / "mine").unlink()  # an empty folder is no data
    with (tmp_path / "ours" / "episode_1.hdf5").open("r+b") as file:
        file.truncate(2000)
    assert "1 episode of 3 cannot be read, such as 1:" in failure(convert, flags)
    assert not any((tmp_path / "out").iterdir())
    with pytest.raises(SystemExit) as ended:
        convert([*flags, "--skip_damaged"])
    assert ended.value.code == 1
    assert "left out as damaged: episodes 1" in capsys.readouterr().out
    assert [record["number"] for record in lines(tmp_path / "out")] == [0, 2]
    inside = [str(tmp_path / "ours"), str(tmp_path / "ours" / "new"), "--format", "hdf5"]
    assert "lies in the source" in failure(convert, inside)


def test_an_episode_that_left_the_source_is_not_in_the_data_set(tmp_path: Path) -> None:
    made = write_dataset(tmp_path / "ours", (6, 5, 4), images="jpeg")
    spoilt = tmp_path / "ours" / "episode_1.hdf5"
    spoilt.write_bytes(b"no HDF5")
    flags = [str(tmp_path / "ours"), str(tmp_path / "out"), "--format", "hdf5"]
    assert "The others are written: repair or remove it" in failure(convert, flags)
    spoilt.unlink()  # what was the third episode is now the second one
    convert(flags)
    assert [record["steps"] for record in lines(tmp_path / "out")] == [6, 4]
    assert sorted(file.name for file in (tmp_path / "out").glob("*.hdf5")) == ["episode_0.hdf5", "episode_1.hdf5"]
    with Episode.open(tmp_path / "out" / "episode_1.hdf5") as episode:
        assert np.array_equal(episode.action, made[2].action)


def test_the_first_episode_may_be_damaged(tmp_path: Path) -> None:
    write_dataset(tmp_path / "ours", (6, 5))
    (tmp_path / "ours" / "episode_0.hdf5").write_bytes(b"no HDF5")
    flags = [str(tmp_path / "ours"), str(tmp_path / "out"), "--format", "hdf5", "--skip_damaged"]
    with pytest.raises(SystemExit) as ended:
        convert(flags)
    assert ended.value.code == 1
    assert [record["number"] for record in lines(tmp_path / "out")] == [1]


def test_a_refused_flag_leaves_nothing_that_is_in_the_way_of_the_right_one(tmp_path: Path) -> None:
    write_dataset(tmp_path / "ours", (6,))
    flags = [str(tmp_path / "ours"), str(tmp_path / "out"), "--format"]
    assert "no 'hdf' among the exporters" in failure(convert, [*flags, "hdf"])
    assert "written without --crf" in failure(convert, [*flags, "hdf5", "--crf", "20"])
    assert "--crf of h264 is 0 to 51, given 60" in failure(convert, [*flags, "lerobot", "--crf", "60"])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ours"]
    write_dataset(tmp_path / "seven", (6,), change=lambda _, episode: seven(episode))
    seventh = [str(tmp_path / "seven"), *flags[1:]]
    assert "openpi's ALOHA has 14 joints" in failure(convert, [*seventh, "openpi"])  # of an episode, after the start
    convert([*seventh, "hdf5"])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ours", "out", "seven"]


def seven(episode: Synthetic) -> None:
    episode.action, episode.qpos, episode.names = episode.action[:, :7], episode.qpos[:, :7], episode.names[:7]


@pytest.mark.parametrize("kind", ["hdf5", "act", "robomimic", "lerobot", "zarr", "mp4", "rlds"])
@pytest.mark.parametrize("other", [False, True])
def test_a_full_disk_is_no_damage_of_the_episodes(tmp_path: Path, kind: str, other: bool) -> None:
    """A limit on the size of files stands for the disk: nothing is left out, and afterwards the conversion goes on."""
    write_dataset(tmp_path / "ours", (40, 40), {"top": (96, 128)}, images="jpeg")
    source = [f"{tmp_path}/elsewhere", "--from_format", OTHER] if other else [str(tmp_path / "ours")]
    flags = [source[0], str(tmp_path / "out"), *source[1:], "--format", kind, "--skip_damaged"]
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limit[1]))
    try:
        message = failure(convert, flags)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "File too large" in message
    assert "Finished episodes stay; the same command goes on with the others" in message
    convert(flags)
    assert [record["number"] for record in lines(tmp_path / "out")] == [0, 1]


def test_data_without_units_are_refused_and_a_contract_is_suggested(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = np.linspace(0, 1, 9)[:, None] * [90, 100, 0.04]  # degrees, and a gripper in metres
    (tmp_path / "old").mkdir()
    with h5py.File(tmp_path / "old" / "episode_0.hdf5", "w") as file:
        file["action"] = file["observations/qpos"] = rows.astype(np.float32)
    flags = [str(tmp_path / "old"), str(tmp_path / "out"), "--format", "hdf5"]
    assert "does not record names and units of its numbers: give --rig NAME" in failure(convert, flags)
    printed = capsys.readouterr().out
    assert "0 to 100" in printed
    assert "degrees?" in printed
    assert "a gripper in metres?" in printed
    suggestion = printed[printed.index("# contract.yaml") :]
    assert yaml.safe_load(suggestion)["units"] == {"joints": "deg", "gripper": "m"}
    (tmp_path / "old" / "contract.yaml").write_text(suggestion)  # by a person who agrees
    convert(flags)
    with Episode.open(tmp_path / "out" / "episode_0.hdf5") as episode:
        assert episode.contract.state_names == ("arm_joint_0", "arm_joint_1", "arm_gripper")
        assert episode.contract.units == {"joints": "deg", "gripper": "m"}
        assert np.array_equal(episode.qpos, rows.astype(np.float32))


def test_a_long_episode_takes_little_memory(tmp_path: Path) -> None:
    flags = [str(tmp_path / "long"), str(tmp_path / "out"), "--from_format", OTHER, "--format", "mobile_aloha"]
    code = "import sys; from aloha_kit.convert.__main__ import main; main(sys.argv[1:]);"
    code += "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    done = subprocess.run(
        [sys.executable, "-c", code, *flags],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout.split()[-1]) < 300_000, "kB; the images are 345 MB"
