"""Emergency stop topic: any `true` latches until reset, and every command is checked against the latch."""

from __future__ import annotations

import select
import threading
import time
from typing import Any

import rospy
from std_msgs.msg import Bool

from aloha_kit.config.rig import EStopConfig
from aloha_kit.core.lang import Message
from aloha_kit.loop import Latch
from aloha_kit.ros import node
from aloha_kit.ros.node import RosError

FIRST_S = 1.0
"""How long running publishers may take to send their latched message."""

SOURCE_S = 5.0
"""How long a configured source may take to appear."""

_UNREAD_S = 0.01  # how long a thread may take to read the data in its socket
_STALL_S = 0.05  # commands are further apart than this after a pause, or where this process was stopped
_TICKS = 5  # a heartbeat's timeout is counted in this many parts


class EStop(Latch):
    """Emergency stop latch over all publishers of a std_msgs/Bool topic; a `SafetyGuard`'s `estop`.

    A `true` of any publisher latches, however short it is, and a `false` of another one does not release it.
    A configured source whose heartbeat stops latches too. It stops commands, not motors, so it does not replace
    the switch that cuts the motors' power.

    Args:
        config: the required source; without one the default topic, which needs no publisher.

    Raises:
        RosError: the configured source does not appear within `SOURCE_S`; or a node publishes on the topic whose
            messages do not arrive here, so that its button would do nothing.
    """

    def __init__(self, config: EStopConfig | None = None) -> None:
        super().__init__()
        self._config, self._topic = config, config.topic if config else EStopConfig.topic
        self._pressed: dict[str, bool] = {}  # by publisher: its last value
        self._ticks: dict[str, int] = {}  # by publisher: parts of the timeout since its last message
        self._received_count, self._skip_until, self._checked = 0, 0.0, time.monotonic()
        self._closed = threading.Event()
        # No message is dropped: a press of a millisecond arrives together with its release.
        self._subscriber = rospy.Subscriber(self._topic, Bool, self._receive, queue_size=None, tcp_nodelay=True)
        try:
            self._await_publishers()
            self._require_connected()
        except BaseException:
            self.close()
            raise
        if config:
            watch = threading.Thread(target=self._watch, args=(config.timeout_s,), name="e-stop heartbeat", daemon=True)
            watch.start()

    def refusal(self) -> str:
        there = node.running_publishers(self._topic)
        with self._state:
            pressing = sorted(who for who, pressed in self._pressed.items() if pressed and who in there)
            silent = sorted(who for who, ticks in self._ticks.items() if ticks > _TICKS and who in there)
        if pressing:
            who = ", ".join(pressing)
            return Message("no reset: the emergency stop is still pressed by {who}; release it first", who=who)
        if silent:
            return f"no reset: the emergency stop's source {', '.join(silent)} is silent"
        if self._config and not there:
            return f"no reset: the emergency stop has no source, nothing publishes on {self._topic}"
        return ""

    def reset(self) -> None:
        there = node.running_publishers(self._topic)
        with self._state:
            for who in self._pressed.keys() - there:  # a node that has ended holds no button
                del self._pressed[who]
                del self._ticks[who]
        super().reset()

    def close(self) -> None:
        """Unsubscribe."""
        self._closed.set()
        self._subscriber.unregister()

    def _receive(self, message: Any) -> None:
        who = message._connection_header.get("callerid", "a node without a name")
        with self._state:
            self._pressed[who], self._ticks[who] = bool(message.data), 0
        if message.data:
            self.press(Message("the emergency stop was pressed (by {who})", who=who))
        self._received_count += 1

    def _take_in(self) -> None:
        # After a stall, or on a busy machine, the thread that moves the arms may wake before the one that receives.
        count, now = self._received_count, time.monotonic()
        stalled, self._checked = now - self._checked > _STALL_S, now
        if stalled:
            time.sleep(_UNREAD_S)  # that thread may have read a press from its socket without handling it yet
        if now < self._skip_until or not self._unread():
            return
        while self._received_count == count and not self._reason:
            if time.monotonic() > now + _UNREAD_S:
                self._skip_until = now + 1.0  # a connection that breaks is readable too, and must not slow every step
                return
            time.sleep(0.0002)

    def _unread(self) -> bool:
        """Whether a publisher's message has arrived that is not read yet."""
        poll = select.poll()
        for connection in list(getattr(self._subscriber.impl, "connections", None) or ()):
            stream = connection.socket
            if stream is not None and stream.fileno() >= 0:
                poll.register(stream, select.POLLIN)
        return bool(poll.poll(0))

    def _await_publishers(self) -> None:
        """Wait for the configured source's first message, else for every running publisher's, `FIRST_S` at most.

        Raises:
            RosError: the configured source is silent for `SOURCE_S`.
        """
        began = time.monotonic()
        while not self._pressed if self._config else self._unheard():
            if time.monotonic() - began > (SOURCE_S if self._config else FIRST_S):
                if self._config:
                    raise RosError(
                        "the emergency stop's source is silent: nothing on {topic} for {seconds:g} s",
                        topic=self._topic,
                        seconds=SOURCE_S,
                    )
                return
            time.sleep(0.01)

    def _unheard(self) -> bool:
        """Whether a publisher that runs has not sent yet."""
        return any(node.is_there(who) for who in node.publishers(self._topic) - self._pressed.keys())

    def _require_connected(self) -> None:
        """Raise RosError where messages of a running publisher do not arrive: its button would do nothing."""
        end = time.monotonic() + FIRST_S
        while unconnected := sorted(node.publishers(self._topic) - self._connected()):
            unconnected = [who for who in unconnected if node.is_there(who)]
            if unconnected and time.monotonic() > end:
                kind = dict(rospy.get_published_topics()).get(self._topic, "unknown")
                raise RosError(
                    "the emergency stop of {unconnected} on {topic} cannot be received: expected {type} from a node "
                    "that can be reached, found type {kind}. A node that is gone: rosnode cleanup",
                    unconnected=", ".join(unconnected),
                    topic=self._topic,
                    type=Bool._type,
                    kind=kind,
                )
            if not unconnected:
                return
            time.sleep(0.05)

    def _connected(self) -> set[str]:
        """Publishers whose messages reach this process."""
        connections = list(getattr(self._subscriber.impl, "connections", None) or ())
        others = {each.callerid_pub for each in connections if hasattr(each, "callerid_pub")}
        return others | self._pressed.keys() | {rospy.get_name()}

    def _watch(self, timeout_s: float) -> None:
        # Counted, not timed: while this whole process was stopped it could receive nothing from its sources.
        while not self._closed.wait(timeout_s / _TICKS):
            with self._state:
                for who in self._ticks:
                    self._ticks[who] += 1
                silent = [who for who, ticks in self._ticks.items() if ticks > _TICKS]
            for who in silent:
                self.press(
                    Message(
                        "the emergency stop's source {who} is silent for {seconds:g} s, which counts as pressed",
                        who=who,
                        seconds=timeout_s,
                    )
                )
