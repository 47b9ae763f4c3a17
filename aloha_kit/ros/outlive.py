"""Ctrl-C in order: roslaunch signals all nodes at once, but drivers must outlast the program that uses them."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import rospy

from aloha_kit.ros.node import is_there

POLL_S = 0.1


@contextlib.contextmanager
def interrupted_after(node: str, say: Callable[[str], None]) -> Iterator[None]:
    """Delay the first SIGINT until the ROS node `node` has ended; a second one, or SIGTERM, takes effect at once.

    Args:
        node: its name ("aloha_deploy"), in this node's namespace; "", or one that does not run, delays nothing.
        say: told what is waited for.
    """
    if not node:
        yield
        return
    node = rospy.resolve_name(node)
    before = signal.getsignal(signal.SIGINT)
    waited_for = threading.Event()

    def delay(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        waited_for.set()

    def follow() -> None:
        waited_for.wait()
        if is_there(node):
            say(f"this node ends when {node} has ended")
        while is_there(node):
            time.sleep(POLL_S)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=follow, name="ends later", daemon=True).start()
    signal.signal(signal.SIGINT, delay)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
