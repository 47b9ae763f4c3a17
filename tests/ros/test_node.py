"""Starting up: a master that is there, one that is not, and a clock that stands still."""

from __future__ import annotations

import pytest
import rospy

from aloha_kit.core import ConfigError, WallClock
from aloha_kit.ros import node
from tests.ros.master import free_port, Ros


def test_no_master_is_said_with_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("ROS_MASTER_URI", uri)
    with pytest.raises(node.RosError, match=f"no ROS master answers at {uri}"):
        node.require_master()


def test_wall_time_is_the_clock_of_stamps(session_ros: Ros) -> None:
    clock = node.start("again")
    assert isinstance(clock, WallClock)
    assert abs(clock.now_ns() - rospy.Time.now().to_nsec()) < 50_000_000


def test_a_simulated_clock_that_stands_still_is_refused(session_ros: Ros, monkeypatch: pytest.MonkeyPatch) -> None:
    rospy.set_param("/use_sim_time", True)
    monkeypatch.setattr(node, "_time_flows", lambda patience_s: False)
    try:
        with pytest.raises(ConfigError, match="nothing is published on /clock"):
            node.clock()
    finally:
        rospy.delete_param("/use_sim_time")
