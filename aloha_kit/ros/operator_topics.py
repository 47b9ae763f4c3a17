"""Operator commands by ROS topic and service, and the state published for the operator."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from typing import Any

import rospy
from std_msgs.msg import String
from std_srvs.srv import Trigger, TriggerResponse

from aloha_kit.ros.node import require_master, RosError, running_publishers
from aloha_kit.ros.simulation_client import simulated_rig

SESSIONS = ("/aloha_kit/record", "/aloha_kit/deploy")
"""Namespaces of the recorder's and of the deployment's operator."""
_ANSWER_S = 0.3  # a running program answers its services at once


def running_task(default: str) -> str:
    """Configuration file of the task of the simulated rig, the recorder or the deployment that runs; else `default`."""
    try:
        require_master()
        running = simulated_rig() or {}
        for namespace in () if running else SESSIONS:
            # the parameter outlives its session, and the registration a session that was killed
            if running_publishers(f"{namespace}/state"):
                running = rospy.get_param(namespace)
        return str(running.get("task_config") or default)
    except (RosError, KeyError):
        return default


class OperatorTopics:
    """Operator channel over ROS: commands by topic and by service, in one queue.

    Under the namespace: topic `command` (std_msgs/String, one word), a service (std_srvs/Trigger) for each command,
    and topic `state` (std_msgs/String, latched).

    Args:
        commands: those that have a service; by topic any word is passed on, and its reader refuses unknown ones.
        task_config: file of the session's task, for `running_task`.

    Raises:
        RosError: a running program uses this namespace already.
    """

    def __init__(self, commands: Sequence[str], namespace: str = SESSIONS[0], task_config: str = "") -> None:
        self._state = ""
        self._refusals: dict[str, Callable[[], str]] = {}
        self._received: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._require_unused(f"{namespace}/{commands[0]}", namespace)
        rospy.set_param(f"{namespace}/task_config", task_config)
        self._publisher = rospy.Publisher(f"{namespace}/state", String, queue_size=10, latch=True)
        self._subscriber = rospy.Subscriber(
            f"{namespace}/command", String, lambda message: self._received.put(message.data.strip()), queue_size=10
        )
        self._services = [
            rospy.Service(f"{namespace}/{command}", Trigger, lambda _, command=command: self._called(command))
            for command in commands
        ]

    def poll(self) -> Sequence[str]:
        """Commands since the last call, oldest first."""
        commands = []
        while not self._received.empty():
            commands.append(self._received.get())
        return commands

    def refuse(self, command: str, why: Callable[[], str]) -> None:
        """Make the service of `command` fail with the text that `why` returns, unless that is empty."""
        self._refusals[command] = why

    def status(self, state: str, message: str) -> None:
        """Publish the state; the message is for displays."""
        self._state = state
        self._publisher.publish(String(state))

    def close(self) -> None:
        """Unregister the topics and services."""
        for service in self._services:
            service.shutdown("over")
        self._subscriber.unregister()
        self._publisher.unregister()

    def _called(self, command: str) -> Any:
        if why := self._refusals.get(command, str)():
            return TriggerResponse(False, why)
        self._received.put(command)
        return TriggerResponse(True, f"{command}, received while {self._state}")

    def _require_unused(self, service: str, namespace: str) -> None:
        # Registrations outlive a process that was killed; only an answer proves that one runs.
        try:
            rospy.wait_for_service(service, _ANSWER_S)
        except rospy.ROSException:
            return
        raise RosError(
            "another session answers under {namespace} already; end it first, or use its commands", namespace=namespace
        )
