"""Beginnings and ends of the simulated rig's node: mistakes, a clean end, a death and return, time of its own."""

from __future__ import annotations

import os
import signal
import time
import xmlrpc.client
from collections.abc import Iterator

import numpy as np
import pytest
import rosgraph
import rospy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image

from aloha_kit.core import START_ARM_POSE
from aloha_kit.ros.readings import TIMEOUT_S
from aloha_kit.ros.sim_rig.arms_node import main
from aloha_kit.ros.simulation_client import first_state_timeout, STARTING_S
from tests.ros.master import Process, Ros
from tests.ros.rig_client import Client, Received
from tests.waiting import until

NODE = ("python", "record/sim_arms_node")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--task", "aloha_transfer_cub"), "Did you mean 'aloha_transfer_cube'?"),
        (("--speed", "0"), "speed must be positive, given 0.0"),
        (("--seed", "-1"), "seed cannot be negative, given -1"),
        (("--noise", "nan"), "noise must be at least 0, given nan"),
        ((), "no ROS master answers at http://127.0.0.1:9"),
    ],
)
def test_mistakes_end_it_with_words(
    arguments: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROS_MASTER_URI", "http://127.0.0.1:9")
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code not in {0, None}
    assert words in " ".join(f"{capsys.readouterr()} {ended.value.code}".split())


def pid_of(node: str) -> int:
    uri = rosgraph.Master("/tests").lookupNode(node)
    return int(xmlrpc.client.ServerProxy(uri).getPid("/tests")[2])


def test_drivers_that_die_come_back_to_arms_where_they_were(session_ros: Ros) -> None:
    launch = session_ros.launch("sim_rig.launch", cameras="false", respawn="true", operator="false", seed=5)
    until(lambda: rospy.has_param("/sim_rig_starting"), "programs wait for it")
    assert first_state_timeout() == STARTING_S
    launch.wait_for("is up")
    assert first_state_timeout() == TIMEOUT_S
    assert rospy.get_param("/sim_rig")["operator"] is False
    before = Client()
    assert before.reset() == 5
    before.mode("puppet_left")
    before.move("puppet_left", START_ARM_POSE, 0.5)
    until(
        lambda: abs(rospy.get_param("/sim_rig_resume", {"qpos": [0, 0]})["qpos"][1] + 0.96) < 0.03, "it is remembered"
    )
    cube = np.array(before.scene.newest.position[16:])
    first = pid_of("/sim_arms")
    os.kill(first, signal.SIGKILL)
    before.close()
    launch.wait_for("the last simulated rig here did not end cleanly")
    after = Client()
    assert pid_of("/sim_arms") != first
    np.testing.assert_allclose(after.position("puppet_left")[:6], START_ARM_POSE, atol=0.03)
    np.testing.assert_allclose(after.scene.next()[0].position[16:], cube, atol=1e-3)
    assert list(after.call("puppet_left", "get_motor_registers", "group", "arm", "Torque_Enable", 0).values) == [1] * 6
    assert after.reset() == 6, "seeds go on"
    assert rospy.get_param("/sim_rig")["scene"] == "transfer_cube"
    after.close()
    launch.stop()
    assert not rospy.has_param("/sim_rig")
    assert not rospy.has_param("/sim_rig_resume")


@pytest.fixture
def slow(session_ros: Ros) -> Iterator[Process]:
    process = session_ros.start(*NODE, "--speed", "0.5", "--operator", "False")
    process.wait_for("is up")
    yield process
    process.stop()


def test_slower_than_the_wall_time_is_on_the_clock(slow: Process) -> None:
    assert rospy.get_param("/use_sim_time") is True
    clock = Received("/clock", Clock)
    until(lambda: clock.newest, "/clock")
    client = Client()
    wall, begin = time.monotonic(), clock.newest.clock.to_sec()
    ticks = [tick.clock.to_sec() for tick in clock.next(60)]
    # until: ticks that were held up on the way arrive faster than time passes, for a moment
    until(lambda: clock.newest.clock.to_sec() - begin < 0.7 * (time.monotonic() - wall), "half the wall's time or less")
    np.testing.assert_allclose(np.diff(ticks), 0.01, atol=1e-6)
    stamps = np.array([s.header.stamp.to_sec() for s in client.states["puppet_left"].next(30)])
    np.testing.assert_allclose(np.diff(stamps), 0.01, atol=1e-6)
    assert begin < stamps[0] < clock.newest.clock.to_sec() + 1.0, "stamps are in the clock's time"
    client.close()
    clock.subscriber.unregister()
    slow.stop()
    assert not rospy.has_param("/use_sim_time")


def test_who_takes_its_place_is_left_in_peace(session_ros: Ros, slow: Process) -> None:
    """A second node of the name makes the first end: the second one's description stays."""
    second = session_ros.start(*NODE, "--operator", "False")
    second.wait_for("is up")
    slow.wait()
    assert rospy.get_param("/sim_rig")["scene"] == "transfer_cube"
    assert rospy.get_param("/use_sim_time") is False
    second.stop()


def test_one_launch_brings_images_of_the_requested_size_and_rate(session_ros: Ros) -> None:
    launch = session_ros.launch("sim_rig.launch", image_size="24 32", camera_hz=10, operator="false", quality="draft")
    try:
        launch.wait_for("is up")
        images = Received("/usb_cam_high/image_raw", Image)
        until(lambda: len(images.messages) > 4, "images")
        assert (images.newest.height, images.newest.width) == (24, 32)
        assert np.diff([image.header.stamp.to_sec() for image in images.messages]).min() > 0.08
        images.subscriber.unregister()
    finally:
        launch.stop()


def test_it_ends_well_without_a_master(own_ros: Ros) -> None:
    node = own_ros.start(*NODE, "--operator", "False")
    node.wait_for("is up")
    own_ros.core.kill()
    node.signal(signal.SIGINT)
    assert node.wait() == 130
    assert "Traceback" not in node.text()
