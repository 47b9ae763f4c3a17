"""A second publisher of what one node may publish: noticed within a second, by name; a silent one is let be."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import JointState

from aloha_kit.config.rig import BaseConfig
from aloha_kit.core import SafetyError
from aloha_kit.ros import competing_publishers
from aloha_kit.ros.competing_publishers import PublisherMonitor
from aloha_kit.ros.ros_env import RosEnv
from tests.ros import test_ros_env
from tests.ros.competing_publisher import CompetingPublisher
from tests.ros.fake_drivers import FakeBase, FakePiper
from tests.ros.master import Ros
from tests.ros.test_ros_env import Fakes, RIG, START, TASK
from tests.waiting import until

LONG = replace(TASK, episode_len=100_000)
GROUP = "/puppet_right/commands/joint_group"


@pytest.fixture
def fakes(session_ros: Ros) -> Iterator[Fakes]:
    with contextlib.ExitStack() as stack:
        yield Fakes(stack)


def until_refused(act: Callable[[], Any], words: str) -> None:
    """Call `act` until it raises SafetyError, for a second and a half: a busy machine takes its time."""
    with pytest.raises(SafetyError, match=words):
        _repeat(act, 1.5)


def _repeat(act: Callable[[], Any], seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        act()


@pytest.mark.parametrize(
    ("kind", "topic", "words"),
    [
        (
            "group",
            GROUP,
            r"^another node commands the followers: /intruder on /puppet_right/commands/joint_group\. Stop",
        ),
        (
            "group",
            "/master_left/commands/joint_group",
            r"^another node commands the leaders: /intruder on /master_left/commands/joint_group\. Stop",
        ),
        ("states", "/puppet_left/joint_states", r"two nodes publish /puppet_left/joint_states: /aloha.* and /intruder"),
        ("states", "/master_left/joint_states", r"two nodes publish /master_left/joint_states: /aloha.* and /intruder"),
    ],
)
def test_in_an_episode_it_ends_the_step_and_nothing_moves_until_it_stops(
    fakes: Fakes, session_ros: Ros, kind: str, topic: str, words: str
) -> None:
    env = fakes.env(LONG, leaders=True)
    with CompetingPublisher(session_ros, "intruder", kind, topic) as other:
        env.reset()
        for _ in range(15):
            env.step(START)  # it could send, and does not
        other.send()
        until_refused(lambda: env.step(START), words)
        sent = len(fakes.left.groups)
        with pytest.raises(SafetyError, match=words):
            env.park()
        with pytest.raises(SafetyError, match=words):
            env.reset()
        assert len(fakes.left.groups) == sent
        other.stop()
        until(lambda: not _refused(env), "alone again")
        env.reset()
        env.step(START)


def _refused(env: RosEnv) -> bool:
    try:
        env.step(START)
    except SafetyError:
        return True
    return False


@pytest.mark.parametrize(("kind", "topic"), [("group", GROUP), ("path", "/puppet_left/commands/joint_trajectory")])
def test_in_a_move_it_ends_the_move(fakes: Fakes, session_ros: Ros, kind: str, topic: str) -> None:
    env = fakes.env()
    with CompetingPublisher(session_ros, "intruder", kind, topic) as other:
        env.reset()
        other.send()
        there = [np.array([*START[:6], opening]) for opening in (0.0, 1.0)]
        ways = iter(range(1000))

        def move() -> None:
            env.move(dict.fromkeys(env.followers.values(), there[next(ways) % 2]), 0.2)

        until_refused(move, f"another node commands the followers: /intruder on {topic}")


def test_after_another_sender_the_next_command_starts_from_where_the_arm_is(fakes: Fakes, session_ros: Ros) -> None:
    env = fakes.env()
    with CompetingPublisher(session_ros, "intruder", "group", GROUP) as other:
        env.reset()
        env.move({env.followers["right"]: np.array([0.15, *START[1:7]])}, 0.1)
        other.send()
        until(lambda: bool(np.allclose(fakes.right.motors[:6], START[:6], atol=1e-5)), "it moved the arm")
        with pytest.raises(SafetyError, match="another node commands"):
            env.reset()
        other.stop()
        time.sleep(competing_publishers.TOGETHER_S)
        fakes.right.groups.clear()
        env.reset()
        assert fakes.right.groups[0][0] == pytest.approx(0.0, abs=0.05), "not 0.15, where it was sent before"


def test_once_another_sender_has_left_the_arms_can_be_parked_at_once(fakes: Fakes, session_ros: Ros) -> None:
    env = fakes.env(LONG)
    with CompetingPublisher(session_ros, "intruder", "group", GROUP) as other:
        env.reset()
        other.send()
        until_refused(lambda: env.step(START), "another node commands the followers: /intruder")
    env.park()


class TestBase:
    RIG = replace(RIG, base=BaseConfig())
    ACTION = np.append(START, [0.1, 0.0])

    @pytest.mark.parametrize("kind", ["base", "stop"])
    def test_a_second_driver_is_noticed_one_that_only_sends_stop_is_none(
        self, fakes: Fakes, session_ros: Ros, kind: str
    ) -> None:
        fakes.stack.enter_context(FakeBase())
        env = fakes.env(LONG, self.RIG)
        with CompetingPublisher(session_ros, "joystick", kind, "/cmd_vel") as other:
            env.reset()
            other.send()
            if kind == "base":
                until_refused(lambda: env.step(self.ACTION), r"another node commands the base: /joystick on /cmd_vel")
            else:
                for _ in range(40):
                    env.step(self.ACTION)

    def test_while_a_person_records_the_base_is_theirs(self, fakes: Fakes, session_ros: Ros) -> None:
        fakes.stack.enter_context(FakeBase())
        env = fakes.env(LONG, self.RIG, leaders=True)
        with CompetingPublisher(session_ros, "joystick", "base", "/cmd_vel") as other:
            other.send()
            env.reset()
            for _ in range(30):
                env.step(self.ACTION)


def test_leaders_that_drive_the_followers_do_not_compete_but_a_second_sender_does(
    fakes: Fakes, session_ros: Ros
) -> None:
    with contextlib.ExitStack() as stack:
        for side in ("left", "right"):
            stack.enter_context(FakePiper(f"/puppet/joint_{side}", f"/master/joint_{side}"))
            stack.enter_context(FakePiper(f"/master/joint_{side}"))
        env = fakes.env(LONG, test_ros_env.TestHardwareTeleop.RIG, leaders=True)
        env.reset()
        for _ in range(30):
            env.step(START)
        other = stack.enter_context(CompetingPublisher(session_ros, "old_policy", "joints", "/master/joint_left"))
        other.send()
        until_refused(lambda: env.step(START), r"two nodes publish /master/joint_left: /aloha.* and /old_policy")


class TestPublisherMonitor:
    """Without ROS; time is the machine's."""

    def test_two_in_turn_are_found_and_forgotten_when_one_is_gone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = 0.0
        monkeypatch.setattr(competing_publishers.time, "monotonic", lambda: now)
        monitor = PublisherMonitor()
        for _ in range(3):
            monitor.note("/a")
            now += 0.01
        assert monitor.competing() == ""
        for name in ("/b", "/a"):
            monitor.note(name)
            now += 0.01
        assert monitor.competing() == "/a and /b"
        for _ in range(150):
            monitor.note("/a")
            now += 0.01
        assert monitor.competing() == ""

    def test_a_driver_that_is_restarted_under_another_name_is_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = 0.0
        monkeypatch.setattr(competing_publishers.time, "monotonic", lambda: now)
        monitor = PublisherMonitor()
        for name in ("/driver_1", "/driver_2", "/driver_3", "/driver_1"):
            for _ in range(100):
                monitor.note(name)
                now += 0.01
                assert monitor.competing() == ""

    def test_a_message_without_a_connection_is_nobodys(self, fakes: Fakes) -> None:
        env = fakes.env()
        env.streams._store(JointState(), "qpos_left")
        assert env.streams.published_twice() == {}
