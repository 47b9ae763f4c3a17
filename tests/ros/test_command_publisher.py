"""Commands leave in the thread that publishes them, and a subscriber that does not read holds nobody up."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

import pytest
import rospy
from std_msgs.msg import String

from aloha_kit.ros.command_publisher import CommandPublisher
from tests.ros.master import Ros
from tests.ros.rig_client import Received
from tests.waiting import until

TOPIC = "/command_publisher_test"


@contextlib.contextmanager
def opened() -> Iterator[CommandPublisher]:
    publisher = CommandPublisher(TOPIC, String)
    yield publisher
    publisher.unregister()


def test_a_message_has_left_when_publish_returns(session_ros: Ros) -> None:
    """No thread of rospy may send later: the messages are counted where they leave, with every other thread held."""
    received = Received(TOPIC, String)
    with opened() as publisher:
        until(lambda: publisher.get_num_connections() == 1, "it is connected")
        (connection,) = publisher._publisher.impl.connections
        senders: list[int] = []
        write = connection.write_data
        connection.write_data = lambda data: (senders.append(threading.get_ident()), write(data))
        for number in range(20):
            publisher.publish(String(data=str(number)))
            assert senders == [threading.get_ident()] * (number + 1)
        until(lambda: len(received.messages) == 20, "all have arrived")
    assert [message.data for message in received.messages] == [str(number) for number in range(20)]
    received.subscriber.unregister()


def test_a_subscriber_that_does_not_read_does_not_stop_the_others(session_ros: Ros) -> None:
    received = Received(TOPIC, String)
    with opened() as publisher:
        paused = session_ros.start("rostopic", "echo", TOPIC)
        until(lambda: publisher.get_num_connections() == 2, "both are connected")
        paused.signal(signal.SIGSTOP)
        received.messages.clear()
        big = "x" * 100_000  # more than fits into the buffers of a connection after some hundred of them
        for number in range(200):
            publisher.publish(String(data=f"{number} {big}"))
            until(lambda: len(received.messages) == number + 1, "it has arrived")  # noqa: B023
        assert [int(message.data.split()[0]) for message in received.messages] == list(range(200))
        paused.kill()
    received.subscriber.unregister()


def test_an_unregistered_publisher_refuses(session_ros: Ros) -> None:
    publisher = CommandPublisher(TOPIC, String)
    publisher.unregister()
    with pytest.raises(rospy.ROSException, match=f"{TOPIC}, which was unregistered"):
        publisher.publish(String(data="late"))
