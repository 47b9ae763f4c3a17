"""Starting up: a master that is there, one that is not, and a clock that stands still."""

from __future__ import annotations

import signal
import socketserver
import threading

import pytest
import rosgraph
import rospy
from std_msgs.msg import Bool

from aloha_kit.core import ConfigError, WallClock
from aloha_kit.ros import node
from tests.ros.master import free_port, Process, Ros
from tests.waiting import until


def test_no_master_is_reported_with_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("ROS_MASTER_URI", uri)
    with pytest.raises(node.RosError, match=f"no ROS master answers at {uri}"):
        node.require_master()


def test_wall_time_is_the_clock_of_stamps(session_ros: Ros) -> None:
    clock = node.start("again")
    assert isinstance(clock, WallClock)
    assert abs(clock.now_ns() - rospy.Time.now().to_nsec()) < 50_000_000


@pytest.fixture
def publisher(session_ros: Ros) -> Process:
    topic, master = "/node_test/flag", rosgraph.Master("/t")
    process = session_ros.start("rostopic", "pub", "-l", topic, "std_msgs/Bool", "true", "__name:=publisher")
    until(lambda: "/publisher" in dict(master.getSystemState()[0]).get(topic, ()), "it is there")
    return process


def test_a_node_is_there_until_its_process_ends(session_ros: Ros, publisher: Process) -> None:
    assert node.is_there("/publisher")
    publisher.signal(signal.SIGSTOP)
    assert node.is_there("/publisher"), "a stopped process is no dead one"
    publisher.kill()
    assert not node.is_there("/publisher")
    assert not node.is_there("/nobody")


def test_another_process_at_the_address_of_a_killed_node_is_not_that_node(session_ros: Ros) -> None:
    """Ports are given out again: by another ROS node, or by a program that has nothing to do with ROS."""
    master = rosgraph.Master("/killed")
    rospy.Publisher("/node_test/other", Bool, queue_size=1)
    master.registerPublisher("/node_test/flag", "std_msgs/Bool", rospy.get_node_uri())
    try:
        assert not node.is_there("/killed")
    finally:
        master.unregisterPublisher("/node_test/flag", rospy.get_node_uri())
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), NoNode) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_address[1]}/"
        master.registerPublisher("/node_test/flag", "std_msgs/Bool", uri)
        try:
            assert not node.is_there("/killed")
        finally:
            master.unregisterPublisher("/node_test/flag", uri)
            server.shutdown()


class NoNode(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")


def test_a_simulated_clock_that_stands_still_is_refused(session_ros: Ros, monkeypatch: pytest.MonkeyPatch) -> None:
    rospy.set_param("/use_sim_time", True)
    monkeypatch.setattr(node, "_time_flows", lambda timeout_s: False)
    try:
        with pytest.raises(ConfigError, match="nothing is published on /clock"):
            node.clock()
    finally:
        rospy.delete_param("/use_sim_time")
