"""The embodiment contract survives JSON and names every difference."""

import dataclasses

import pytest

from aloha_kit.core import Contract, ContractError, joint_names

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
