"""Export to robomimic's layout, read back by h5py alone, by our source, and by robomimic's own data set."""

from __future__ import annotations

import dataclasses
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from aloha_kit.convert.__main__ import main as convert
from aloha_kit.core import ContractError, EpisodeError
from aloha_kit.core.exporter import ExportRecord, WriteOptions
from aloha_kit.core.robomimic import SimulatorRecord
from aloha_kit.core.source import RecordedEpisode
from aloha_kit.formats import open_source
from aloha_kit.formats.robomimic_export import RobomimicExporter, RobomimicObsExporter
from aloha_kit.testing.exporters import check_exporter
from aloha_kit.testing.sources import check_source
from tests.formats.robomimic_file import LENGTHS, write
from tests.formats.round_trip import require_depth, write_depth
from tests.synthetic import write_dataset

CAMERAS = {"cam_high": (20, 28), "cam_low": (16, 16)}


def exported(folder: Path, source: Path, make: Any = RobomimicExporter) -> Path:
    """The one file of an export."""
    folder.mkdir()
    (file,) = check_exporter(make, open_source(source), folder).iterdir()
    return file


def test_episodes_of_ours_are_in_the_file(tmp_path: Path) -> None:
    made = write_dataset(tmp_path / "episodes", (9, 12, 7), CAMERAS, base=True)
    file = exported(tmp_path / "out", tmp_path / "episodes")
    assert file.name == "image.hdf5"
    with h5py.File(file, "r") as content:
        data = content["data"]
        assert data.attrs["total"] == 28
        env_args = json.loads(data.attrs["env_args"])
        assert (env_args["env_name"], env_args["env_kwargs"]["control_freq"]) == ("synthetic", 50.0)
        train, valid = (content[f"mask/{key}"][:].tolist() for key in ("train", "valid"))
        assert (sorted(train + valid), len(valid)) == ([b"demo_0", b"demo_1", b"demo_2"], 1)
        for number, episode in enumerate(made):
            demo, steps = data[f"demo_{number}"], len(episode.action)
            assert demo.attrs["num_samples"] == steps
            np.testing.assert_array_equal(demo["actions"], episode.action)
            np.testing.assert_array_equal(demo["dones"], [0] * (steps - 1) + [1])
            for part, rows in (("obs", slice(0, -1)), ("next_obs", slice(1, None))):
                np.testing.assert_array_equal(demo[part]["qpos"], episode.qpos[rows])
                np.testing.assert_array_equal(demo[part]["object"], episode.environment_state[rows])
                for camera, frames in episode.images.items():
                    np.testing.assert_array_equal(demo[part][f"{camera}_image"], frames[rows])


def test_what_was_exported_reads_as_before(tmp_path: Path) -> None:
    write_dataset(tmp_path / "episodes", (9, 12), CAMERAS, base=True)
    before, after = (
        open_source(tmp_path / "episodes"),
        open_source(exported(tmp_path / "o.hdf5", tmp_path / "episodes")),
    )
    check_source(after)
    assert after.unused == ""
    for number in range(2):
        with closing(before.open(number)) as a, closing(after.open(number)) as b:
            assert (a.contract, a.id, a.success, a.frames) == (b.contract, b.id, b.success, b.frames)
            assert a.attrs["task"] == b.attrs["task"]
            assert a.base_action is not None
            np.testing.assert_array_equal(np.concatenate([a.action, a.base_action], axis=1), b.action)
            for name, values in a.vectors.items():
                np.testing.assert_array_equal(b.vectors[name], values)
            for stream, stamps in a.stamps.items():
                np.testing.assert_array_equal(b.stamps[stream], stamps)


@pytest.mark.parametrize(("make", "rows_after"), [(RobomimicExporter, 1), (RobomimicObsExporter, 0)])
def test_depth_comes_back_exactly(make: Any, rows_after: int, tmp_path: Path) -> None:
    written = write_depth(tmp_path / "episodes")
    file = exported(tmp_path / "out", tmp_path / "episodes", make)
    with h5py.File(file, "r") as content:
        demo = content["data/demo_1"]
        assert (demo["obs/top_depth"].shape, demo["obs/top_depth"].dtype) == ((5, 20, 28, 1), np.uint16)
        np.testing.assert_array_equal(demo["obs/top_depth"][..., 0], written[1][:-1])
        if rows_after:
            np.testing.assert_array_equal(demo["next_obs/top_depth"][..., 0], written[1][1:])
    source = open_source(file)
    check_source(source)
    assert source.unused == ""
    require_depth(source, written, rows_after)


def test_without_next_obs_it_reads_as_many_rows_as_actions(tmp_path: Path) -> None:
    made, _ = write_dataset(tmp_path / "episodes", (9, 5), CAMERAS)
    after = open_source(exported(tmp_path / "out", tmp_path / "episodes", RobomimicObsExporter))
    check_source(after)
    with closing(after.open(0)) as episode:
        np.testing.assert_array_equal(episode.stamps["qpos"], np.arange(9) * 20_000_000)  # ns at 50 Hz
        np.testing.assert_array_equal(episode.qpos, made.qpos[:9])


def test_a_robomimic_file_comes_out_with_its_own_keys(tmp_path: Path) -> None:
    demos = write(tmp_path / "in.hdf5", images=(12, 16))
    with h5py.File(exported(tmp_path / "out", tmp_path / "in.hdf5"), "r") as content:
        for name, rows in demos.items():
            for part in ("obs", "next_obs"):
                there = content["data"][name][part]
                keys = {key.removeprefix("obs/") for key in rows if key.startswith("obs/")}
                assert set(there) == keys - {"robot0_joint_pos"}
                for key, values in there.items():
                    np.testing.assert_array_equal(values, rows[f"{part}/{key}"].astype(values.dtype))


