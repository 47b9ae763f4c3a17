"""Arms against fake drivers: what is read, what is sent, what is refused, and how motors are prepared."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import rosgraph
import rospy
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool

from aloha_kit.config.rig import ArmConfig
from aloha_kit.core import PIPER, ReadingError, SafetyError, START_ARM_POSE, StreamError, VX300S, WallClock, WX250S
from aloha_kit.loop import Latch
from aloha_kit.ros import arm as ros_arm
from aloha_kit.ros import joint_state_arm
from aloha_kit.ros.arm import ArmSetup, wait_for_subscribers
from aloha_kit.ros.command_publisher import CommandPublisher
from aloha_kit.ros.drivers import arm_driver
from aloha_kit.ros.interbotix import InterbotixArm
from aloha_kit.ros.joint_state_arm import JointStateArm
from aloha_kit.ros.node import RosError
from tests.ros.fake_drivers import FakeInterbotix, FakePiper, install_fake_package, xs_setup
from tests.ros.master import Ros
from tests.waiting import until

CLOCK = WallClock()
START = np.append(START_ARM_POSE, 0.5)


@pytest.fixture
def driver(session_ros: Ros) -> Iterator[FakeInterbotix]:
    with FakeInterbotix("puppet_left") as running:
        yield running


@pytest.fixture
def arm(driver: FakeInterbotix) -> Iterator[InterbotixArm]:
    arm = InterbotixArm(xs_setup())
    yield arm
    arm.close()


def joint_states(motors: list[float], velocity: list[float] | None = None, finger: float = 0.04) -> JointState:
    names = ["waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper"]
    return JointState(
        name=[*names, "left_finger", "right_finger"],
        position=[*motors, finger, -finger],
        velocity=[*(velocity or [0.0] * 7), 0.0, 0.0],
        effort=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 0.0, 0.0],
    )


class TestReading:
    """InterbotixArm.read needs no driver once it is built."""

    def test_gripper_of_the_state_is_the_fingers_travel_that_of_an_action_the_motors_angle(
        self, arm: InterbotixArm
    ) -> None:
        message = joint_states([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.435], finger=0.03822)
        state = arm.read(message)
        np.testing.assert_allclose(state.qpos, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.5], atol=1e-6)  # (38.22-18.44)/39.56
        np.testing.assert_allclose(state.effort, [1, 2, 3, 4, 5, 6, 7])
        np.testing.assert_allclose(arm.leader_action(message)[6], (0.435 + 0.6213) / 2.1123, rtol=1e-5)

    def test_gripper_speed_comes_from_the_motor_since_the_driver_gives_zero(self, arm: InterbotixArm) -> None:
        angle, rate = 0.3, 2.0
        travel = [0.022 * np.sin(q) + np.sqrt(0.036**2 - (0.022 * np.cos(q)) ** 2) for q in (angle, angle + 1e-6)]
        opening_rate = (travel[1] - travel[0]) / 1e-6 * rate / (0.05800 - 0.01844)
        qvel = arm.read(joint_states([0, 0, 0, 0, 0, 0, angle], [0.5, 0, 0, 0, 0, 0, rate])).qvel
        assert qvel[0] == pytest.approx(0.5)
        assert qvel[6] == pytest.approx(opening_rate, rel=1e-4)

    def test_joints_are_found_by_name_not_by_place(self, arm: InterbotixArm) -> None:
        message = joint_states([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.0])
        order = [8, 3, 1, 0, 2, 7, 6, 5, 4]
        for field in ("name", "position", "velocity", "effort"):
            setattr(message, field, [getattr(message, field)[i] for i in order])
        np.testing.assert_allclose(arm.read(message).qpos[:6], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], atol=1e-6)

    def test_a_reading_that_failed_is_distinguished_from_a_pose(self, arm: InterbotixArm) -> None:
        with pytest.raises(ReadingError, match="puppet_left: its driver could not read the motors"):
            arm.read(joint_states([-np.pi] * 7))
        assert arm.read(joint_states([-np.pi + 0.01, *[0.0] * 6])).qpos[0] == pytest.approx(-3.1316, abs=1e-4)

    def test_what_is_not_a_number_is_named(self, arm: InterbotixArm) -> None:
        with pytest.raises(ReadingError, match="puppet_left: the position of elbow is not a finite number"):
            arm.read(joint_states([0, 0, np.nan, 0, 0, 0, 0]))

    @pytest.mark.parametrize("numbers", [[], [0.0] * 6, [np.nan, *[0.0] * 8], [0.0] * 6 + [np.inf, 0.0, 0.0]])
    def test_velocity_and_effort_may_be_left_out(self, arm: InterbotixArm, numbers: list[float]) -> None:
        message = joint_states([0.1] * 7)
        message.effort = numbers
        state = arm.read(message)
        assert state.effort is None
        assert state.qvel is not None
        np.testing.assert_allclose(state.qpos[:6], 0.1, atol=1e-6)
        message.velocity = numbers
        assert arm.read(message).qvel is None

    def test_another_arms_joints_are_refused(self, arm: InterbotixArm) -> None:
        message = joint_states([0.0] * 7)
        message.name[3] = "forearm_rol"
        with pytest.raises(StreamError, match=r"no joint 'forearm_roll'.*Did you mean 'forearm_rol'\?"):
            arm.read(message)


class TestCommanding:
    def test_joints_go_as_a_group_and_the_gripper_as_its_motors_angle(
        self, arm: InterbotixArm, driver: FakeInterbotix
    ) -> None:
        arm.prepare_follower()
        arm.move([0.1, -0.9, 1.1, 0.2, -0.3, 0.4, 0.25], 0.1)
        expected = [0.1, -0.9, 1.1, 0.2, -0.3, 0.4, -0.6213 + 0.25 * 2.1123]
        until(lambda: bool(np.allclose(driver.motors, expected, atol=1e-5)), "the arm is where it was sent")

    @pytest.mark.parametrize(
        ("joint", "value", "words"),
        [
            (1, 1.3, r"puppet_left cannot go there: shoulder 1\.3000 is outside \[-1\.8500, 1\.2566\]"),
            (4, -1.9, r"wrist_angle -1\.9000 is outside \[-1\.8675, 2\.2340\]"),
            (6, 2.0, r"gripper 3\.6033 is outside \[-3\.1416, 3\.1416\]"),
            (2, np.nan, r"elbow nan is outside"),
        ],
    )
    def test_out_of_range_is_refused_and_nothing_sent(
        self, arm: InterbotixArm, driver: FakeInterbotix, joint: int, value: float, words: str
    ) -> None:
        target = START.copy()
        target[joint] = value
        driver.motors[:] = [*START_ARM_POSE, VX300S.gripper.unnormalise(0.5)]
        with pytest.raises(SafetyError, match=words):
            arm.command(target)
        arm.command(START)
        until(lambda: len(driver.groups) > 0, "the good command")
        assert len(driver.groups) == 1
        np.testing.assert_allclose(driver.groups[0], START_ARM_POSE, atol=1e-6)

    def test_a_command_goes_one_step_from_the_one_before_the_first_from_where_the_arm_is(
        self, driver: FakeInterbotix
    ) -> None:
        driver.motors[:] = [0.3, *START_ARM_POSE[1:], VX300S.gripper.unnormalise(1.0)]
        arm = InterbotixArm(xs_setup(rate_hz=25.0))
        arm.prepare_follower()
        for _ in range(3):
            arm.command([1.3, *START_ARM_POSE[1:], 0.0])
            time.sleep(0.05)
        until(lambda: len(driver.groups) == 3, "three commands")
        step = np.pi / 25
        np.testing.assert_allclose([g[0] for g in driver.groups], 0.3 + step * np.arange(1, 4), atol=1e-5)
        motor = VX300S.gripper.unnormalise(1.0 - 3 * 10 / 25)
        until(lambda: driver.motors[6] == pytest.approx(max(motor, VX300S.gripper.closed), abs=1e-5), "the gripper")
        arm.close()

    def test_commands_in_a_burst_move_two_steps_at_most(self, arm: InterbotixArm, driver: FakeInterbotix) -> None:
        driver.motors[:] = [*START_ARM_POSE, VX300S.gripper.unnormalise(0.5)]
        began = time.monotonic()
        for i in range(1, 41):
            arm.command([0.02 * i, *START_ARM_POSE[1:], 0.5])
        spent = time.monotonic() - began
        assert arm.last is not None
        assert 0 < arm.last[0] <= 2 * np.pi / 50 + np.pi * spent + 1e-6

    def test_what_takes_the_torque_away_starts_anew_from_where_the_arm_is(
        self, arm: InterbotixArm, driver: FakeInterbotix
    ) -> None:
        driver.motors[:6] = START_ARM_POSE
        arm.prepare_follower()
        arm.move(START, 0.1)
        np.testing.assert_allclose(arm.last, START, atol=1e-6)
        arm.set_torque(False)
        assert arm.last is None
        driver.motors[0] = 0.7  # it was moved by hand
        arm.prepare_follower()
        driver.groups.clear()
        arm.move(START, 0.1)
        until(lambda: len(driver.groups) > 10, "commands")
        assert driver.groups[0][0] == pytest.approx(0.7, abs=np.pi / 50)

    def test_a_limit_itself_is_within(self, arm: InterbotixArm) -> None:
        """Limits reach us through 32-bit floats."""
        arm.check(np.array([*np.array(VX300S.upper, np.float32), 1.0], np.float32))
        arm.check(np.array([*np.array(VX300S.lower, np.float32), 0.0], np.float32))

    def test_a_driver_that_died_is_noticed(self, arm: InterbotixArm, driver: FakeInterbotix) -> None:
        arm.command(START)
        driver.__exit__(None, None, None)
        with pytest.raises(StreamError, match="its driver no longer subscribes to /puppet_left/commands/joint_group"):
            until(lambda: arm.command(START) is not None, "refused")


class TestPreparing:
    def test_a_follower_gets_modes_torque_and_a_gripper_that_cannot_burn(
        self, arm: InterbotixArm, driver: FakeInterbotix
    ) -> None:
        arm.prepare_follower(300)
        assert driver.modes == {"arm": "position", "gripper": "current_based_position"}
        assert all(driver.torque.values())
        assert driver.registers["gripper"]["Current_Limit"] == 300
        assert driver.registers["waist"]["Current_Limit"] == 500
        assert {driver.registers[m]["Profile_Velocity"] for m in list(driver.registers)[:6]} == {0}

    def test_preparing_again_never_drops_the_arm(self, arm: InterbotixArm, driver: FakeInterbotix) -> None:
        """A change of mode takes the torque away for a moment: not for an arm that stands in the air."""
        arm.prepare_follower(300)
        driver.calls.clear()
        arm.prepare_follower(300)
        assert [call for call in driver.calls if call[0] in ("mode", "reboot") or call[-1] == "off"] == []

    def test_an_overloaded_gripper_is_rebooted(self, arm: InterbotixArm, driver: FakeInterbotix) -> None:
        driver.registers["gripper"]["Hardware_Error_Status"] = 0b100000
        assert arm.errors() == {"gripper": "overload"}
        arm.prepare_follower()
        assert ("reboot", "gripper") in driver.calls
        assert arm.errors() == {}

    def test_a_motor_of_the_arm_in_error_is_a_persons_to_deal_with(
        self, arm: InterbotixArm, driver: FakeInterbotix
    ) -> None:
        driver.registers["elbow"]["Hardware_Error_Status"] = 0b000101
        with pytest.raises(
            RosError, match=r"elbow: input voltage and overheating\)\. See why, then reboot these: rosservice"
        ):
            arm.prepare_follower()
        assert driver.calls == []

    def test_an_emergency_stop_while_preparing_leaves_no_motor_without_torque(
        self, session_ros: Ros, driver: FakeInterbotix, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        estop = Latch()
        arm = InterbotixArm(xs_setup(estop=estop))
        arm.set_torque(True)
        write = arm.set_register

        def pressed(*values: Any) -> None:
            assert not driver.torque["gripper"], "the motor's memory takes no value under torque"
            estop.press("the emergency stop was pressed")
            write(*values)

        monkeypatch.setattr(arm, "set_register", pressed)
        with pytest.raises(SafetyError, match="the emergency stop was pressed: no further motion was commanded"):
            arm.prepare_follower(300)
        assert all(driver.torque.values())
        driver.calls.clear()
        for what in (arm.prepare_follower, arm.prepare_leader, arm.reboot_gripper, lambda: arm.set_torque(False)):
            with pytest.raises(SafetyError, match="the emergency stop was pressed"):
                what()
        with pytest.raises(SafetyError, match="the emergency stop was pressed"):
            arm.command(START)
        assert [call for call in driver.calls if call[-1] != "on"] == []
        assert driver.groups == []
        arm.close()

    def test_torque_is_what_the_motors_answer(
        self, arm: InterbotixArm, driver: FakeInterbotix, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        arm.set_torque(True)
        driver.torque["gripper"] = False
        assert arm.torque_state() == {**dict.fromkeys(VX300S.joints, True), "gripper": False}
        monkeypatch.setattr(driver, "torque", None)  # the driver's handler dies: no answer
        with pytest.raises(RosError, match="puppet_left: the service /puppet_left/get_motor_registers failed"):
            arm.torque_state()
        hung = threading.Event()
        with pytest.raises(RosError, match=r"puppet_left: its driver does not answer within 0\.2 s"):
            ros_arm.answered(hung.wait, "puppet_left", 0.2)
        hung.set()

    def test_a_register_that_does_not_take_its_value_is_reported(self, arm: InterbotixArm) -> None:
        """Interbotix's own script writes `current_limit`, which is no register, and gets no error."""
        with pytest.raises(RosError, match=r"register current_limit did not take 200, it holds \[\]"):
            arm.set_register("gripper", "current_limit", 200)

    def test_a_leader_is_held_and_its_gripper_let_go(self, session_ros: Ros) -> None:
        with FakeInterbotix("master_left", WX250S) as driver:
            arm = InterbotixArm(xs_setup("master_left", WX250S))
            arm.prepare_leader()
            assert driver.modes == {"arm": "position", "gripper": "position"}
            arm.set_torque(False, "gripper")
            assert (driver.torque["gripper"], driver.torque["elbow"]) == (False, True)
            arm.set_torque(False)
            assert not any(driver.torque.values())
            arm.close()

    def test_gains_are_passed_on(self, arm: InterbotixArm, driver: FakeInterbotix) -> None:
        arm.set_pid_gains(100, 1, 2)
        assert driver.calls == [("gains", "arm", "100 1 2")]

    def test_no_driver_is_reported_with_what_to_start(self, session_ros: Ros) -> None:
        with pytest.raises(
            RosError, match=r"no service /nobody/set_operating_modes after .* s\. Start the arm's driver"
        ):
            InterbotixArm(xs_setup("nobody", timeout_s=0.2))


