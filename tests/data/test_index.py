"""The table of steps against a slow, independent reading of the same episodes."""

from __future__ import annotations

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

from aloha_kit.core import ConfigError, ContractError, EpisodeError
from aloha_kit.data.index import read_table, split
from aloha_kit.episode import Episode, list_episodes
from aloha_kit.formats import open_source, ReadOptions
from aloha_kit.storage.contract_file import given_contract
from tests.storage.foreign import any_arms
from tests.synthetic import make, Synthetic, write, write_dataset


def test_vectors_are_the_recorded_ones_in_order(tmp_path: Path) -> None:
    written = write_dataset(tmp_path)
    table = read_table(open_source(tmp_path))
    assert len(table) == 30 + 41 + 25
    assert table.lengths.tolist() == [30, 41, 25]
    assert table.starts.tolist() == [0, 30, 71]
    for start, episode in zip(table.starts, written, strict=True):
        steps = len(episode.action)
        np.testing.assert_array_equal(table.action[start : start + steps], episode.action)
        np.testing.assert_array_equal(table.qpos[start : start + steps], episode.qpos[:steps])
        np.testing.assert_array_equal(
            table.vectors["environment_state"][start : start + steps], episode.environment_state[:steps]
        )
    assert table.contract.cameras == {"top": (24, 32)}
    assert table.episode_of(np.array([0, 29, 30, 70, 71, 95])).tolist() == [0, 0, 1, 1, 2, 2]