STATES = np.arange(LENGTHS[0] * 4.0).reshape(-1, 4)


class WithStates(RobomimicExporter):
    def simulator_record(self, episode: RecordedEpisode) -> SimulatorRecord:
        return SimulatorRecord({"env_name": "Lift", "type": 1}, np.resize(STATES, (episode.length, 4)), "<x/>" * 50_000)


class WithTooFew(WithStates):
    def simulator_record(self, episode: RecordedEpisode) -> SimulatorRecord:
        return dataclasses.replace(super().simulator_record(episode), states=STATES[1:])


def test_states_of_a_simulator(tmp_path: Path) -> None:
    demos = write(tmp_path / "in.hdf5", without=["next_obs"])
    file = exported(tmp_path / "out", tmp_path / "in.hdf5", WithStates)
    assert file.name == "low_dim.hdf5"
    with h5py.File(file, "r") as content:
        demo = content["data/demo_0"]
        np.testing.assert_array_equal(demo["states"], STATES)
        assert demo.attrs["model_file"] == "<x/>" * 50_000
        assert json.loads(content["data"].attrs["env_args"]) == {"env_name": "Lift", "type": 1}
        assert "next_obs" not in demo  # the episodes have no observation after their last action
        np.testing.assert_array_equal(demo["obs/object"], demos["demo_0"]["obs/object"].astype(np.float32))
    with pytest.raises(EpisodeError, match="demo_0 has 7 actions and 6 simulator states"):
        written(WithTooFew, tmp_path / "other", tmp_path / "in.hdf5")


def written(make: Any, folder: Path, *places: Path) -> list[ExportRecord]:
    """Episode 0 of each place, as episodes 0, 1, … of one export."""
    (folder / "parts").mkdir(parents=True)
    exporter, records = make(folder, folder / "parts", WriteOptions()), []
    for number, place in enumerate(places):
        with closing(open_source(place).open(0)) as episode:
            records.append(ExportRecord.of(number, episode, ""))
            exporter.write(number, episode, records[-1])
            records[-1].complete(episode)
    exporter.finish(records)
    return records


def test_episodes_that_do_not_fit_one_another_are_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path / "episodes", (6,), {})
    write_dataset(tmp_path / "others", (6,), {}, rate_hz=25.0)
    with pytest.raises(ContractError, match="demo_1 differs from the demonstrations before it in contract"):
        written(RobomimicExporter, tmp_path / "rates", tmp_path / "episodes", tmp_path / "others")
    write(tmp_path / "with.hdf5")
    write(tmp_path / "without.hdf5", without=["next_obs"])
    places = tmp_path / "with.hdf5", tmp_path / "without.hdf5"
    with pytest.raises(ContractError, match="robomimic needs next_obs in all or none, give --format robomimic_obs"):
        written(RobomimicExporter, tmp_path / "mixed", *places)
    first, second = written(RobomimicObsExporter, tmp_path / "none", *places)
    assert (first.lost, second.lost) == (["the observation after the last action"], [])


def test_the_command_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "episodes", (6, 8), CAMERAS)
    convert([str(tmp_path / "episodes"), str(tmp_path / "out"), "--format", "robomimic"])
    printed = capsys.readouterr().out
    assert "changed: actions reach beyond -1 to 1, which robomimic's policies predict\n" in printed  # of both episodes
    source = open_source(tmp_path / "out" / "image.hdf5")
    assert (len(source), len(source.validation)) == (2, 1)


def test_robomimic_reads_it(tmp_path: Path) -> None:
    """Every sequence of robomimic's own data set: windows of observations and the actions in them."""
    pytest.importorskip("robomimic", reason="robomimic is in the environment of `make robosuite`")
    from robomimic.utils import obs_utils
    from robomimic.utils.dataset import SequenceDataset

    made = write_dataset(tmp_path / "episodes", (9, 12, 7), CAMERAS)
    file = exported(tmp_path / "out", tmp_path / "episodes")
    with h5py.File(file, "r") as content:
        (valid,) = (int(name.decode().removeprefix("demo_")) for name in content["mask/valid"][:])
    images = [f"{camera}_image" for camera in CAMERAS]
    obs_utils.initialize_obs_modality_mapping_from_dict({"low_dim": ["qpos", "object"], "rgb": images})
    for key, numbers in (("train", sorted({0, 1, 2} - {valid})), ("valid", [valid])):
        loaded = SequenceDataset(
            str(file),
            obs_keys=("qpos", "object", *images),
            dataset_keys=("actions", "rewards", "dones"),
            seq_length=4,
            hdf5_cache_mode=None,
            filter_by_attribute=key,
        )
        starts = [(number, t) for number in numbers for t in range(len(made[number].action))]
        assert len(loaded) == len(starts)
        for i, (number, start) in enumerate(starts):
            sample, episode = loaded[i], made[number]
            rows = np.minimum(np.arange(start, start + 4), len(episode.action) - 1)
            np.testing.assert_array_equal(sample["actions"], episode.action[rows])
            np.testing.assert_array_equal(sample["obs"]["qpos"], episode.qpos[rows])
            np.testing.assert_array_equal(sample["next_obs"]["object"], episode.environment_state[rows + 1])
            image = sample["obs"]["cam_high_image"]  # robomimic gives them as they are stored
            np.testing.assert_array_equal(image, episode.images["cam_high"][rows])
