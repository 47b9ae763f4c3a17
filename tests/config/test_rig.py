"""Rigs behind ROS: what ships is complete, and what is missing is named."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from aloha_kit.config import from_mapping, load, names, RigConfig, ViewConfig
from aloha_kit.core import ConfigError

WHOLE: dict[str, Any] = {
    "name": "mine",
    "kind": "ros",
    "followers": {"left": {"name": "puppet_left"}},
    "leaders": {"left": {"name": "master_left", "model": "wx250s"}},
    "cameras": {"cam_high": {"topic": "/usb_cam_high/image_raw"}},
}


@pytest.mark.parametrize("name", names("rigs"))
def test_every_shipped_rig_loads_and_its_topics_differ(name: str) -> None:
    rig = load(RigConfig, "rigs", name)
    topics = [topic for camera in rig.cameras.values() for topic in (camera.topic, camera.depth_topic) if topic]
    assert len(set(topics)) == len(topics)
    if rig.kind == "ros":
        assert list(rig.followers) == list(rig.leaders) == ["left", "right"], "the order of the vectors"
        states = [arm.name or arm.state_topic for arm in (*rig.followers.values(), *rig.leaders.values())]
        assert len(set(states)) == 4


def broken(path: str, value: Any) -> dict[str, Any]:
    """The whole rig with one entry replaced, or left out where `value` is None."""
    rig = copy.deepcopy(WHOLE)
    *way, last = path.split(".")
    place = rig
    for key in way:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return rig


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("followers", None, "no follower for the leaders left; there are: (none)"),
        ("leaders", {"right": {"name": "master_right"}}, "no follower for the leaders right; there are: left"),
        ("leaders.left.model", "tests.ros.arm_of_seven:ARM", "the leader left (tests.ros.arm_of_seven:ARM) must have"),
        ("followers.left.rate_hz", 0, "an arm's rate_hz must be positive, given 0"),
        ("cameras.cam_high.rate_hz", -30, "a camera's rate_hz must be positive, given -30"),
        ("estop", {"topic": "estop"}, "an emergency stop's topic begins with '/', given 'estop'"),
        ("estop", {"timeout_s": 0}, "an emergency stop's timeout_s lies between 0.05 and 10 s, given 0"),
        ("estop", {"timeout_s": float("nan")}, "an emergency stop's timeout_s lies between 0.05 and 10 s, given nan"),
        ("followers.left.modell", "vx300s", "unknown key 'modell'. Did you mean 'model'"),
        (
            "followers.left.model",
            "vx300",
            "no 'vx300' among the arm_models. Did you mean 'vx300s'? Known: piper",
        ),
        ("followers.left.rate_hz", "fast", "followers.rate_hz cannot be 'fast'. (wrong value type"),
    ],
)
def test_what_is_missing_or_wrong_is_named(path: str, value: Any, message: str) -> None:
    assert from_mapping(RigConfig, WHOLE).followers["left"].model == "vx300s"
    with pytest.raises(ConfigError) as caught:
        from_mapping(RigConfig, broken(path, value), where="mine.yaml")
    assert message in str(caught.value)


def test_a_simulated_cameras_view_is_read_from_its_rig() -> None:
    view = {"position": [0.9, 0, 0.5], "target": [0, 0.5, 0], "fovy": 40, "mount": "left_gripper"}
    rig = from_mapping(RigConfig, {"name": "r", "kind": "sim", "cameras": {"side": {"height": 9, "view": view}}})
    assert rig.cameras["side"].view == ViewConfig((0.9, 0.0, 0.5), (0.0, 0.5, 0.0), 40.0, "left_gripper")
    assert rig.cameras["side"].height == 9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fovy": 180}, "fovy lies between 0 and 180 degrees, given 180"),
        ({"target": [0.9, 0, 0.5]}, "target cannot be its own position"),
        ({"mount": "left_griper"}, "Did you mean 'left_gripper'"),
        ({"target": [0, 0]}, "must be a list of 3 values"),
        ({"fov": 3}, "unknown key 'fov'. Did you mean 'fovy'"),
    ],
)
def test_a_view_that_cannot_be_is_refused(change: dict[str, Any], words: str) -> None:
    view = {"position": [0.9, 0, 0.5], "target": [0, 0.5, 0], **change}
    with pytest.raises(ConfigError, match=re.escape(words)):
        from_mapping(RigConfig, {"name": "r", "kind": "sim", "cameras": {"side": {"view": view}}})
