"""Node of a launch file: ends its launch in order, and prints its result after the other nodes have ended."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import rospy

OTHERS_S = 1.0
"""How long the result waits for the other nodes of the launch to end."""
_CORE = (b"rosmaster", b"/rosout")  # processes that roslaunch ends after all nodes


def run_node(main: Callable[[Sequence[str]], None]) -> None:
    """Run `main` with this process's arguments (those of ROS removed); end the launch that it is part of.

    A node with `required="true"` ends its launch too, but roslaunch then reports that it has died, in red, whatever
    its status. Here the node interrupts roslaunch at its end, as Ctrl-C does. roslaunch still reports a node that was
    killed, or that failed with a traceback.

    Standard output is the result: it is printed once the other nodes have ended, and an error after it.
    """
    argv, parent = rospy.myargv()[1:], os.getppid()
    if not _is_roslaunch(parent):
        main(argv)
        return
    result, end = io.StringIO(), SystemExit(0)
    try:
        with contextlib.redirect_stdout(result):
            main(argv)
    except SystemExit as given:
        end = given
    except BaseException:
        sys.stdout.write(result.getvalue())
        raise
    # roslaunch reports that it stops this node, then interrupts it; after SIGTERM it kills within 2 s
    stopped = end.code in (128 + signal.SIGINT, 128 + signal.SIGTERM)

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    rospy.signal_shutdown("ended")  # simulated drivers run until this node is gone
    os.kill(parent, signal.SIGINT)
    deadline = time.monotonic() + (0 if end.code == 128 + signal.SIGTERM else OTHERS_S)
    while (_other_nodes(parent) or not stopped) and time.monotonic() < deadline:
        time.sleep(0.05)
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.stdout.write(result.getvalue())
    sys.stdout.flush()
    raise end


def _is_roslaunch(pid: int) -> bool:
    return b"roslaunch" in _command_line(pid)


def _command_line(pid: int | str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _other_nodes(parent: int) -> bool:
    """Whether roslaunch has other nodes that run; a process that has ended has no command line."""
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    except OSError:  # a kernel without that list: nothing to wait for
        return False
    lines = [_command_line(pid) for pid in children if int(pid) != os.getpid()]
    return any(line and not any(name in line for name in _CORE) for line in lines)
