"""An operator at the other end of topics: commands come in, the state of things goes out."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from typing import Any

import rospy
from std_msgs.msg import String
from std_srvs.srv import Trigger, TriggerResponse

from aloha_kit.ros.node import RosError

_ANSWER_S = 0.3  # a running session answers its services at once


class RosOperator:
    """Commands by topic and by service, in one queue.

    Under the namespace: topic `command` (std_msgs/String, one word), a service each (std_srvs/Trigger) of the
    commands' names, and topic `state` (std_msgs/String, latched).

    Args:
        commands: the words that have a service; by topic any word comes through, for its reader to judge.

    Raises:
        RosError: a live session has this namespace already.
    """

    def __init__(self, commands: Sequence[str], namespace: str = "/aloha_kit/record") -> None:
        self._state = ""
        self._refusals: dict[str, Callable[[], str]] = {}
        self._heard: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._require_alone(f"{namespace}/{commands[0]}", namespace)
        self._publisher = rospy.Publisher(f"{namespace}/state", String, queue_size=10, latch=True)
        self._subscriber = rospy.Subscriber(
            f"{namespace}/command", String, lambda message: self._heard.put(message.data.strip()), queue_size=10
        )
        self._services = [
            rospy.Service(f"{namespace}/{command}", Trigger, lambda _, command=command: self._called(command))
            for command in commands
        ]

    def poll(self) -> Sequence[str]:
        """Words since the last call, oldest first."""
        words = []
        while not self._heard.empty():
            words.append(self._heard.get())
        return words

    def refuse(self, command: str, why: Callable[[], str]) -> None:
        """Let the service of `command` fail with what `why` returns, unless that is empty."""
        self._refusals[command] = why

    def tell(self, state: str, words: str) -> None:
        """Publish the state; the words are for people."""
        self._state = state
        self._publisher.publish(String(state))

    def close(self) -> None:
        """Leave the topics and services."""
        for service in self._services:
            service.shutdown("over")
        self._subscriber.unregister()
        self._publisher.unregister()

    def _called(self, command: str) -> Any:
        if why := self._refusals.get(command, str)():
            return TriggerResponse(False, why)
        self._heard.put(command)
        return TriggerResponse(True, f"{command}, said while {self._state}")

    def _require_alone(self, service: str, namespace: str) -> None:
        # Registrations outlive a process that was killed; only an answer means that one is there.
        try:
            rospy.wait_for_service(service, _ANSWER_S)
        except rospy.ROSException:
            return
        raise RosError(f"another session answers under {namespace} already; end it first, or use its controls")
