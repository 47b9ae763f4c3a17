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

from aloha_kit.core import EpisodeError
from aloha_kit.core.robomimic import SimulatorRecord
from aloha_kit.formats import open_source
from aloha_kit.formats.robomimic_writer import RobomimicWriter
from aloha_kit.testing.sources import check_source
from tests.formats.robomimic_file import LENGTHS, write
from tests.synthetic import write_dataset

CAMERAS = {"cam_high": (20, 28), "cam_low": (16, 16)}


def exported(target: Path, *places: Path, valid: tuple[int, ...] = (), **options: Any) -> Path:
    source, writer = open_source(*places), RobomimicWriter(target, **options)
    for number in range(len(source)):
        with closing(source.open(number)) as episode:
            writer.add(number, episode, identity=source.identity(number))
    return writer.finish(valid)


def test_episodes_of_ours_are_in_the_file(tmp_path: Path) -> None:
    made = write_dataset(tmp_path / "episodes", (9, 12, 7), CAMERAS, base=True)
    file = exported(tmp_path / "out.hdf5", tmp_path / "episodes", valid=(1,))
    with h5py.File(file, "r") as content:
        data = content["data"]
        assert data.attrs["total"] == 28
        env_args = json.loads(data.attrs["env_args"])
        assert (env_args["env_name"], env_args["env_kwargs"]["control_freq"]) == ("synthetic", 50.0)
        assert content["mask/train"][:].tolist() == [b"demo_0", b"demo_2"]
        assert content["mask/valid"][:].tolist() == [b"demo_1"]
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
    assert sorted(path.name for path in tmp_path.iterdir()) == ["episodes", "out.hdf5"]


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


def test_a_robomimic_file_comes_out_with_its_own_keys(tmp_path: Path) -> None:
    demos = write(tmp_path / "in.hdf5", images=(12, 16))
    with h5py.File(exported(tmp_path / "out.hdf5", tmp_path / "in.hdf5"), "r") as content:
        assert "mask" not in content
        for name, rows in demos.items():
            for part in ("obs", "next_obs"):
                there = content["data"][name][part]
                assert set(there) == {key.split("/")[1] for key in rows if key.startswith("obs/")} - {
                    "robot0_joint_pos"
                }
                for key, values in there.items():
                    np.testing.assert_array_equal(values, rows[f"{part}/{key}"].astype(values.dtype))


def test_states_of_a_simulator_and_files_without_next_obs(tmp_path: Path) -> None:
    write(tmp_path / "in.hdf5", without=["next_obs"])
    source = open_source(tmp_path / "in.hdf5")
    record = SimulatorRecord(
        {"env_name": "Lift", "type": 1}, np.arange(LENGTHS[0] * 4.0).reshape(-1, 4), "<x/>" * 50_000
    )
    writer = RobomimicWriter(tmp_path / "out.hdf5", next_obs=False)
    with closing(source.open(0)) as episode:
        with pytest.raises(EpisodeError, match="demo_0 has no observation after its last action, so"):
            RobomimicWriter(tmp_path / "other.hdf5").add(0, episode)
        short = dataclasses.replace(record, states=record.states[1:])
        with pytest.raises(EpisodeError, match="demo_0 has 7 actions and 6 simulator states"):
            writer.add(0, episode, simulator=short)
        assert writer.add(0, episode, simulator=record) == ()
    with h5py.File(writer.finish(), "r") as content:
        demo = content["data/demo_0"]
        np.testing.assert_array_equal(demo["states"], record.states)
        assert demo.attrs["model_file"] == record.model
        assert json.loads(content["data"].attrs["env_args"]) == record.env_args
        assert "next_obs" not in demo


def test_an_interrupted_export_goes_on_and_nothing_is_overwritten(tmp_path: Path) -> None:
    write_dataset(tmp_path / "episodes", (6, 8), {})
    source, target = open_source(tmp_path / "episodes"), tmp_path / "out.hdf5"
    with closing(source.open(0)) as episode:
        RobomimicWriter(target).add(0, episode, identity="first")
        (tmp_path / "out.hdf5.parts" / "000001.hdf5.77.tmp").write_bytes(b"killed here")
        again, part = RobomimicWriter(target), tmp_path / "out.hdf5.parts" / "000000.hdf5"
        written = part.stat().st_mtime_ns
        again.add(0, episode, identity="first")
        assert part.stat().st_mtime_ns == written
        again.add(0, episode, identity="second")
        assert part.stat().st_mtime_ns != written
    assert not target.exists()
    with closing(source.open(1)) as episode:
        again.add(1, episode)
    assert len(open_source(again.finish())) == 2
    with pytest.raises(EpisodeError, match=r"out\.hdf5 exists and is never overwritten"):
        RobomimicWriter(target)


def test_what_does_not_fit_is_one_line(tmp_path: Path) -> None:
    write_dataset(tmp_path / "episodes", (6,), {})
    write_dataset(tmp_path / "others", (6,), {}, rate_hz=25.0)
    writer = RobomimicWriter(tmp_path / "out.hdf5")
    with pytest.raises(EpisodeError, match="no episode was added"):
        writer.finish()
    lines: list[str] = []
    for number, folder in enumerate(("episodes", "others")):
        with closing(open_source(tmp_path / folder).open(0)) as episode:
            lines += writer.add(number, episode)
    assert lines[0].startswith("actions reach 1.")
    with pytest.raises(EpisodeError, match="demo_1 differs from the demonstrations before it in its contract"):
        writer.finish()


def test_robomimic_reads_it(tmp_path: Path) -> None:
    """Every sequence of robomimic's own data set: windows of observations and the actions in them."""
    pytest.importorskip("robomimic", reason="robomimic is not in this environment (pip install --no-deps robomimic)")
    from robomimic.utils import obs_utils
    from robomimic.utils.dataset import SequenceDataset

    made = write_dataset(tmp_path / "episodes", (9, 12, 7), CAMERAS)
    file = exported(tmp_path / "out.hdf5", tmp_path / "episodes", valid=(1,))
    images = [f"{camera}_image" for camera in CAMERAS]
    obs_utils.initialize_obs_modality_mapping_from_dict({"low_dim": ["qpos", "object"], "rgb": images})
    for key, numbers in (("train", (0, 2)), ("valid", (1,))):
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
