"""Competing publishers: other nodes that publish on this node's command topics, and streams with two publishers.

Two nodes that command one arm move it to and fro between two poses; from two nodes that publish its joint states it
appears to jump.
"""

from __future__ import annotations

import contextlib
import threading
import time
import xmlrpc.client
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import rosgraph
import rospy
from geometry_msgs.msg import Twist

from aloha_kit.config import RigConfig
from aloha_kit.core import SafetyError
from aloha_kit.ros import node
from aloha_kit.ros.drivers import arm_driver

LISTEN_S = 0.3
"""Time to receive others' commands before the first own one: they come at 25 Hz or more, after connecting."""

POLL_S = 0.3
"""How often the master is queried for publishers: another node's commands are noticed within twice that."""

TOGETHER_S = 1.0
"""Two nodes whose messages alternate within this both run; the messages of a driver that was restarted under another
name follow those of the one before it, but never alternate with them."""


class PublisherMonitor:
    """Publisher monitor of one topic: finds two nodes that publish at the same time, from each message's sender."""

    def __init__(self) -> None:
        self._received: dict[str, float] = {}
        self._last = ""
        self._found: tuple[float, str] = (-TOGETHER_S, "")

    def note(self, name: str) -> None:
        """Record a message from the node `name`."""
        now = time.monotonic()
        if name != self._last:
            if now - self._received.get(name, -TOGETHER_S) < TOGETHER_S:
                self._found = now, " and ".join(sorted((name, self._last)))
            self._last = name
        self._received[name] = now

    def competing(self) -> str:
        """Names of two nodes that both published in the last `TOGETHER_S`; empty where there is one publisher."""
        when, names = self._found
        return names if time.monotonic() - when < TOGETHER_S else ""


def sender(message: Any) -> str:
    """Name of the node that sent a ROS message; empty for a message without a connection."""
    return str((getattr(message, "_connection_header", None) or {}).get("callerid", ""))


class CommandMonitor:
    """Subscriber to the commands of other nodes, on topics that this node publishes on.

    The master is queried every `POLL_S` in a thread of its own, and a topic is subscribed to only while another node
    is registered there: a permanent subscriber would receive every command of this node too.

    Args:
        topics: command topics.
        stops: topics of velocities, where zero is harmless: a watchdog that stops a base.
    """

    def __init__(self, topics: Iterable[str], *, stops: Iterable[str] = ()) -> None:
        self._stops = frozenset(stops)
        self._topics = (*topics, *self._stops)
        self._me = rospy.get_name()
        self._lock = threading.Lock()
        self._subscribers: dict[str, rospy.Subscriber] = {}
        self._received: dict[tuple[str, str], float] = {}  # (topic, node): when, on the monotonic clock
        self._closed = threading.Event()
        if self._topics:
            threading.Thread(target=self._watch, name="other publishers of commands", daemon=True).start()

    def update_subscriptions(self) -> bool:
        """Query the master for other publishers and subscribe there; returns whether there are any.

        Raises what `rosgraph` does.
        """
        published = dict(node.master().getSystemState()[0])
        others = {topic for topic in self._topics if set(published.get(topic, ())) - {self._me}}
        with self._lock:
            if self._closed.is_set():
                return False
            for topic in others - self._subscribers.keys():
                kind = Twist if topic in self._stops else rospy.AnyMsg
                self._subscribers[topic] = rospy.Subscriber(topic, kind, self._note, callback_args=topic)
            for topic in self._subscribers.keys() - others:
                self._subscribers.pop(topic).unregister()
        return bool(others)

    @property
    def received(self) -> bool:
        """Whether another node commanded anything since the last `clear`."""
        return bool(self._received)

    def competing(self) -> dict[str, str]:
        """{topic: names of the other nodes that sent on it in the last `TOGETHER_S`}."""
        now, found = time.monotonic(), dict[str, list[str]]()
        for (topic, name), when in sorted(self._received.copy().items()):
            if now - when < TOGETHER_S:
                found.setdefault(topic, []).append(name)
        return {topic: ", ".join(names) for topic, names in found.items()}

    def clear(self) -> None:
        """Forget what was received."""
        self._received.clear()

    def close(self) -> None:
        """Unsubscribe."""
        with self._lock:
            self._closed.set()
            for subscriber in self._subscribers.values():
                subscriber.unregister()
            self._subscribers.clear()

    def _note(self, message: Any, topic: str) -> None:
        name = sender(message)
        if name != self._me and not (topic in self._stops and _stands(message)):
            self._received[topic, name] = time.monotonic()

    def _watch(self) -> None:
        while not self._closed.wait(POLL_S):
            with contextlib.suppress(node.RosError, OSError, xmlrpc.client.Error, rosgraph.MasterException):
                self.update_subscriptions()  # without a master no other node appears either


def _stands(velocity: Twist) -> bool:
    return not any(getattr(part, axis) for part in (velocity.linear, velocity.angular) for axis in "xyz")


class SoleCommander:
    """Check that this node alone commands a rig, and that each of its streams has one publisher.

    Args:
        teleoperated: an operator moves the leaders, which this node brings to the start pose: they are monitored
            too. The operator may push or drive a base, and where the leaders drive the followers directly
            (`teleop: hardware`) this node commands nothing.
        published_twice: returns {topic: nodes} of the streams with two publishers.
        disturbed: called where another node has sent a command: the arms may have left their last command.
    """

    def __init__(
        self,
        rig: RigConfig,
        *,
        teleoperated: bool,
        published_twice: Callable[[], Mapping[str, str]],
        disturbed: Callable[[], None],
    ) -> None:
        listens_only = teleoperated and rig.teleop == "hardware"
        leaders = {"leaders": rig.leaders} if teleoperated else {}
        moved = {} if listens_only else {"followers": rig.followers, **leaders}
        self._whose = {
            topic: who
            for who, arms in moved.items()
            for arm in arms.values()
            for topic in arm_driver(arm).command_topics
        }
        stops = [rig.base.command_topic] if rig.base and not teleoperated else []
        self._monitor = CommandMonitor(list(self._whose), stops=stops)
        self._published_twice, self._disturbed = published_twice, disturbed

    def listen(self) -> None:
        """Clear what was received and receive again, before a first command.

        Raises:
            SafetyError: as `require`.
            RosError: no master answers.
        """
        node.require_master()
        if self._monitor.received:
            self._disturbed()
        could = self._monitor.update_subscriptions()
        self._monitor.clear()
        if could:
            time.sleep(LISTEN_S)
        self.wait()

    def wait(self) -> None:
        """Wait until commands of a node that has just ended are older than `TOGETHER_S`; then raise as `require`."""
        end = time.monotonic() + TOGETHER_S
        while True:
            try:
                self.require()
                return
            except SafetyError:
                if time.monotonic() > end:
                    raise
            time.sleep(0.02)

    def require(self) -> None:
        """Raise SafetyError, naming the node, where another node commands the arms or base or publishes a stream too.

        Raises:
            RosError: this node itself was shut down.
        """
        node.require_running()
        commanding = self._monitor.competing()
        if commanding:
            self._disturbed()
        found = [
            f"another node commands the {self._whose.get(topic, 'base')}: {nodes} on {topic}"
            for topic, nodes in commanding.items()
        ]
        found += [f"two nodes publish {topic}: {nodes}" for topic, nodes in self._published_twice().items()]
        if found:
            what = "; ".join(found)
            raise SafetyError("{what}. Stop one of them; no further command was sent", what=what)

    def close(self) -> None:
        """Unsubscribe."""
        self._monitor.close()
