"""Ways for a program to end while it drives a rig: arms at rest or where they were, under torque; the base stands."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import rospy
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from std_msgs.msg import Bool

from aloha_kit.core import VX300S
from tests.ros.master import Process, Ros
from tests.ros.restless import RAISED
from tests.ros.rig_client import Client, kill_node, Received
from tests.ros.small_rig import simulated, write_task
from tests.waiting import until

FOLLOWERS = ("puppet_left", "puppet_right")


class Scene:
    """A rig and who looks at it."""

    def __init__(self, ros: Ros, task: Path, arms: Process, restart: Callable[[], Process]) -> None:
        self.ros, self.task, self.arms, self.restart = ros, task, arms, restart
        self.client = Client(FOLLOWERS)
        self.odometry = Received("/odom", Odometry)

    def drive(self, *words: str) -> Process:
        """The restless program, once it moves arms and base."""
        program = self.ros.start("python", "-m", "tests.ros.restless", str(self.task), *words)
        program.wait_for("driving")
        return program

    def base_speed(self) -> float:
        twist = self.odometry.newest.twist.twist
        return max(abs(twist.linear.x), abs(twist.angular.z))

    def stands(self) -> None:
        """Until base and arms have stood still for half a second."""
        until(lambda: self.base_speed() == 0.0, "the base stands")

        def positions() -> np.ndarray:
            return np.array([self.client.position(arm)[:6] for arm in FOLLOWERS])

        def rest() -> bool:
            before = positions()
            time.sleep(0.5)
            return bool(np.abs(positions() - before).max() < 0.01)

        until(rest, "the arms come to rest")
        assert self.base_speed() == 0.0

    def under_torque(self) -> bool:
        values = [
            value
            for arm in FOLLOWERS
            for value in self.client.call(arm, "get_motor_registers", "group", "all", "Torque_Enable", 0).values
        ]
        assert len(values) == 14
        return all(values)

    def at(self, pose: tuple[float, ...], tolerance: float) -> bool:
        return all(np.abs(self.client.position(arm)[:6] - pose).max() < tolerance for arm in FOLLOWERS)


@pytest.fixture(scope="module")
def scene(session_ros: Ros, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    task = write_task(tmp_path_factory.mktemp("exits"), "mobile_aloha", cameras=(), episode_len=100_000)
    with simulated(session_ros, task, cameras=False, operator=False) as restart:
        scene = Scene(session_ros, task, session_ros.processes[-1], restart)
        yield scene
        scene.client.close()
        scene.odometry.subscriber.unregister()


def test_an_exception_parks_the_arms_and_stops_the_base(scene: Scene) -> None:
    program = scene.drive("60")
    assert program.wait() == 1
    assert "RuntimeError: the policy is broken" in program.text()
    assert "the arms are parked; their torque is on" in program.text()
    scene.stands()
    assert scene.at(VX300S.rest, 0.2)
    assert scene.under_torque()


def test_sigterm_parks_the_arms_and_stops_the_base(scene: Scene) -> None:
    program = scene.drive()
    assert scene.base_speed() > 0.1
    program.signal(signal.SIGTERM)
    assert program.wait() != 0
    assert "KeyboardInterrupt: SIGTERM" in program.text()
    assert "the arms are parked; their torque is on" in program.text()
    scene.stands()
    assert scene.at(VX300S.rest, 0.2)
    assert scene.under_torque()


def test_the_emergency_stop_leaves_the_arms_where_they_are(scene: Scene) -> None:
    program = scene.drive()
    button = rospy.Publisher("/aloha_kit/estop", Bool, latch=True, queue_size=1)
    button.publish(Bool(data=True))
    assert program.wait() == 1
    assert "SafetyError: the emergency stop was pressed (by /aloha_kit_tests" in program.text()
    assert "the arms were not parked: the emergency stop was pressed" in program.text()
    assert "their torque is on" in program.text()
    scene.stands()
    assert scene.at(RAISED, 0.1)
    assert scene.under_torque()

    # pressed from before, nothing moves either, and nothing is reported as parked
    program = scene.ros.start("python", "-m", "tests.ros.restless", str(scene.task))
    assert program.wait() == 1
    assert "the emergency stop was pressed" in program.text()
    assert "driving" not in program.text()
    assert scene.at(RAISED, 0.1)
    button.publish(Bool(data=False))
    button.unregister()


def test_a_press_while_the_program_stood_still_is_noticed_before_its_next_command(scene: Scene) -> None:
    """Its threads wake in any order: the one that moves the arms must not send before the other has received it."""
    program = scene.drive()
    with contextlib.ExitStack() as left:
        button = rospy.Publisher("/aloha_kit/estop", Bool, queue_size=10)
        left.callback(button.unregister)
        commands = [Received(f"/{arm}/commands/joint_group", rospy.AnyMsg) for arm in FOLLOWERS]
        for received in commands:
            left.callback(received.subscriber.unregister)  # or later tests of this process would hear AnyMsg there
        until(
            lambda: button.get_num_connections() > 0 and all(received.newest for received in commands),
            "all are connected",
        )
        left_arm, right_arm = commands
        right_arm.next()  # it has just sent to both, in this order
        program.signal(signal.SIGSTOP)
        until(lambda: time.monotonic() - max(each.came for each in commands) > 0.1, "what was on its way has arrived")
        begun = left_arm.came > right_arm.came  # stopped between the arms of a later command, which it may finish
        for received in commands:
            received.messages.clear()
        button.publish(Bool(data=True))
        button.publish(Bool(data=False))
        time.sleep(0.05)
        program.signal(signal.SIGCONT)
        assert program.wait() == 1
        assert "SafetyError: the emergency stop was pressed (by /aloha_kit_tests" in program.text()
        assert "the arms were not parked: the emergency stop was pressed" in program.text()
        assert not left_arm.messages
        assert len(right_arm.messages) <= begun


def test_a_network_that_is_lost_and_comes_back_finds_everything_held(scene: Scene) -> None:
    program = scene.drive()
    scene.arms.signal(signal.SIGSTOP)  # neither an answer nor a closed connection
    try:
        assert program.wait() == 1
    finally:
        scene.arms.signal(signal.SIGCONT)
    assert "StreamError: " in program.text()
    assert "the arms were not parked: puppet_left: " in program.text()
    assert "their torque is not known, the driver does not answer" in program.text()
    scene.odometry.next(5)
    scene.stands()
    assert scene.at(RAISED, 0.1)
    assert scene.under_torque()


def test_a_driver_that_dies_ends_the_program_and_nothing_is_dropped(scene: Scene) -> None:
    program = scene.drive()
    until(lambda: scene.at(RAISED, 0.1), "the arms are raised")
    time.sleep(1.5)  # a driver that returns finds the arms where they were at most so long before it died
    scene.arms.kill()
    assert program.wait() == 1
    assert "StreamError: " in program.text()
    assert "the arms were not parked: puppet_left: " in program.text()
    assert "their torque is not known, the driver does not answer" in program.text()
    scene.arms = scene.restart()
    for received in (*scene.client.states.values(), scene.odometry):
        received.next()
    scene.stands()
    assert scene.at(RAISED, 0.15)
    assert scene.under_torque()


WATCHDOG = "/base_watchdog_"  # each has a name of its own


@pytest.fixture(scope="module")
def watchdog(scene: Scene) -> Iterator[Process]:
    process = scene.ros.start("python", "deploy/base_watchdog_node", "--task", str(scene.task))
    process.wait_for("watching who drives the base on /cmd_vel")
    yield process
    process.stop()
    assert "Traceback" not in process.text()


@pytest.fixture
def commands() -> Iterator[Received]:
    """The base's commands at an independent subscriber."""
    received = Received("/cmd_vel", Twist)
    yield received
    received.subscriber.unregister()


