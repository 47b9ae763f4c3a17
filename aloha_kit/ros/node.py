"""ROS node of this process: its start, its clock, its shutdown order, and errors when no master answers."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import threading
import time
import xmlrpc.client
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, cast, TypeVar
from xml.parsers import expat

import rosgraph
import rospy

from aloha_kit.core import AlohaKitError, cli, Clock, ConfigError, WallClock

ANSWER_S = 0.5
MASTER_S = 5.0
"""Timeout of the master's answers; one that hangs is called again after `_AGAIN_S`."""
_AGAIN_S = 10.0
STILL_S = 5.0
"""How long a simulated /clock may stand still while `sleep_until` waits for it."""
_POLL_S = 0.1

T = TypeVar("T")


class RosError(AlohaKitError):
    """ROS is unavailable: no master, no driver, or a service that does not answer."""


def start(name: str, *, anonymous: bool = False) -> Clock:
    """Start the ROS node `name` (once per process; later calls keep the first) and return the clock of its stamps.

    Signals stay Python's: Ctrl-C is `KeyboardInterrupt`, so that exit paths park the arms.

    Raises:
        RosError: no master answers at `ROS_MASTER_URI`.
        ConfigError: /use_sim_time is set, but no node publishes /clock.
    """
    require_master()
    if not rospy.core.is_initialized():
        _set_timeout(rospy.core.xmlrpcapi(rosgraph.get_master_uri()))  # the one that rospy itself uses
        rospy.init_node(name, anonymous=anonymous, disable_signals=True, disable_rosout=False)
    return clock()


def node_args(kind: type[T], name: str, argv: Sequence[str] | None) -> T:
    """Flags of this package's executable `name` as a `kind`; by default the process's own, without ROS's remappings.

    Raises:
        UsageError: as `cli.parse`.
    """
    given = rospy.myargv()[1:] if argv is None else argv
    return cast(T, cli.parse(kind, name, given, start="rosrun aloha_kit "))


def require_running() -> None:
    """Raise RosError where ROS has shut this node down, so that nothing is sent or received any more."""
    # requested: ROS closes its topics and connections before it reports that it is down
    if rospy.core.is_shutdown_requested():
        raise RosError(
            "the node {node} was shut down: by rosnode kill, or by another node of the same name", node=rospy.get_name()
        )


def require_master() -> None:
    """Raise `RosError` unless a master answers."""
    uri = rosgraph.get_master_uri()
    try:
        master().getPid()
    except RosError:
        raise
    except (OSError, xmlrpc.client.Error, rosgraph.MasterException) as error:
        hint = "" if "ROS_MASTER_URI" in os.environ else " (ROS_MASTER_URI is not set)"
        raise RosError(
            "no ROS master answers at {uri}{hint}: {error}. Start one with `roscore`, or launch this with roslaunch",
            uri=uri,
            hint=hint,
            error=error,
        ) from error


def master() -> Any:
    """ROS master as rosgraph.Master; a call that is not answered within `MASTER_S` raises RosError."""
    found = rosgraph.Master(rospy.get_name())
    _set_timeout(found.handle)
    return found


_hangs_until = [0.0]  # on the monotonic clock: calls before that fail without waiting again


def _set_timeout(proxy: Any) -> None:
    """Set a timeout on an xmlrpc ServerProxy, whose calls, also closing a topic, never return where a master hangs."""
    transport = proxy("transport")
    connect, request = transport.make_connection, transport.request

    def patient_connection(host: Any) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection = connect(host)
        connection.timeout = MASTER_S
        return connection

    def patient_request(*words: Any, **named: Any) -> Any:
        hangs = RosError(
            "the ROS master at {uri} does not answer within {timeout_s:g} s",
            uri=rosgraph.get_master_uri(),
            timeout_s=MASTER_S,
        )
        if time.monotonic() < _hangs_until[0]:
            raise hangs
        try:
            return request(*words, **named)
        except TimeoutError:
            _hangs_until[0] = time.monotonic() + _AGAIN_S
            raise hangs from None

    transport.make_connection, transport.request = patient_connection, patient_request