def test_statistics_equal_numpy_over_episodes_of_unequal_lengths(tmp_path: Path) -> None:
    written = write_dataset(tmp_path, lengths=(7, 60, 23))
    statistics = read_table(open_source(tmp_path)).statistics()
    for key, rows in (
        ("action", [e.action for e in written]),
        ("qpos", [e.qpos[:-1] for e in written]),
        ("environment_state", [e.environment_state[:-1] for e in written]),
    ):
        values = np.concatenate(rows).astype(np.float64)
        moments = statistics[key]
        np.testing.assert_allclose(moments.mean, values.mean(axis=0), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(moments.std, values.std(axis=0, ddof=1), rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(moments.min, values.min(axis=0).astype(np.float32))
        np.testing.assert_array_equal(moments.max, values.max(axis=0).astype(np.float32))
        assert moments.count == 90


def test_base_velocities_follow_the_arms(tmp_path: Path) -> None:
    written = write_dataset(tmp_path, lengths=(6, 8), base=True)
    table = read_table(open_source(tmp_path))
    assert table.action.shape == (14, 16)
    np.testing.assert_array_equal(table.action, np.concatenate([e.action for e in written]))
    assert table.contract.action_names[-2:] == ("base_linear", "base_angular")


def test_offset_is_decided_by_who_recorded(tmp_path: Path) -> None:
    """Real ALOHA's files pair each action with the observation before it; ours and simulated ones do not."""
    path = write(tmp_path / "ours", make(6, {"top": (24, 32)}, seed=0), sim=False)
    assert read_table(open_source(path)).offsets.tolist() == [0]
    for sim, expected in ((True, 0), (False, 1)):
        file = tmp_path / f"aloha_{sim}" / "episode_0.hdf5"
        file.parent.mkdir()
        with h5py.File(file, "w") as root:
            root.attrs["sim"] = sim
            root["action"] = np.zeros((6, 14), np.float32)
            root["observations/qpos"] = np.zeros((6, 14), np.float32)
            root["observations/qvel"] = np.zeros((6, 14), np.float32)
            root["observations/effort"] = np.zeros((6, 14), np.float32)
            root["observations/images/cam_high"] = np.zeros((6, 48, 64, 3), np.uint8)
        assert read_table(open_source(file)).offsets.tolist() == [expected]


def test_failures_are_left_out_unless_requested(tmp_path: Path) -> None:
    for seed, success in enumerate([True, False, True]):
        write(tmp_path, make(5, {"top": (24, 32)}, seed=seed), success=success)
    assert read_table(open_source(tmp_path)).lengths.tolist() == [5, 5]
    assert read_table(open_source(tmp_path)).failed == 1
    assert len(read_table(open_source(tmp_path), include_failed=True).names) == 3
    with pytest.raises(EpisodeError, match=r"no episode to train on in .*; 1 are marked as failures"):
        read_table(open_source(list_episodes(tmp_path)[1]))


def test_missing_camera_names_file_and_what_exists(tmp_path: Path) -> None:
    write_dataset(tmp_path, lengths=(5,), cameras={"top": (24, 32), "left_wrist": (24, 32)})
    with pytest.raises(ConfigError, match=r"episode_0.hdf5 has no camera 'wrist_left'.*left_wrist, top"):
        read_table(open_source(tmp_path), cameras=["top", "wrist_left"])
    assert read_table(open_source(tmp_path), cameras=["left_wrist"]).cameras == ("left_wrist",)


@pytest.mark.parametrize(
    ("stream", "named"),
    [
        ("observations/qpos", "qpos"),
        ("observations/environment_state", "environment_state"),
        ("base_action", "base_action"),
        ("observations/images/top", "camera 'top'"),
    ],
)
def test_a_stream_shorter_than_its_actions_is_refused(tmp_path: Path, stream: str, named: str) -> None:
    """Taken as it is, it would shift every later episode's rows against their actions."""
    write_dataset(tmp_path, lengths=(6, 9, 7), base=True)
    with h5py.File(tmp_path / "episode_1.hdf5", "r+") as root:
        short = root[stream][:5]
        del root[stream]
        root[stream] = short
    with pytest.raises(EpisodeError) as error:
        read_table(open_source(tmp_path))
    assert str(error.value) == (
        f"{tmp_path / 'episode_1.hdf5'}: 5 rows of {named} for 9 actions; "
        f"move it away, or run `python -m aloha_kit.episode validate {tmp_path}`"
    )


@pytest.mark.parametrize("key", ["qpos", "action", "environment_state"])
def test_a_value_that_is_no_number_is_named(tmp_path: Path, key: str) -> None:
    def spoil(index: int, episode: Synthetic) -> None:
        if index == 1:
            getattr(episode, key)[4, 2] = np.nan

    write_dataset(tmp_path, lengths=(6, 9, 7), change=spoil)
    with pytest.raises(EpisodeError, match=rf"episode_1.hdf5: {key} is nan at row 4, column 2; move it away"):
        read_table(open_source(tmp_path))


def test_a_damaged_file_is_named_with_a_way_out(tmp_path: Path) -> None:
    write_dataset(tmp_path, lengths=(6, 9))
    file = tmp_path / "episode_1.hdf5"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(EpisodeError, match=r"episode_1.hdf5 is damaged .*; move it away, or run `python -m aloha_kit"):
        read_table(open_source(tmp_path))


def test_differing_contracts_are_listed_by_file(tmp_path: Path) -> None:
    write(tmp_path, make(5, {"top": (24, 32)}, seed=0))
    write(tmp_path, make(5, {"top": (48, 64)}, seed=1))
    write(tmp_path, make(5, {"top": (24, 32)}, seed=2), rate_hz=30.0)
    with pytest.raises(ContractError) as error:
        read_table(open_source(tmp_path))
    assert "episode_1.hdf5: camera 'top': (24, 32) (height, width) against (48, 64)" in str(error.value)
    assert "episode_2.hdf5: rate: 50 Hz against 30 Hz" in str(error.value)


def test_episodes_with_other_joints_are_refused(tmp_path: Path) -> None:
    write(tmp_path, make(5, {}, seed=0))
    other: Synthetic = make(5, {}, seed=1, joints=7)
    write(tmp_path, other)
    with pytest.raises(ContractError, match=r"episode_1.hdf5: state: 14 entries against 7"):
        read_table(open_source(tmp_path))


def test_environment_state_counts_only_where_all_have_it(tmp_path: Path) -> None:
    write(tmp_path, make(5, {}, seed=0), state=False)
    write(tmp_path, make(5, {}, seed=1), state=True)
    table = read_table(open_source(tmp_path))
    assert list(table.vectors) == ["qpos"]
    assert table.contract.privileged == ()


@pytest.mark.parametrize(("episodes", "fraction"), [(50, 0.2), (3, 0.1), (2, 0.9), (7, 0.5)])
def test_split_is_disjoint_complete_and_seeded(episodes: int, fraction: float) -> None:
    training, validation = split(episodes, fraction, seed=3)
    assert sorted(training + validation) == list(range(episodes))
    assert training
    assert validation
    assert split(episodes, fraction, seed=3) == (training, validation)
    if episodes == 50:
        assert len(validation) == 10
        assert split(episodes, fraction, seed=4) != (training, validation)


def test_split_keeps_all_for_training_where_there_is_nothing_to_spare() -> None:
    assert split(1, 0.5, seed=0) == ([0], [])
    assert split(5, 0.0, seed=0) == ([0, 1, 2, 3, 4], [])
    assert split(5, 0.2, seed=0, own=[3, 1]) == ([0, 2, 4], [1, 3])
    assert split(5, 0.0, seed=0, own=[3, 1]) == ([0, 1, 2, 3, 4], [])


def test_cameras_of_another_name_are_read_by_the_policys(tmp_path: Path) -> None:
    """`--rename top=cam_high`: files with either name become one table."""
    old = write(tmp_path / "data", make(6, {"cam_high": (24, 32)}, seed=0))
    write(tmp_path / "data", make(8, {"top": (24, 32)}, seed=1))
    with pytest.raises(ContractError, match="camera 'cam_high' is missing; there are: top"):
        read_table(open_source(tmp_path / "data"))
    table = read_table(open_source(tmp_path / "data", options=ReadOptions(rename={"top": "cam_high"})))
    assert table.contract.cameras == {"top": (24, 32)}
    assert table.readings == ("top is cam_high", "top is cam_high")  # caches tell them from files read as they are
    with table.open(0) as renamed, Episode.open(old) as plain:
        np.testing.assert_array_equal(renamed.image("top", 3), plain.image("cam_high", 3))
        assert renamed.contract.cameras == {"top": (24, 32)}
        assert plain.contract.cameras == {"cam_high": (24, 32)}
        again = pickle.loads(pickle.dumps(renamed))
        np.testing.assert_array_equal(again.image("top", 3), plain.image("cam_high", 3))
        again.close()
    both = write(tmp_path / "both", make(6, {"cam_high": (24, 32), "top": (24, 32)}, seed=2))
    with pytest.raises(EpisodeError, match="cameras cam_high, top cannot be renamed, since two would be alike"):
        read_table(open_source(both, options=ReadOptions(rename={"top": "cam_high"})))
    swapped = read_table(open_source(both, options=ReadOptions(rename={"top": "cam_high", "cam_high": "top"})))
    with swapped.open(0) as crossed, Episode.open(both) as plain:
        np.testing.assert_array_equal(crossed.image("top", 1), plain.image("cam_high", 1))
        np.testing.assert_array_equal(crossed.image("cam_high", 1), plain.image("top", 1))


def test_files_that_do_not_say_their_joints_are_read_under_neutral_names(tmp_path: Path) -> None:
    for i in range(2):
        any_arms(tmp_path / f"episode_{i}.hdf5", 16, 16, base=3, seed=i)
    table = read_table(open_source(tmp_path))
    assert (table.qpos.shape, table.action.shape) == ((80, 16), (80, 19))
    assert table.contract.action_names[-4:] == ("joint_15", "base_vx", "base_vy", "base_wz")
    (assumption,) = table.assumptions
    assert f"adopt {tmp_path}`" in assumption
    any_arms(tmp_path / "episode_2.hdf5", 14, 14)
    with pytest.raises(ContractError, match=r"episode_2.hdf5: state: 16 entries against 14"):
        read_table(open_source(tmp_path))
    with pytest.raises(ContractError, match=r"the contract given names 14 entries of qpos, .* has 16"):
        read_table(open_source(tmp_path, options=ReadOptions(contract=given_contract(None, "aloha"))))
