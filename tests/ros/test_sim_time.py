"""A simulated rig whose time is slower or faster than the wall's, jumps, or stands still."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from geometry_msgs.msg import Twist

from aloha_kit.config.rig import BaseConfig
from aloha_kit.core import VirtualClock, VX300S
from aloha_kit.core.motion import BASE_ACCELERATION
from aloha_kit.ros import interbotix_messages, node
from aloha_kit.ros.mobile_base import DEAD_MAN_S, MobileBase
from aloha_kit.ros.node import RosClock, RosError
from tests.ros.master import Ros
from tests.ros.rig_client import Received
from tests.ros.small_rig import simulated, write_task
from tests.waiting import until

RATE_HZ = 50.0
PERIOD_NS = round(1e9 / RATE_HZ)


class Scripted(RosClock):
    """ROS time that a test sets."""

    def __init__(self, *times_ns: int) -> None:
        self._times = itertools.chain(times_ns, itertools.repeat(times_ns[-1]))

    def now_ns(self) -> int:
        return next(self._times)


class TestRosClock:
    def test_waiting_ends_by_name_where_time_stands_still(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(node, "STILL_S", 0.2)
        with pytest.raises(RosError, match=r"^/clock stands still for 0\.2 s: does what publishes it run\?$"):
            Scripted(10).sleep_until(20)

    @pytest.mark.parametrize("times_ns", [(10, 12, 15, 20), (10, 10_000), (10, 11, 3), (25,)])
    def test_it_ends_at_the_deadline_after_a_jump_and_where_time_begins_again(self, times_ns: tuple[int, ...]) -> None:
        Scripted(*times_ns).sleep_until(20)


@pytest.fixture
def commands(session_ros: Ros) -> Iterator[Received]:
    received = Received("/cmd_vel", Twist)
    yield received
    received.subscriber.unregister()


@pytest.fixture
def driven(commands: Received) -> Iterator[tuple[VirtualClock, MobileBase]]:
    clock = VirtualClock(10**18)
    base = MobileBase(BaseConfig(), rate_hz=RATE_HZ, clock=clock)
    until(base._commands.get_num_connections, "somebody listens")
    yield clock, base
    base.close()


def speeds(commands: Received) -> list[float]:
    return [message.linear.x for message in commands.messages]


class TestBase:
    STEP = BASE_ACCELERATION[0] / RATE_HZ

    @pytest.mark.parametrize("slowness", [0.0, 3.0], ids=["faster", "slower"])
    def test_its_acceleration_is_in_the_clocks_time(
        self, driven: tuple[VirtualClock, MobileBase], commands: Received, slowness: float
    ) -> None:
        clock, base = driven
        requested = [self.STEP * min(k, 8) for k in range(1, 11)]
        for speed in requested:
            base.drive((speed, 0.0))
            clock.sleep_until(clock.now_ns() + PERIOD_NS)
            time.sleep(slowness * PERIOD_NS / 1e9)
        until(lambda: len(commands.messages) >= len(requested), "all arrived")
        np.testing.assert_allclose(speeds(commands)[: len(requested)], requested, atol=1e-6)

    @pytest.mark.parametrize("jump_s", [0.0, -100.0, 2 * DEAD_MAN_S], ids=["stands still", "back", "on"])
    def test_it_stops_where_time_no_longer_shows_that_it_is_driven(
        self, driven: tuple[VirtualClock, MobileBase], commands: Received, jump_s: float
    ) -> None:
        clock, base = driven
        base.drive((self.STEP, 0.0))
        clock._now += round(1e9 * jump_s)
        until(lambda: speeds(commands)[-1:] == [0.0], "it stops", 5.0)
        clock.sleep_until(clock.now_ns() + PERIOD_NS)
        base.drive((1.0, 0.0))
        until(lambda: len(commands.messages) >= 3, "it drives again")
        assert speeds(commands) == pytest.approx([self.STEP, 0.0, self.STEP]), "from standing"


def test_at_half_the_speed_commands_keep_their_steps_and_time_that_stops_ends_it_by_name(
    own_ros: Ros, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = write_task(tmp_path, "mobile_aloha", cameras=(), episode_len=100_000)
    with simulated(own_ros, task, cameras=False, operator=False, speed=0.5):
        arms = own_ros.processes[-1]
        program = own_ros.start("python", "-m", "tests.ros.restless", str(task))
        received = own_ros.start("python", "-c", LISTEN, log="listener")
        program.wait_for("driving", 120)
        time.sleep(1.0)
        arms.signal(signal.SIGSTOP)
        try:
            assert program.wait(120) == 1
        finally:
            arms.signal(signal.SIGCONT)
        received.stop()
    assert "RosError: /clock stands still for 5 s" in program.text()
    assert "the arms were not parked: " in program.text()
    collected = [line.split() for line in received.text().splitlines() if line[:4] in ("arm ", "base")]
    joints = np.array([line[1:] for line in collected if line[0] == "arm"], float)
    assert 0.01 < np.abs(np.diff(joints, axis=0)).max() <= VX300S.velocity / RATE_HZ + 1e-5
    base = np.array([line[1] for line in collected if line[0] == "base"], float)
    assert base.max() == pytest.approx(0.2)
    assert np.diff(base).max() <= BASE_ACCELERATION[0] / RATE_HZ + 1e-6
    assert base[-1] == 0.0
    moving = np.flatnonzero(base)
    assert (base[moving[0] : moving[-1] + 1] > 0).all(), "it does not stop in between"


LISTEN = f"""
import sys
import rospy
from geometry_msgs.msg import Twist
from {interbotix_messages.__name__} import JointGroupCommand
rospy.init_node("listener", disable_signals=True, disable_rostime=True)
def show(*words):  # one write for a line: two threads print
    sys.stdout.write(" ".join(map(str, words)) + "\\n")
    sys.stdout.flush()
rospy.Subscriber("/cmd_vel", Twist, lambda m: show("base", m.linear.x), queue_size=None)
rospy.Subscriber("/puppet_left/commands/joint_group", JointGroupCommand, lambda m: show("arm", *m.cmd))
rospy.spin()
"""