def is_there(name: str) -> bool:
    """Whether the ROS node `name` runs: false for a node that was killed and is still registered.

    Another process may listen at the node's address by now, so it has to publish what is registered for `name`.
    A process that does not answer within `ANSWER_S` counts as running: it may be suspended, or its network slow.
    """
    ros_master = master()
    try:
        uri = ros_master.lookupNode(name)
        registered = {topic for topic, nodes in ros_master.getSystemState()[0] if name in nodes}
        proxy: Any = xmlrpc.client.ServerProxy(uri, transport=_Patient())
        published = {topic for topic, _ in proxy.getPublications(rospy.get_name())[2]}
    except (rosgraph.MasterException, ConnectionRefusedError):
        return False
    except (xmlrpc.client.ProtocolError, http.client.HTTPException, expat.ExpatError, ConnectionError):
        return False  # no ROS node: it answers otherwise, or closes the connection
    except (OSError, xmlrpc.client.Fault):
        return True
    return registered <= published


def publishers(topic: str) -> set[str]:
    """Nodes registered at the master as publishers of `topic`. Raises RosError where no master answers."""
    require_master()
    return set(dict(master().getSystemState()[0]).get(topic, ()))


def running_publishers(topic: str) -> set[str]:
    """Registered publishers of `topic` whose process runs: a killed node stays registered. Raises as `publishers`."""
    return {who for who in publishers(topic) if is_there(who)}


class _Patient(xmlrpc.client.Transport):
    """HTTP transport with the timeout `ANSWER_S`."""

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = super().make_connection(host)
        connection.timeout = ANSWER_S
        return connection


class RosClock:
    """ROS clock over a simulated /clock; `sleep_until` wakes with the clock's ticks.

    Raises:
        RosError: from `sleep_until`, where /clock stands still for `STILL_S` of wall time.
    """

    def now_ns(self) -> int:
        return int(rospy.Time.now().to_nsec())

    def sleep_until(self, deadline_ns: int) -> None:
        last_ns, moved = self.now_ns(), time.monotonic()
        ticks = rospy.rostime.get_rostime_cond()
        with ticks:
            while (now_ns := self.now_ns()) < deadline_ns:
                if now_ns < last_ns:  # time that starts again has no such deadline any more
                    return
                if now_ns != last_ns:
                    last_ns, moved = now_ns, time.monotonic()
                elif time.monotonic() - moved > STILL_S:
                    raise RosError(
                        "/clock stands still for {seconds:g} s: does what publishes it run?", seconds=STILL_S
                    )
                ticks.wait(0.1)


def clock() -> Clock:
    """Clock of the stamps: the wall clock, or /clock under /use_sim_time.

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


def _time_flows(timeout_s: float) -> bool:
    wall = WallClock()
    end = wall.now_ns() + int(timeout_s * 1e9)
    while wall.now_ns() < end:
        if rospy.get_time() > 0:
            return True
        wall.sleep_until(wall.now_ns() + 20_000_000)
    return False


@contextlib.contextmanager
def interrupted_after(name: str, log: Callable[[str], None]) -> Iterator[None]:
    """Delay the first SIGINT until the ROS node `name` has ended; a second one, or SIGTERM, takes effect at once.

    roslaunch signals all nodes at once, but drivers must run until the program that uses them has parked the arms.

    Args:
        name: of the node ("aloha_deploy"), in this node's namespace; "", or one that does not run, delays nothing.
        log: called with a message about the wait.
    """
    if not name:
        yield
        return
    name = rospy.resolve_name(name)
    before = signal.getsignal(signal.SIGINT)
    waited_for, over = threading.Event(), threading.Event()

    def delay(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        waited_for.set()

    def follow() -> None:
        waited_for.wait()
        if is_there(name):
            log(f"this node ends when {name} has ended")
        while is_there(name) and not over.is_set():
            time.sleep(_POLL_S)
        if not over.is_set():  # ended by SIGTERM meanwhile: a second interrupt would come in the middle of the exit
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=follow, name="delayed SIGINT", daemon=True).start()
    signal.signal(signal.SIGINT, delay)
    try:
        yield
    finally:
        over.set()
        signal.signal(signal.SIGINT, before)