class TestConnecting:
    """A driver that runs and connects to a command topic late, as after a failed attempt, or never."""

    @pytest.fixture
    def publisher(self, session_ros: Ros) -> Iterator[CommandPublisher]:
        publisher = CommandPublisher("/puppet_late/commands/joint_group", Bool)
        yield publisher
        publisher.unregister()

    def test_it_is_waited_for_longer_than_for_an_answer(self, publisher: CommandPublisher) -> None:
        subscribers: list[rospy.Subscriber] = []
        late = threading.Timer(
            1.0, lambda: subscribers.append(rospy.Subscriber(publisher.resolved_name, Bool, lambda message: None))
        )
        late.start()
        wait_for_subscribers([publisher], xs_setup("puppet_late", timeout_s=0.2))
        late.join()
        assert publisher.get_num_connections() == 1
        subscribers[0].unregister()

    def test_one_that_never_does_is_named(self, publisher: CommandPublisher) -> None:
        with pytest.raises(
            RosError,
            match=r"^puppet_late: no subscriber of /puppet_late/commands/joint_group after 0\.3 s; is its driver",
        ):
            wait_for_subscribers([publisher], xs_setup("puppet_late"), 0.3)


class TestMoving:
    def test_moves_start_and_end_slowly_and_arrive(
        self, arm: InterbotixArm, driver: FakeInterbotix, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.undo()  # at a robot's speed
        driver.motors[:6] = [0.3, -0.5, 0.5, 0, 0, 0]
        arm.prepare_follower()
        arm.move(START, 0.5)
        until(lambda: bool(np.allclose(driver.motors[:6], START_ARM_POSE, atol=1e-5)), "at the start pose")
        way = np.array([[0.3, -0.5, 0.5, 0, 0, 0], *driver.groups])
        speeds = np.abs(np.diff(way, axis=0)).max(axis=1) * 50
        # 0.66 rad: the peak of half a cosine in 0.99 s is a third of π rad/s, the most that is allowed
        assert speeds.max() == pytest.approx(np.pi / 3, rel=0.05)
        assert speeds[0] < 0.1
        assert speeds[-1] < 0.1

    def test_an_arm_that_rests_past_its_limits_can_be_picked_up(
        self, arm: InterbotixArm, driver: FakeInterbotix
    ) -> None:
        driver.motors[:6] = [0, -1.87, 1.63, 0, 0, 0]
        arm.prepare_follower()
        arm.move(START, 0.1)
        until(lambda: bool(np.allclose(driver.motors[:6], START_ARM_POSE, atol=1e-5)), "at the start pose")
        assert driver.groups[0][1] >= -1.85

    def test_lost_readings_are_waited_out(self, arm: InterbotixArm, driver: FakeInterbotix) -> None:
        left = iter([True] * 5)

        def lose(message: JointState) -> None:
            if next(left, False):
                message.position = [-np.pi] * 9

        driver.motors[0] = 0.25
        driver.broken = lose
        assert arm.hold_target()[0] == pytest.approx(0.25)


class TestManufacturersPackage:
    def test_it_is_used_where_it_is_installed_without_its_node_or_its_kinematics(
        self, driver: FakeInterbotix, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        built = install_fake_package(monkeypatch)
        arm = arm_driver(ArmConfig(name="puppet_left")).connect(xs_setup())
        assert built == [{"robot_model": "vx300s", "robot_name": "puppet_left", "init_node": False}]
        arm.prepare_follower(300)
        assert driver.registers["gripper"]["Current_Limit"] == 300
        arm.move(START, 0.1)
        until(lambda: bool(np.allclose(driver.motors[:6], START_ARM_POSE, atol=1e-5)), "at the start pose")
        arm.close()


class TestPiper:
    SETUP = ArmSetup("/puppet/joint_left", PIPER, CLOCK, "/puppet/joint_left", ("/master/joint_left",))

    @pytest.fixture
    def piper(self, session_ros: Ros) -> Iterator[tuple[JointStateArm, FakePiper]]:
        with FakePiper("/puppet/joint_left", "/master/joint_left") as driver:
            arm = JointStateArm(self.SETUP)
            yield arm, driver
            arm.close()

    def test_the_gripper_is_metres_both_ways(self, piper: tuple[JointStateArm, FakePiper]) -> None:
        arm, driver = piper
        arm.prepare_follower()
        arm.move([0.1, 0.2, -0.3, 0.4, 0.5, 0.6, 0.25], 0.1)
        until(lambda: bool(np.allclose(driver.joints, [0.1, 0.2, -0.3, 0.4, 0.5, 0.6, 0.02])), "at its target")
        np.testing.assert_allclose(arm.reading(), [0.1, 0.2, -0.3, 0.4, 0.5, 0.6, 0.25], atol=1e-6)
        state = arm.read(driver.state())
        np.testing.assert_allclose(state.qpos[6], 0.25, atol=1e-6)
        np.testing.assert_allclose(state.effort, [0, 0, 0, 0, 0, 0, 0.3], atol=1e-6)

    def test_an_emergency_stop_while_its_driver_is_waited_for_leaves_the_torque(
        self, piper: tuple[JointStateArm, FakePiper], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        estop, collected = Latch(), list[bool]()
        switch = rospy.Subscriber(joint_state_arm.ENABLE_TOPIC, Bool, lambda message: collected.append(message.data))
        arm = JointStateArm(replace(self.SETUP, estop=estop))

        def pressed(*waited: Any) -> None:
            wait_for_subscribers(*waited)
            estop.press("the emergency stop was pressed")

        monkeypatch.setattr(joint_state_arm, "wait_for_subscribers", pressed)
        until(lambda: joint_state_arm._has_subscriber(joint_state_arm.ENABLE_TOPIC), "a driver with a switch")
        with pytest.raises(SafetyError, match="the emergency stop was pressed"):
            arm.set_torque(False)
        arm.set_torque(True)  # holds
        until(lambda: collected, "it arrives")
        switch.unregister()
        assert collected == [True]

    def test_a_dead_driver_does_not_hold_up_the_way_out(self, piper: tuple[JointStateArm, FakePiper]) -> None:
        arm = JointStateArm(replace(self.SETUP, timeout_s=0.2))
        master, dead = rosgraph.Master("/killed_driver"), "http://127.0.0.1:1/"  # it did not unregister
        master.registerSubscriber(joint_state_arm.ENABLE_TOPIC, "std_msgs/Bool", dead)
        try:
            with pytest.raises(RosError, match=rf"no subscriber of {joint_state_arm.ENABLE_TOPIC} after 0\.2 s"):
                arm.set_torque(False)
        finally:
            master.unregisterSubscriber(joint_state_arm.ENABLE_TOPIC, dead)

    def test_pressing_past_the_stop_stays_at_it(self, piper: tuple[JointStateArm, FakePiper]) -> None:
        arm, driver = piper
        arm.move([0, 0, 0, 0, 0, 0, 1.1], 0.1)
        until(lambda: driver.joints[6] == pytest.approx(0.08), "wide open")

    def test_its_own_limits_hold(self, piper: tuple[JointStateArm, FakePiper]) -> None:
        with pytest.raises(
            SafetyError, match=r"/puppet/joint_left cannot go there: shoulder -0\.9600 is outside \[0\.0000, 3"
        ):
            piper[0].command(START)

    def test_positions_are_all_that_is_required(self, piper: tuple[JointStateArm, FakePiper]) -> None:
        message = piper[1].state()
        message.velocity, message.effort = [0.0] * 6, [np.nan] * 7
        state = piper[0].read(message)
        assert (state.qvel, state.effort) == (None, None)
        np.testing.assert_array_equal(state.qpos, piper[0].leader_action(message))
        message.position = message.position[:6]
        with pytest.raises(StreamError, match="need 7 values of position, they hold 6"):
            piper[0].read(message)

    def test_a_leader_has_nothing_to_be_moved_by(self, piper: tuple[JointStateArm, FakePiper]) -> None:
        leader = JointStateArm(replace(self.SETUP, role="leader", command_topics=()))
        leader.prepare_leader()
        leader.set_torque(False)
        with pytest.raises(SafetyError, match="cannot be moved: its configuration has no command_topic"):
            leader.command(np.zeros(7))
