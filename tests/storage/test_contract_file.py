"""What the vectors of old files mean: assumed, described beside the file, or given by a flag."""

import pickle
from pathlib import Path

import h5py
import pytest
import yaml

from aloha_kit.core import ConfigError, Contract, ContractError, joint_names
from aloha_kit.episode import Episode
from aloha_kit.episode.validate import validate
from aloha_kit.storage.contract_file import given_contract, read_contract
from aloha_kit.storage.export import export
from tests.storage.foreign import any_arms, cobot_magic
from tests.storage.recording import record, Rig


def written(path: Path, contract: Contract, **changes: object) -> Path:
    values = {
        "state_names": list(contract.state_names),
        "action_names": list(contract.action_names),
        "rate_hz": contract.rate_hz,
        "units": contract.units,
    }
    path.write_text(yaml.safe_dump({**values, **changes}))
    return path


@pytest.mark.parametrize(
    ("state", "action", "base", "names"),
    [
        (7, 7, 0, ["joint_0", "joint_6"]),
        (6, 6, 0, ["joint_0", "joint_5"]),
        (21, 21, 0, ["joint_0", "joint_20"]),
        (16, 16, 0, ["joint_0", "joint_15"]),
        (14, 14, 3, ["joint_0", "joint_13", "base_vx", "base_vy", "base_wz"]),
        (8, 8, 2, ["joint_0", "joint_7", "base_linear", "base_angular"]),
        (14, 7, 0, ["action_0", "action_6"]),
        (14, 16, 0, ["left_waist", "right_gripper", "base_linear", "base_angular"]),
    ],
)
def test_any_widths_have_names(tmp_path: Path, state: int, action: int, base: int, names: list[str]) -> None:
    path = any_arms(tmp_path / "episode_0.hdf5", state, action, base)
    with Episode.open(path) as episode:
        found = episode.contract
        assert (len(found.state_names), len(found.action_names)) == (state, action + base)
        assert len(set(found.action_names)) == action + base
        assert set(names) <= set(found.action_names)
        assert found.cameras == {"cam": (12, 16)}
        assert f"{path.parent}`, --contract FILE or --rig NAME" in episode.assumption
    assert validate(path).level in ("ok", "warning")


def test_an_aloha_file_is_assumed_to_be_one(tmp_path: Path) -> None:
    with Episode.open(any_arms(tmp_path / "episode_0.hdf5", 14, 14)) as episode:
        assert episode.contract.state_names == joint_names()
        assert "left_waist … right_gripper, rad and 50 Hz are assumed" in episode.assumption
    assert "contract" not in {f.check for f in validate(tmp_path / "episode_0.hdf5").findings}


ARM = Contract.of(
    (*(f"arm_joint_{i}" for i in range(7)), "arm_gripper"),
    (*(f"arm_joint_{i}" for i in range(7)), "arm_gripper", "base_vx", "base_vy", "base_wz"),
    {},
    20.0,
    units={"joints": "deg", "gripper": "m"},
)


def test_a_contract_beside_the_file_or_given(tmp_path: Path) -> None:
    path = any_arms(tmp_path / "data" / "episode_0.hdf5", 8, 8, 3)
    written(tmp_path / "data" / "contract.yaml", ARM)
    with Episode.open(path) as episode:
        assert episode.contract == ARM.with_cameras({"cam": (12, 16)})
        assert (episode.rate_hz, episode.assumption) == (20.0, "")
        assert pickle.loads(pickle.dumps(episode)).contract == episode.contract
    other = read_contract(written(tmp_path / "mine.yaml", ARM, rate_hz=25))
    with Episode.open(path, other) as episode:
        assert episode.contract.rate_hz == 25.0
        assert pickle.loads(pickle.dumps(episode)).contract.rate_hz == 25.0
    nested = any_arms(tmp_path / "data" / "episode_1" / "episode_1.hdf5", 8, 8, 3)
    with Episode.open(nested) as episode:
        assert episode.contract.state_names == ARM.state_names


def test_a_contract_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = any_arms(tmp_path / "episode_0.hdf5", 7, 7)
    with Episode.open(path, ARM) as episode, pytest.raises(ContractError) as error:
        _ = episode.contract
    assert str(error.value).startswith(f"the contract given names 8 entries of qpos, {path} has 7. Describe it with")
    assert f"adopt {tmp_path}`, --contract FILE or --rig NAME" in str(error.value)
    assert validate(path, contract=ARM).level == "error"
    eight = any_arms(tmp_path / "episode_1.hdf5", 8, 8, 3)
    camera = ARM.with_cameras({"cam": (480, 640)})
    with Episode.open(eight, camera) as episode, pytest.raises(ContractError, match=r"480x640.*has: cam 12x16"):
        _ = episode.contract


def test_a_recorded_contract_counts_and_may_not_be_contradicted(tmp_path: Path) -> None:
    path = record(tmp_path, 20)
    written(tmp_path / "contract.yaml", ARM)
    with Episode.open(path) as episode:
        assert episode.contract == Rig().contract
    with Episode.open(path, given_contract(None, "aloha")) as episode:
        assert episode.contract == Rig().contract
    with Episode.open(path, ARM) as episode, pytest.raises(ContractError, match="state: 8 entries against 14"):
        _ = episode.contract


def test_a_rig_names_the_joints(tmp_path: Path) -> None:
    path = any_arms(tmp_path / "episode_0.hdf5", 14, 14, 2)
    with Episode.open(path, given_contract(None, "mobile_aloha")) as episode:
        assert episode.contract.action_names == (*joint_names(), "base_linear", "base_angular")
        assert episode.assumption == "the file does not record its rate: 50 Hz is assumed"
    cobot = tmp_path / "episode_1.hdf5"
    cobot_magic(cobot, Rig())
    with Episode.open(cobot, given_contract(None, "cobot_magic")) as episode:
        assert (episode.contract.state_names, episode.contract.rate_hz) == (joint_names(), 30.0)
        assert episode.contract.units["gripper"] == "raw"  # in its recorder's files, whatever the rig's driver gives
    with pytest.raises(ConfigError, match="give one of them"):
        given_contract("x.yaml", "aloha")
    with pytest.raises(ConfigError, match=r"no configuration 'alohaa' in rigs. Did you mean 'aloha'"):
        given_contract(None, "alohaa")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"state_name": []}, "unknown key 'state_name'"),
        ({"state_names": []}, "state_names must name every entry once"),
        ({"action_names": ["a", "a"]}, "action_names must name every entry once"),
        ({"rate_hz": 0}, "rate_hz must be above 0"),
        ({"rate_hz": "fast"}, "rate_hz cannot be 'fast'"),
        ({"cameras": {"cam": 4}}, "cameras"),
    ],
)
def test_what_is_no_contract_is_refused(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_contract(written(tmp_path / "contract.yaml", ARM, **changes))


def test_an_export_carries_what_describes_its_source(tmp_path: Path) -> None:
    path = any_arms(tmp_path / "old" / "episode_0.hdf5", 8, 8, 3)
    assert "contract" not in h5py.File(export(path, tmp_path / "plain"), "r").attrs
    written(tmp_path / "old" / "contract.yaml", ARM)
    with Episode.open(export(path, tmp_path / "new")) as episode:
        assert episode.contract == ARM.with_cameras({"cam": (12, 16)})
        assert episode.rate_hz == 20.0
