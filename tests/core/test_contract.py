"""The embodiment contract survives JSON and names every difference."""

import dataclasses
import json
import re
from typing import Any

import pytest

from aloha_kit.core import Contract, ContractError, Feature, joint_names
from aloha_kit.core.features import joint_sensors, object_poses

NAMES = joint_names()
CONTRACT = Contract.of(NAMES, NAMES, {"top": (480, 640)}, 50.0)


def test_json_round_trip() -> None:
    assert Contract.from_json(CONTRACT.to_json()) == CONTRACT


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"state_names": 3}'])
def test_other_text_is_refused_with_what_it_was(text: str) -> None:
    with pytest.raises(ContractError, match="not an embodiment contract"):
        Contract.from_json(text)


def test_what_a_contract_lacks_is_named() -> None:
    for text, key in (("{}", "features"), ('{"features": []}', "rate_hz"), ('{"state_names": ["x"]}', "action_names")):
        with pytest.raises(ContractError, match=f"not an embodiment contract, it lacks '{key}'"):
            Contract.from_json(text)


def test_equal_contracts_and_extra_cameras_have_no_difference() -> None:
    richer = CONTRACT.with_cameras({"top": (480, 640), "wrist": (240, 320)})
    assert CONTRACT.differences(CONTRACT) == []
    assert CONTRACT.differences(richer) == []
    assert richer.differences(CONTRACT) == ["camera 'wrist' is missing; there are: top"]


def test_each_difference_is_named() -> None:
    swapped = (*NAMES[7:], *NAMES[:7])
    other = Contract.of(swapped, NAMES[:-1], {"top": (240, 320)}, 30.0, {"joints": "deg"})
    with pytest.raises(ContractError) as caught:
        CONTRACT.require(other, mine="checkpoint", theirs="rig")
    text = str(caught.value)
    assert text.startswith("checkpoint does not fit rig:")
    for expected in (
        "state[0]: 'left_waist' against 'right_waist'",
        "action: 14 entries against 13",
        "camera 'top': (480, 640) (height, width) against (240, 320)",
        "rate: 50 Hz against 30 Hz",
        "unit of left_waist, left_shoulder, left_elbow and 9 more: 'rad' against 'deg'",
        "unit of left_gripper: '0 closed, 1 open' against '(none)'",
    ):
        assert expected in text


WRENCH = Feature.vector("sensors/wrist", "wrench", ("force", "torque"), ("N", "N m"))
RICH = Contract.of(
    NAMES,
    (*NAMES, "base_linear", "base_angular"),
    {"top": (480, 640)},
    50.0,
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


@pytest.mark.parametrize(("key", "value"), [("state_names", ["a"]), ("units", {}), ("cameras", {"top": [1, 2]})])
def test_an_edit_beside_the_features_is_not_ignored(key: str, value: object) -> None:
    values = json.loads(RICH.to_json()) | {key: value}
    with pytest.raises(ContractError, match=f"'{key}' of the contract does not agree with its features"):
        Contract.from_json(json.dumps(values))


def test_sensors_survive_json() -> None:
    assert Contract.from_json(RICH.to_json()) == RICH


def test_features_are_written_and_the_keys_of_the_versions_before_them() -> None:
    values = json.loads(RICH.to_json())
    assert [feature["name"] for feature in values["features"]] == [feature.name for feature in RICH.features]
    del values["features"]  # then as those versions wrote it
    assert values["cameras"] == {"top": [480, 640]}
    assert values["units"] == {"joints": "rad", "gripper": "0 closed, 1 open"}
    assert values["environment_state_names"] == ["cube_x", "cube_qw"]
    assert [sensor["name"] for sensor in values["sensors"]] == ["qvel", "effort", "sensors/wrist"]
    degrees = (Feature.vector("environment_state", "privileged", ("cube_x",), "deg"),)
    for contract in (RICH, RICH.with_sensors(RICH.sensors[::-1]), CONTRACT.with_sensors(degrees)):
        values = json.loads(contract.to_json())
        del values["features"]
        assert Contract.from_json(json.dumps(values)) == contract


def test_what_only_features_can_hold_is_kept() -> None:
    names, image = ("x", "y"), dataclasses.replace(Feature.image("top", (24, 32)), rate_hz=5.0)
    features = (
        Feature.vector("qpos", "state", names, ("m", "rad")),
        Feature.vector("action", "action", names, ("m/s", "rad/s")),
        image,
    )
    contract = Contract(features, 10.0)
    read = Contract.from_json(contract.to_json())
    assert read == contract
    assert read.with_cameras({"side": (4, 6), "top": (24, 32)}).features[3] == image


def test_units_are_those_that_the_entries_were_given() -> None:
    units = {"joints": "deg", "gripper": "m", "lift": "mm"}
    contract = Contract.of(("a_waist", "a_gripper"), ("a_waist", "lift", "a_gripper", "base_linear"), {}, 9.0, units)
    assert contract.units == units
    assert contract.features[1].units == ("deg", "mm", "m", "m/s")
    assert Contract.of(("x",), ("base_linear",), {}, 9.0, {"joints": "px"}).units == {"joints": "px"}


def test_names_are_compared_where_no_units_are_given() -> None:
    plain = [dataclasses.replace(feature, units=()) for feature in (*CONTRACT.features[:2], WRENCH)]
    swapped = [dataclasses.replace(plain[2], entries=WRENCH.entries[::-1])]
    mine, theirs = Contract((*plain,), 50.0), Contract((*plain[:2], *swapped), 50.0)
    assert mine.differences(theirs) == [
        "wrench 'sensors/wrist'[0]: 'force' against 'torque'",
        "wrench 'sensors/wrist'[1]: 'torque' against 'force'",
    ]
    assert mine.differences(mine.with_sensors((WRENCH,))) == []


@pytest.mark.parametrize(
    ("names", "text"),
    [((), "given: (none)"), (("action", "qpos"), "given: action, qpos"), (("qpos",), "given: qpos")],
)
def test_state_and_action_come_first(names: tuple[str, ...], text: str) -> None:
    features = {feature.name: feature for feature in CONTRACT.features}
    with pytest.raises(ContractError, match=f"the state 'qpos' and the action 'action', {re.escape(text)}"):
        Contract(tuple(features[name] for name in names), 50.0)


def test_privileged_features_are_read_on_request_only() -> None:
    assert [feature.name for feature in RICH.privileged] == ["environment_state"]
    assert [feature.name for feature in RICH.without_privileged().sensors] == ["qvel", "effort", "sensors/wrist"]
    with pytest.raises(ContractError, match="'environment_state', which is not there; sensors: qvel, effort, sensors"):
        RICH.named_sensors(("environment_state",))


def test_a_required_sensor_is_compared_and_an_optional_one_is_not() -> None:
    reads = CONTRACT.with_sensors((WRENCH,))
    assert RICH.differences(CONTRACT)[-1] == "wrench 'sensors/wrist' is missing; there are: (none)"
    assert not any("effort" in difference for difference in RICH.differences(CONTRACT))
    other = dataclasses.replace(WRENCH, units=("N", "mN m"))
    assert reads.differences(CONTRACT.with_sensors((other,))) == [
        "unit of wrench 'sensors/wrist', torque: 'N m' against 'mN m'"
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
    values = json.loads(CONTRACT.with_sensors((WRENCH,)).to_json())
    values["features"][-1].update(change)
    with pytest.raises(ContractError, match=text.replace("(", r"\(").replace(")", r"\)")):
        Contract.from_json(json.dumps(values))
