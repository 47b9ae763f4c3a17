"""The embodiment contract survives JSON and names every difference."""

import dataclasses
import json
from typing import Any

import pytest

from aloha_kit.core import Contract, ContractError, Feature, joint_names
from aloha_kit.core.features import joint_sensors, object_poses

NAMES = joint_names()
CONTRACT = Contract(NAMES, NAMES, {"top": (480, 640)}, 50.0)


def test_json_round_trip() -> None:
    assert Contract.from_json(CONTRACT.to_json()) == CONTRACT


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"state_names": 3}'])
def test_other_text_is_refused_with_what_it_was(text: str) -> None:
    with pytest.raises(ContractError, match="not an embodiment contract"):
        Contract.from_json(text)


def test_what_a_contract_lacks_is_named() -> None:
    with pytest.raises(ContractError, match="not an embodiment contract, it lacks 'state_names'"):
        Contract.from_json("{}")


def test_equal_contracts_and_extra_cameras_have_no_difference() -> None:
    richer = dataclasses.replace(CONTRACT, cameras={"top": (480, 640), "wrist": (240, 320)})
    assert CONTRACT.differences(CONTRACT) == []
    assert CONTRACT.differences(richer) == []
    assert richer.differences(CONTRACT) == ["camera 'wrist' is missing; there are: top"]


def test_each_difference_is_named() -> None:
    swapped = (*NAMES[7:], *NAMES[:7])
    other = Contract(swapped, NAMES[:-1], {"top": (240, 320)}, 30.0, {"joints": "deg"})
    with pytest.raises(ContractError) as caught:
        CONTRACT.require(other, mine="checkpoint", theirs="rig")
    text = str(caught.value)
    assert text.startswith("checkpoint does not fit rig:")
    for expected in (
        "state[0]: 'left_waist' against 'right_waist'",
        "action: 14 entries against 13",
        "camera 'top': (480, 640) (height, width) against (240, 320)",
        "rate: 50 Hz against 30 Hz",
        "unit of joints: 'rad' against 'deg'",
        "unit of gripper: '0 closed, 1 open' against '(none)'",
    ):
        assert expected in text


WRENCH = Feature.vector("sensors/wrist", "wrench", ("force", "torque"), ("N", "N m"))
RICH = dataclasses.replace(
    CONTRACT,
    action_names=(*NAMES, "base_linear", "base_angular"),
    sensors=(
        *object_poses(("cube_x", "cube_qw")),
        *joint_sensors(NAMES, "mA"),
        dataclasses.replace(WRENCH, rate_hz=200.0),
    ),
)


def test_features_are_listed_with_role_shape_and_units() -> None:
    features = {feature.name: feature for feature in RICH.features}
    assert list(features) == [
        "qpos", "action", "images/top", "environment_state", "qvel", "effort", "sensors/wrist",
    ]  # fmt: skip
    assert features["qpos"].units[5:7] == ("rad", "0 closed, 1 open")
    assert features["action"].units[-2:] == ("m/s", "rad/s")
    assert (features["images/top"].shape, features["images/top"].dtype) == ((480, 640, 3), "uint8")
    assert features["environment_state"].units == ("m", "1")
    assert features["effort"].units == ("mA",) * 14
    assert features["sensors/wrist"].rate_hz == 200.0
    assert [feature.role for feature in RICH.inputs].count("action") == 0


def test_sensors_survive_json() -> None:
    assert Contract.from_json(RICH.to_json()) == RICH


def test_object_poses_are_written_under_the_key_of_the_first_version() -> None:
    plain = dataclasses.replace(CONTRACT, sensors=object_poses(("cube_x", "cube_qw")))
    keys = ["action_names", "cameras", "environment_state_names", "rate_hz", "state_names", "units"]
    for contract, poses in ((CONTRACT, []), (plain, ["cube_x", "cube_qw"])):
        values = json.loads(contract.to_json())
        assert (sorted(values), values["environment_state_names"]) == (keys, poses)
        assert Contract.from_json(contract.to_json()) == contract
    later = dataclasses.replace(RICH, sensors=RICH.sensors[::-1])  # not the first sensor: written in full
    assert Contract.from_json(later.to_json()) == later
    degrees = (Feature.vector("environment_state", "privileged", ("cube_x",), "deg"),)
    other = dataclasses.replace(CONTRACT, sensors=degrees)
    assert Contract.from_json(other.to_json()) == other


def test_privileged_features_are_read_on_request_only() -> None:
    assert [feature.name for feature in RICH.privileged] == ["environment_state"]
    assert [feature.name for feature in RICH.without_privileged().sensors] == ["qvel", "effort", "sensors/wrist"]
    with pytest.raises(ContractError, match="'environment_state', which is not there; sensors: qvel, effort, sensors"):
        RICH.named_sensors(("environment_state",))


def test_a_required_sensor_is_compared_and_an_optional_one_is_not() -> None:
    reads = dataclasses.replace(CONTRACT, sensors=(WRENCH,))
    assert RICH.differences(CONTRACT)[-1] == "wrench 'sensors/wrist' is missing; there are: (none)"
    assert not any("effort" in difference for difference in RICH.differences(CONTRACT))
    other = dataclasses.replace(WRENCH, units=("N", "mN m"))
    assert reads.differences(dataclasses.replace(CONTRACT, sensors=(other,))) == [
        "units of 'sensors/wrist': ('N', 'N m') against ('N', 'mN m')"
    ]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"shape": [3]}, "'sensors/wrist' names 2 entries and has shape (3,)"),
        ({"units": ["N"]}, "2 entries and 1 units"),
        ({"dtype": "object"}, "is no type of a feature"),
        ({"name": "qpos"}, "two features of the name 'qpos'"),
        ({"role": 3}, "are no names"),
    ],
)
def test_a_feature_that_cannot_be_is_refused(change: dict[str, Any], text: str) -> None:
    values = json.loads(dataclasses.replace(CONTRACT, sensors=(WRENCH,)).to_json())
    values["sensors"][0].update(change)
    with pytest.raises(ContractError, match=text.replace("(", r"\(").replace(")", r"\)")):
        Contract.from_json(json.dumps(values))
