"""Who else commands the arms. Two senders at once throw them to and fro between two poses."""

from __future__ import annotations

import time
from collections.abc import Iterable

import rosgraph
import rospy

from aloha_kit.ros import node

LISTEN_S = 0.3
"""How long to listen: commands come at 25 Hz or more, and a subscriber needs a moment to be connected."""


def rivals(topics: Iterable[str]) -> dict[str, str]:
    """{topic: the other nodes that send on it now}, by name; empty as a rule.

    One question to the master, and only where others could send is listened to whether they do: a node that once
    asked to publish and is silent harms nobody.

    Raises:
        RosError: no master answers.
    """
    node.require_master()
    me = rospy.get_name()
    published = dict(rosgraph.Master(me).getSystemState()[0])
    doubtful = [topic for topic in topics if set(published.get(topic, ())) - {me}]
    heard: dict[str, set[str]] = {topic: set() for topic in doubtful}

    def hear(message: rospy.AnyMsg, topic: str) -> None:
        heard[topic].add(message._connection_header.get("callerid", "?"))

    ears = [rospy.Subscriber(topic, rospy.AnyMsg, hear, callback_args=topic) for topic in doubtful]
    if ears:
        time.sleep(LISTEN_S)
    for ear in ears:
        ear.unregister()
    return {topic: ", ".join(sorted(nodes - {me})) for topic, nodes in heard.items() if nodes - {me}}