def speed(message: Twist) -> tuple[float, float]:
    return message.linear.x, message.angular.z


def sender(message: Twist) -> str:
    return str(message._connection_header["callerid"])


def quiet(commands: Received) -> bool:
    """Whether half a second passes without a message."""
    commands.messages.clear()
    time.sleep(0.5)
    return not commands.messages


def zeros_from_the_watchdog(commands: Received) -> list[Twist]:
    return [m for m in commands.messages if sender(m).startswith(WATCHDOG) and speed(m) == (0.0, 0.0)]


def test_a_killed_program_leaves_a_base_that_the_watchdog_stops(
    scene: Scene, watchdog: Process, commands: Received
) -> None:
    program = scene.drive()
    until(lambda: commands.newest and speed(commands.newest) == pytest.approx((0.2, 0.3)), "it drives")
    program.kill()
    until(lambda: len(zeros_from_the_watchdog(commands)) > 3, "several zeros")
    assert speed(commands.newest) == (0.0, 0.0)
    watchdog.wait_for("drove the base and is silent for 0.25 s: zero velocity on /cmd_vel")
    until(lambda: quiet(commands), "the watchdog is silent again")
    scene.stands()
    assert scene.under_torque()


def test_a_stopped_program_does_not_go_on_driving_when_it_continues(
    scene: Scene, watchdog: Process, commands: Received
) -> None:
    program = scene.drive()
    until(lambda: commands.newest and speed(commands.newest) == pytest.approx((0.2, 0.3)), "it drives")
    program.signal(signal.SIGSTOP)
    try:
        until(lambda: zeros_from_the_watchdog(commands), "the watchdog's zero")
        until(lambda: scene.base_speed() == 0.0, "the base stands")
    finally:
        commands.messages.clear()
        program.signal(signal.SIGCONT)
    assert program.wait() == 1
    late = [speed(message) for message in commands.messages if speed(message) != (0.0, 0.0)]
    assert len(late) <= 1, "at most the command that was on its way"
    assert "the base was stopped" in program.text() or "StreamError" in program.text()
    assert speed(commands.newest) == (0.0, 0.0)
    scene.stands()


