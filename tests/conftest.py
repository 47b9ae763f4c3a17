"""What every test needs of the process it runs in."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# Two workers on two cores: a test computes in one thread, and so do the processes that it starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest.register_assert_rewrite("aloha_kit.testing")


def pytest_configure() -> None:
    """A shell that runs us in the background, or nohup, has us and whatever we start ignore signals that tests send."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups for `pytest -n 2 --dist loadgroup`: a file's tests stay together for its fixtures.

    The tests with ROS are one group. They wait most of the time, and need the processor at once when they do not:
    at most one other worker computes beside them.
    """
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        item.add_marker(pytest.mark.xdist_group("ros" if folder == "ros" else str(item.path)))
