"""Who else commands what this node moves. Two senders at once throw the arms to and fro between two poses."""

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
from aloha_kit.ros.publishers import sender, TOGETHER_S

LISTEN_S = 0.3
"""How long to listen: commands come at 25 Hz or more, and a subscriber needs a moment to be connected."""

POLL_S = 0.3
"""How often the master is asked for publishers: another node's commands are noticed within twice that."""


class CommandWatch:
    """Listens all the time for other nodes that send on topics which this one sends on.

    The master is asked every `POLL_S` in a thread of its own, and a topic is listened to only while another node is
    registered there: a subscriber at all times would make every command of ours come back to us.

    Args:
        topics: command topics.
        stops: topics of velocities, where zero is harmless: a watchdog that stops a base.
    """

    def __init__(self, topics: Iterable[str], *, stops: Iterable[str] = ()) -> None:
        self._stops = frozenset(stops)
        self._topics = (*topics, *self._stops)
        self._me = rospy.get_name()
        self._lock = threading.Lock()
        self._ears: dict[str, rospy.Subscriber] = {}
        self._heard: dict[tuple[str, str], float] = {}  # (topic, node): when, on the monotonic clock
        self._closed = threading.Event()
        if self._topics:
            threading.Thread(target=self._watch, name="other publishers of commands", daemon=True).start()

    def look(self) -> bool:
        """Ask the master who could send, listen there; says whether anybody could. Raises what `rosgraph` does."""
        published = dict(node.master().getSystemState()[0])
        others = {topic for topic in self._topics if set(published.get(topic, ())) - {self._me}}
        with self._lock:
            if self._closed.is_set():
                return False
            for topic in others - self._ears.keys():
                kind = Twist if topic in self._stops else rospy.AnyMsg
                self._ears[topic] = rospy.Subscriber(topic, kind, self._hear, callback_args=topic)
            for topic in self._ears.keys() - others:
                self._ears.pop(topic).unregister()
        return bool(others)

    @property
    def heard(self) -> bool:
        """Whether another node commanded anything since the last `clear`."""
        return bool(self._heard)

    def competing(self) -> dict[str, str]:
        """{topic: the other nodes that were heard on it in the last `TOGETHER_S`}, by name."""
        now, found = time.monotonic(), dict[str, list[str]]()
        for (topic, name), when in sorted(self._heard.copy().items()):
            if now - when < TOGETHER_S:
                found.setdefault(topic, []).append(name)
        return {topic: ", ".join(names) for topic, names in found.items()}

    def clear(self) -> None:
        """Forget what was heard."""
        self._heard.clear()

    def close(self) -> None:
        """Stop listening."""
        with self._lock:
            self._closed.set()
            for ear in self._ears.values():
                ear.unregister()
            self._ears.clear()

    def _hear(self, message: Any, topic: str) -> None:
        name = sender(message)
        if name != self._me and not (topic in self._stops and _stands(message)):
            self._heard[topic, name] = time.monotonic()

    def _watch(self) -> None:
        while not self._closed.wait(POLL_S):
            with contextlib.suppress(node.RosError, OSError, xmlrpc.client.Error, rosgraph.MasterException):
                self.look()  # without a master no other node appears either


def _stands(velocity: Twist) -> bool:
    return not any(getattr(part, axis) for part in (velocity.linear, velocity.angular) for axis in "xyz")


class SoleCommander:
    """Whether this node is the only one that commands a rig, and each of its streams has one publisher.

    Args:
        by_person: a person moves the leaders, which this node brings to the start pose: they are watched too. The
            person may push or drive a base themselves, and where the leaders drive the followers themselves nothing
            is commanded from here.
        published_twice: {topic: nodes}, of the streams.
        disturbed: called where another node has commanded something: the arms may be elsewhere than they were sent.
    """

    def __init__(
        self,
        rig: RigConfig,
        *,
        by_person: bool,
        published_twice: Callable[[], Mapping[str, str]],
        disturbed: Callable[[], None],
    ) -> None:
        listens_only = by_person and rig.teleop == "hardware"
        moved = {} if listens_only else {"followers": rig.followers, **({"leaders": rig.leaders} if by_person else {})}
        self._whose = {
            topic: who
            for who, arms in moved.items()
            for arm in arms.values()
            for topic in arm_driver(arm).command_topics
        }
        stops = [rig.base.command_topic] if rig.base and not by_person else []
        self._watch = CommandWatch(list(self._whose), stops=stops)
        self._published_twice, self._disturbed = published_twice, disturbed

    def listen(self) -> None:
        """Listen anew, before a first command.

        Raises:
            SafetyError: as `require`.
            RosError: no master answers.
        """
        node.require_master()
        if self._watch.heard:
            self._disturbed()
        could = self._watch.look()
        self._watch.clear()
        if could:
            time.sleep(LISTEN_S)
        self.wait()

    def wait(self) -> None:
        """Give another node that has just ended the time in which it still counts; raises as `require` after that."""
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
        """Raise SafetyError, by name, where another node commands the arms or the base, or publishes a stream too.

        Raises:
            RosError: this node itself was shut down.
        """
        node.require_running()
        commanding = self._watch.competing()
        if commanding:
            self._disturbed()
        found = [
            f"another node commands the {self._whose.get(topic, 'base')}: {nodes} on {topic}"
            for topic, nodes in commanding.items()
        ]
        found += [f"two nodes publish {topic}: {nodes}" for topic, nodes in self._published_twice().items()]
        if found:
            raise SafetyError(f"{'; '.join(found)}. Stop one of them; no further command was sent")

    def close(self) -> None:
        """Stop listening."""
        self._watch.close()