def test_the_watchdog_disturbs_nobody_else(scene: Scene, watchdog: Process, commands: Received) -> None:
    """Neither a program that ends in order, nor another driver of the base that sends once and is silent."""
    program = scene.drive("60")
    assert program.wait() == 1
    other = rospy.Publisher("/cmd_vel", Twist, queue_size=1)
    until(lambda: other.get_num_connections() > 1, "base and subscriber listen")
    joystick = Twist()
    joystick.linear.x = 0.1
    other.publish(joystick)
    until(lambda: speed(commands.newest) == (0.1, 0.0), "it arrives")
    time.sleep(1.0)
    assert not any(sender(message).startswith(WATCHDOG) for message in commands.messages)
    assert speed(commands.newest) == (0.1, 0.0)
    other.unregister()


def test_a_watchdog_that_is_ended_with_the_killed_program_stops_the_base_first(
    scene: Scene, commands: Received
) -> None:
    """As roslaunch does when a required node is killed: all others are interrupted at once."""
    node = scene.ros.start("python", "deploy/base_watchdog_node", "--task", str(scene.task))
    node.wait_for("watching who drives the base on /cmd_vel")
    program = scene.drive()
    until(lambda: commands.newest and speed(commands.newest) == pytest.approx((0.2, 0.3)), "it drives")
    program.kill()
    node.signal(signal.SIGINT)
    assert node.wait() == 130
    assert zeros_from_the_watchdog(commands)
    assert speed(commands.newest) == (0.0, 0.0)
    scene.stands()


def test_a_watchdog_of_its_own_launch_outlasts_one_that_is_killed_with_the_program(
    scene: Scene, commands: Received
) -> None:
    """kill -9 of all that deploy.launch started, its watchdog included."""
    own = scene.ros.launch("base_watchdog.launch", task=scene.task)
    own.wait_for("watching who drives the base on /cmd_vel")
    killed = scene.ros.launch("base_watchdog.launch", task=scene.task)  # as deploy.launch includes it
    killed.wait_for("watching who drives the base on /cmd_vel")
    program = scene.drive()
    until(lambda: commands.newest and speed(commands.newest) == pytest.approx((0.2, 0.3)), "it drives")
    killed.kill()
    program.kill()
    until(lambda: len(zeros_from_the_watchdog(commands)) > 3, "several zeros")
    own.wait_for("drove the base and is silent for 0.25 s: zero velocity on /cmd_vel")
    scene.stands()
    assert scene.under_torque()
    own.stop()


def test_a_rig_without_a_base_needs_no_watchdog(scene: Scene) -> None:
    node = scene.ros.start("python", "deploy/base_watchdog_node", "--task", "aloha_transfer_cube")
    assert node.wait() == 0
    assert "rig 'aloha' has no mobile base to watch" in node.text()


def test_a_node_that_ros_shuts_down_stops_the_base_and_reports_it(scene: Scene, commands: Received) -> None:
    """rosnode kill, or deploy.launch started twice."""
    program = scene.drive()
    until(lambda: commands.newest and speed(commands.newest) == pytest.approx((0.2, 0.3)), "it drives")
    who = sender(commands.newest)
    kill_node(who)
    assert program.wait() == 1
    assert speed(commands.newest) == (0.0, 0.0)
    assert f"RosError: the node {who} was shut down: by rosnode kill, or by another node" in program.text()
    assert "WARNING: the arms were not parked: the node" in program.text()
    scene.stands()
    assert scene.under_torque()


def test_a_roscore_that_hangs_keeps_no_program_from_parking_and_ending(own_ros: Ros, tmp_path: Path) -> None:
    task = write_task(tmp_path, "mobile_aloha", cameras=(), episode_len=100_000)
    with simulated(own_ros, task, cameras=False, operator=False):
        program = own_ros.start("python", "-m", "tests.ros.restless", str(task))
        program.wait_for("driving")
        (master,) = [
            p for p in psutil.Process(own_ros.core.popen.pid).children() if "rosmaster" in " ".join(p.cmdline())
        ]
        master.suspend()
        try:
            program.signal(signal.SIGTERM)
            assert program.wait(60) != 0
        finally:
            master.resume()
    assert "the arms are parked; " in program.text()
    assert "RosError" not in program.text()
