"""One roscore for the tests that talk to ROS in this process (a process can be one node only, once)."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.ros.master import Ros

# A training box has no ROS; `make test` installs it.
collect_ignore_glob = [] if importlib.util.find_spec("rospy") else ["test_*.py"]


@pytest.fixture(scope="session")
def session_ros(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ros]:
    """The session's roscore, with this process as a node on it. Tests that kill one start their own: `own_ros`."""
    from tests.ros.master import ros

    with pytest.MonkeyPatch.context() as patch, ros(tmp_path_factory.mktemp("ros")) as running:
        for name in ("ROS_MASTER_URI", "ROS_IP", "ROS_HOME", "ROS_LOG_DIR", "ROS_PACKAGE_PATH"):
            patch.setenv(name, running.environment[name])
        patch.delenv("ROS_HOSTNAME", raising=False)
        import rospy

        rospy.init_node("aloha_kit_tests", anonymous=True, disable_signals=True)
        yield running
        rospy.signal_shutdown("tests are over")


@pytest.fixture(autouse=True)
def _quick_motions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arms move as fast as their joints may, in this process."""
    from tests.ros.quick import quick_motions

    quick_motions(monkeypatch.setattr)


@pytest.fixture
def own_ros(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ros]:
    """A roscore for one test, for processes only: it may be killed."""
    from tests.ros.master import ros

    with ros(tmp_path_factory.mktemp("ros")) as running:
        yield running
