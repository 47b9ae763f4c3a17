"""This process as a ROS node: started once, its clock, and clear words when there is no master."""

from __future__ import annotations

import contextlib
import http.client
import os
import xmlrpc.client
from typing import Any
from xml.parsers import expat

import rosgraph
import rospy

from aloha_kit.core import AlohaKitError, Clock, ConfigError, WallClock

ANSWER_S = 0.5


class RosError(AlohaKitError):
    """ROS itself is not there: no master, no driver, a service that does not answer."""


def start(name: str, *, anonymous: bool = False) -> Clock:
    """Become the node `name` (once a process; later calls keep the first) and return the clock of its stamps.

    Signals stay Python's: Ctrl-C is `KeyboardInterrupt`, so that exit paths park the arms.

    Raises:
        RosError: no master answers at `ROS_MASTER_URI`.
        ConfigError: /use_sim_time is set, but nobody publishes /clock.
    """
    require_master()
    if not rospy.core.is_initialized():
        rospy.init_node(name, anonymous=anonymous, disable_signals=True, disable_rosout=False)
    return clock()


def require_master() -> None:
    """Raise `RosError` unless a master answers."""
    uri = rosgraph.get_master_uri()
    try:
        rosgraph.Master("/aloha_kit").getPid()
    except (OSError, xmlrpc.client.Error, rosgraph.MasterException) as error:
        hint = "" if "ROS_MASTER_URI" in os.environ else " (ROS_MASTER_URI is not set)"
        raise RosError(
            f"no ROS master answers at {uri}{hint}: {error}. Start one with `roscore`, or launch this with roslaunch"
        ) from error


def is_there(name: str) -> bool:
    """Whether the process of the ROS node `name` runs: false for a node that was killed and is still registered.

    Where the node was, another process may listen by now, so the process there has to publish what is registered for
    `name`. A process that does not answer within `ANSWER_S` counts as there: it may be stopped, or its network slow.
    """
    master = rosgraph.Master(rospy.get_name())
    try:
        uri = master.lookupNode(name)
        registered = {topic for topic, nodes in master.getSystemState()[0] if name in nodes}
        proxy: Any = xmlrpc.client.ServerProxy(uri, transport=_Patient())
        published = {topic for topic, _ in proxy.getPublications(rospy.get_name())[2]}
    except (rosgraph.MasterException, ConnectionRefusedError):
        return False
    except (xmlrpc.client.ProtocolError, http.client.HTTPException, expat.ExpatError):
        return False  # no ROS node
    except (OSError, xmlrpc.client.Fault):
        return True
    return registered <= published


class _Patient(xmlrpc.client.Transport):
    """HTTP that waits `ANSWER_S`, and no longer, for an answer."""

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = super().make_connection(host)
        connection.timeout = ANSWER_S
        return connection


class RosClock:
    """ROS time, for a simulated /clock; `sleep_until` wakes with the clock's ticks."""

    def now_ns(self) -> int:
        return int(rospy.Time.now().to_nsec())

    def sleep_until(self, deadline_ns: int) -> None:
        remaining = deadline_ns - self.now_ns()
        if remaining > 0:
            # Time that starts again has no such deadline any more.
            with contextlib.suppress(rospy.exceptions.ROSTimeMovedBackwardsException):
                rospy.sleep(rospy.Duration.from_sec(remaining / 1e9))


def clock() -> Clock:
    """The clock that stamps are told in: the wall clock, or /clock under /use_sim_time.

    Raises:
        ConfigError: /use_sim_time is set, but no time arrives within 5 s.
    """
    if not rospy.get_param("/use_sim_time", False):
        return WallClock()
    if not _time_flows(5.0):
        raise ConfigError(
            "/use_sim_time is set, but nothing is published on /clock: start what publishes it, or unset it"
        )
    return RosClock()


def _time_flows(patience_s: float) -> bool:
    wall = WallClock()
    end = wall.now_ns() + int(patience_s * 1e9)
    while wall.now_ns() < end:
        if rospy.get_time() > 0:
            return True
        wall.sleep_until(wall.now_ns() + 20_000_000)
    return False
