"""The simulated rig over a real roscore: what real drivers do, it does; and faults, resets, restarts."""

from __future__ import annotations

import math
import threading
import time
import xml.etree.ElementTree
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rospy
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from aloha_kit.core import START_ARM_POSE, VX300S, WX250S
from aloha_kit.ros import interbotix_messages
from aloha_kit.sim import SimEnv
from tests.ros.master import Process, Ros
from tests.ros.rig_client import ARMS, Client, Received
from tests.waiting import until

LENGTHS = {"puppet": (0.022, 0.036), "master": (0.014, 0.024)}  # m: horn and arm of the gripper's crank
SLEEP = (0, -1.85, 1.55, 0, 0.8, 0)
NODE = ("python", "record/sim_arms_node")
REBOOT_S = 0.25  # in place of a second for each motor


@pytest.fixture(scope="module")
def node(session_ros: Ros) -> Iterator[Process]:
    """Mobile ALOHA: four Interbotix arms and a base, a person at the leaders."""
    words = ("--task", "mobile_aloha_transfer_cube", "--seed", "7", "--reboot_s", str(REBOOT_S))
    process = session_ros.start(*NODE, *words, log="sim_arms")
    process.wait_for("is up")
    yield process
    process.stop()


@pytest.fixture(scope="module")
def rig(node: Process) -> Iterator[Client]:
    client = Client()
    yield client
    client.close()


@pytest.fixture(autouse=True)
def healed(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "rig" in request.fixturenames and rospy.has_param("/sim_rig_faults"):
        request.getfixturevalue("rig").faults({})
        rospy.delete_param("/sim_rig_faults")


def ready(rig: Client, arm: str) -> None:
    """Torque on, at rest at the start pose, no profiles, nothing broken."""
    rig.call(arm, "reboot_motors", "group", "all", True, True)
    rig.mode(arm)
    rig.torque(arm, True)
    rig.move(arm, START_ARM_POSE, 0.5, 0.5)
    until(lambda: np.abs(rig.states[arm].newest.velocity[:6]).max() < 1e-3, f"{arm} at rest")


# --- what is published ---


def test_it_states_that_and_what_it_simulates(rig: Client) -> None:
    described = rospy.get_param("/sim_rig")
    assert Path(described.pop("task_config")).stem == "mobile_aloha_transfer_cube"
    assert described == {
        "rig": "mobile_aloha", "task": "mobile_aloha_transfer_cube", "scene": "transfer_cube",
        "arm_model": "vx300s", "max_reward": 4.0, "operator": True,
    }  # fmt: skip
    assert rospy.get_param("/use_sim_time") is False


def test_joint_states_are_the_drivers(rig: Client, node: Process) -> None:
    names = ["waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper"]
    for arm in ARMS:
        states = rig.states[arm].next(60)
        assert states[0].name == [*names, "left_finger", "right_finger"]
        assert {(len(s.position), len(s.velocity), len(s.effort)) for s in states} == {(9, 9, 9)}
        assert list(states[0].velocity[7:]) == [0, 0]
        assert list(states[0].effort[7:]) == [0, 0]
        stamps = np.array([s.header.stamp.to_sec() for s in states])
        assert np.all(np.diff(stamps) > 0)
        assert 0.009 < np.diff(stamps).mean() < 0.1, "100 Hz, or what a busy machine leaves of it"
        assert abs(stamps[0] - node.log.stat().st_mtime) < 86400, "Unix time, as its log has it, to the day"


@pytest.mark.parametrize("arm", ARMS)
def test_fingers_close_the_triangle_of_horn_and_arm(rig: Client, arm: str) -> None:
    """The horn's end is the arm's length away from the finger: a triangle, whatever the formula."""
    horn, length = LENGTHS[arm.split("_")[0]]
    ready(rig, arm)
    for angle in (0.3, -0.3):
        rig.send(arm, START_ARM_POSE, angle)
        until(lambda angle=angle: abs(rig.position(arm)[6] - angle) < 0.02, f"{arm}'s gripper at {angle}")
        motor, left, right = rig.position(arm)[6:]
        assert math.hypot(left - horn * math.sin(motor), horn * math.cos(motor)) == pytest.approx(length, abs=1e-9)
        assert left > 0
        assert right == -left


def test_the_scenes_state_is_what_the_drivers_say(rig: Client) -> None:
    ready(rig, "puppet_left")
    state = rig.scene.next()[0]
    assert len(state.position) == 23
    np.testing.assert_allclose(state.position[:6], START_ARM_POSE, atol=0.02)
    until(
        lambda: abs(rig.scene.newest.position[6] - rig.position("puppet_left")[7]) < 1e-5, "the finger at its command"
    )
    assert int(state.header.frame_id) >= 7


# --- commands ---


@pytest.mark.parametrize("arm", ["puppet_right", "master_right"])
def test_group_and_single_commands_move_joints(rig: Client, arm: str) -> None:
    ready(rig, arm)
    rig.move(arm, START_ARM_POSE + np.float32([0.2, 0, 0, 0.3, 0, 0]), -0.4, 0.5)
    until(lambda: abs(rig.position(arm)[6] + 0.4) < 0.02, "the gripper's angle")
    rig.single[arm].publish(interbotix_messages.JointSingleCommand("waist", -0.1))
    rig.arrives(arm, [-0.1])
    rig.arrives(arm, [-0.1, *START_ARM_POSE[1:3], 0.3])


def test_what_motors_cannot_reach_is_ignored(rig: Client, node: Process) -> None:
    ready(rig, "puppet_left")
    rig.send("puppet_left", [0.1, 1.5, *START_ARM_POSE[2:]])  # the shoulder ends at 1.26
    rig.arrives("puppet_left", [0.1])
    rig.arrives("puppet_left", [0.1, START_ARM_POSE[1]])
    node.wait_for("puppet_left: shoulder does not go to 1.500 rad")
    rig.group["puppet_left"].publish(interbotix_messages.JointGroupCommand("arm", [0.0] * 5))
    node.wait_for("group 'arm' has 6 joints, 5 commands are not executed")
    rig.arrives("puppet_left", [0.1])


def test_trajectories_are_executed_one_at_a_time(rig: Client, node: Process) -> None:
    arm = "puppet_right"
    ready(rig, arm)
    waists = [0.0, 0.1, 0.2, 0.3]
    points = [
        JointTrajectoryPoint(positions=[waist, *START_ARM_POSE[1:]], time_from_start=rospy.Duration(0.2 * k))
        for k, waist in enumerate(waists)
    ]
    command = interbotix_messages.JointTrajectoryCommand("group", "arm", JointTrajectory(points=points))
    rig.states[arm].messages.clear()
    rig.path[arm].publish(command)
    rig.path[arm].publish(command)
    node.wait_for(f"{arm}: a trajectory is being executed, the new one is refused")
    rig.arrives(arm, [0.3])
    seen = [state.position[0] for state in rig.states[arm].messages]
    assert any(0.08 < waist < 0.12 for waist in seen), "it passes by the points between"
    short = interbotix_messages.JointTrajectoryCommand("group", "arm", JointTrajectory(points=points[:1]))
    rig.path["puppet_left"].publish(short)
    node.wait_for("a trajectory needs 2 points, 1 is too few")


def test_a_gripper_takes_distances_in_linear_position_mode_and_pwm(rig: Client) -> None:
    arm = "puppet_left"
    ready(rig, arm)
    rig.mode(arm, gripper="linear_position")
    rig.send(arm, START_ARM_POSE, 0.09)
    until(lambda: abs(rig.position(arm)[7] - 0.045) < 1e-3, "fingers 9 cm apart")
    rig.mode(arm, gripper="pwm")
    rig.send(arm, START_ARM_POSE, -250)
    until(lambda: rig.position(arm)[7] < 0.0225, "closed by PWM")
    rig.send(arm, START_ARM_POSE, 250)
    until(lambda: rig.position(arm)[7] > 0.055, "opened by PWM")
    rig.send(arm, START_ARM_POSE, 0)
    assert all(state.position[7] > 0.055 for state in rig.states[arm].next(30)), "and it stays where it got to"


# --- services ---


def test_an_unsupported_arm_sinks_and_follows_nothing(rig: Client) -> None:
    arm = "puppet_left"
    ready(rig, arm)
    rig.torque(arm, False)
    rig.send(arm, [0.5, *START_ARM_POSE[1:]])
    until(lambda: rig.position(arm)[2] > START_ARM_POSE[2] + 0.05, "gravity takes the elbow")
    assert abs(rig.position(arm)[0]) < 0.05
    rig.torque(arm, True)
    sunk = rig.position(arm)[2]
    time.sleep(0.3)
    assert abs(rig.position(arm)[2] - sunk) < 0.05, "torque holds it where it is"


def test_a_mode_change_comes_with_torque(rig: Client, node: Process) -> None:
    arm = "master_left"
    rig.torque(arm, False)
    assert list(rig.call(arm, "get_motor_registers", "group", "arm", "Torque_Enable", 0).values) == [0] * 6
    rig.call(arm, "set_operating_modes", "group", "arm", "position", "time", 800, 100)
    assert list(rig.call(arm, "get_motor_registers", "group", "arm", "Torque_Enable", 0).values) == [1] * 6
    info = rig.call(arm, "get_robot_info", "group", "arm")
    assert (info.mode, info.profile_type) == ("position", "time")
    rig.call(arm, "set_operating_modes", "single", "gripper", "positon", "velocity", 0, 0)
    node.wait_for("no operating mode 'positon'. Did you mean 'position'?")


def test_a_time_profile_takes_its_time(rig: Client) -> None:
    arm = "master_left"
    ready(rig, arm)
    rig.call(arm, "set_operating_modes", "group", "arm", "position", "time", 800, 200)
    rig.states[arm].messages.clear()
    rig.send(arm, [0.4, *START_ARM_POSE[1:]])
    rig.arrives(arm, [0.4], 0.002)
    moving = [s.header.stamp.to_sec() for s in rig.states[arm].messages if 0.004 < s.position[0] < 0.396]
    assert 0.6 < moving[-1] - moving[0] < 3.0, "0.8 s with soft ends, more on a busy machine"


def test_registers_are_spelled_exactly_and_permanent_ones_want_torque_off(rig: Client) -> None:
    arm, single = "puppet_right", ("single", "gripper")
    ready(rig, arm)

    def limit() -> list[int]:
        return list(rig.call(arm, "get_motor_registers", *single, "Current_Limit", 0).values)

    rig.call(arm, "set_motor_registers", *single, "current_limit", 300)
    rig.call(arm, "set_motor_registers", *single, "Current_Limit", 300)
    assert limit() == [1193], "neither the wrong name nor the write under torque took effect"
    rig.torque(arm, False, joints="gripper")
    rig.call(arm, "set_motor_registers", *single, "Current_Limit", 300)
    assert limit() == [300]
    assert list(rig.call(arm, "get_motor_registers", *single, "current_limit", 0).values) == []
    rig.call(arm, "set_motor_registers", "group", "arm", "Profile_Velocity", 131)
    assert list(rig.call(arm, "get_motor_registers", "group", "arm", "Profile_Velocity", 0).values) == [131] * 6


def test_low_gains_let_the_arm_sag(rig: Client) -> None:
    arm = "puppet_left"
    ready(rig, arm)
    rig.call(arm, "set_motor_pid_gains", "group", "arm", 100, 0, 0, 0, 0, 100, 1920)
    until(lambda: rig.position(arm)[2] > START_ARM_POSE[2] + 0.02, "the elbow gives way")
    rig.call(arm, "set_motor_pid_gains", "group", "arm", 800, 0, 0, 0, 0, 100, 1920)
    rig.arrives(arm, START_ARM_POSE[:3], 0.01)


def test_robot_info_is_the_descriptions(rig: Client) -> None:
    arm = rig.call("puppet_left", "get_robot_info", "group", "arm")
    assert arm.joint_names == ["waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate"]
    assert list(arm.joint_ids) == [1, 2, 4, 6, 7, 8]
    np.testing.assert_allclose(arm.joint_lower_limits[1:3], [-1.85, -1.7628], atol=1e-4)
    np.testing.assert_allclose(arm.joint_upper_limits[1:3], [1.2566, 1.6057], atol=1e-4)
    np.testing.assert_allclose(arm.joint_velocity_limits, [math.pi] * 6, atol=1e-6)
    np.testing.assert_allclose(arm.joint_sleep_positions, SLEEP, atol=1e-6)
    assert (arm.num_joints, list(arm.joint_state_indices), arm.name) == (6, [0, 1, 2, 3, 4, 5], ["arm"])
    gripper = rig.call("master_right", "get_robot_info", "single", "gripper")
    assert gripper.joint_names == ["left_finger"]
    assert (list(gripper.joint_ids), list(gripper.joint_state_indices)) == ([9], [7])
    np.testing.assert_allclose([*gripper.joint_lower_limits, *gripper.joint_upper_limits], [0.015, 0.037], atol=1e-6)
    assert gripper.joint_sleep_positions[0] == pytest.approx(math.sqrt(0.024**2 - 0.014**2), abs=1e-6)
    assert rig.call("puppet_left", "get_robot_info", "group", "all").name == ["all", "arm"]


def test_a_description_of_each_arm_has_its_joints_and_limits(rig: Client) -> None:
    for arm, model in (("puppet_left", VX300S), ("master_right", WX250S)):
        robot = xml.etree.ElementTree.fromstring(rospy.get_param(f"/{arm}/robot_description"))
        joints = {joint.get("name"): joint for joint in robot.findall("joint")}
        assert list(joints) == rig.states[arm].next()[0].name
        limit = joints["elbow"].find("limit")
        assert (float(limit.get("lower")), float(limit.get("upper"))) == (model.lower[2], model.upper[2])
        links = {link.get("name") for link in robot.findall("link")}
        assert {j.find(end).get("link") for j in joints.values() for end in ("parent", "child")} <= links


@pytest.mark.parametrize(
    ("service", "request_", "words"),
    [
        ("torque_enable", ("group", "arms", True), "no group 'arms'. Did you mean 'arm'?"),
        ("torque_enable", ("grup", "arm", True), "cmd_type must be 'group' or 'single', given 'grup'"),
        ("get_robot_info", ("single", "ellbow"), "no single 'ellbow'. Did you mean 'elbow'?"),
        ("set_motor_registers", ("single", "hip", "LED", 1), "no single 'hip'"),
    ],
)
def test_services_refuse_what_is_not_there(rig: Client, service: str, request_: tuple, words: str) -> None:
    with pytest.raises(rospy.ServiceException) as error:
        rig.call("puppet_left", service, *request_)
    assert words in str(error.value)


def test_a_reboot_forgets_what_motors_do_not_keep_and_what_the_driver_reports_is_true(rig: Client) -> None:
    arm = "puppet_right"
    ready(rig, arm)
    rig.call(arm, "set_motor_registers", "group", "arm", "Profile_Velocity", 50)
    rig.states[arm].messages.clear()
    rig.call(arm, "reboot_motors", "single", "wrist_rotate", True, False)
    rig.arrives(arm, START_ARM_POSE)
    profile = rig.call(arm, "get_motor_registers", "group", "arm", "Profile_Velocity", 0).values
    assert list(profile) == [50, 50, 50, 50, 50, 0]
    assert min(np.min(state.position) for state in rig.states[arm].messages) > -3.0, "no reading is made up"


def test_nothing_is_published_executed_or_answered_during_a_reboot(rig: Client) -> None:
    arm, other = "puppet_right", "puppet_left"
    ready(rig, arm)
    rig.call(arm, "set_motor_registers", "group", "arm", "Profile_Velocity", 50)
    rig.states[arm].messages.clear()
    rebooting = threading.Thread(target=rig.call, args=(arm, "reboot_motors", "group", "arm", True, False))
    rebooting.start()
    until(lambda: quiet_for(rig, arm, 0.3), "the driver is silent")
    rig.send(arm, [0.2, *START_ARM_POSE[1:]])
    profiles = rig.call(arm, "get_motor_registers", "group", "arm", "Profile_Velocity", 0).values
    assert list(profiles) == [0] * 6, "this call, too, was answered only after all motors had rebooted"
    assert list(rig.call(arm, "get_motor_registers", "group", "arm", "Torque_Enable", 0).values) == [1] * 6
    assert rig.states[other].next(3), "the other arms have drivers of their own"
    rebooting.join()
    stamps = [state.header.stamp.to_sec() for state in rig.states[arm].next(5)]
    assert stamps == sorted(stamps)
    rig.arrives(arm, [0.2])  # the command that waited


def quiet_for(rig: Client, arm: str, seconds: float) -> bool:
    rig.states[arm].messages.clear()
    time.sleep(seconds)
    return not rig.states[arm].messages


def test_registers_are_those_of_the_simulated_motors(rig: Client) -> None:
    arm = "puppet_left"
    ready(rig, arm)

    def read(register: str, joint: str = "elbow") -> int:
        (value,) = rig.call(arm, "get_motor_registers", "single", joint, register, 0).values
        return int(value)

    assert read("Present_Position") == pytest.approx(2048 + rig.position(arm)[2] * 2048 / np.pi, abs=3)
    assert read("Present_Current") * 2.69 == pytest.approx(rig.states[arm].newest.effort[2], abs=60)
    assert abs(read("Present_Current")) > 20, "it carries the forearm"
    assert (read("Present_Velocity"), read("Moving")) == (0, 0)
    rig.call(arm, "set_motor_registers", "group", "arm", "Profile_Velocity", 20)
    rig.send(arm, [1.0, *START_ARM_POSE[1:]])
    until(lambda: read("Moving", "waist"), "the waist moves")
    until(lambda: abs(read("Present_Velocity", "waist") - 20) <= 3, "its speed in units of 0.229 turns a minute")
    rig.arrives(arm, [1.0])


def test_a_gripper_closes_by_current_until_it_is_stopped(rig: Client) -> None:
    arm = "puppet_left"
    ready(rig, arm)
    rig.mode(arm, gripper="current")
    rig.single[arm].publish(interbotix_messages.JointSingleCommand("gripper", 200.0))
    until(lambda: rig.position(arm)[7] > 0.055, "open")
    rig.single[arm].publish(interbotix_messages.JointSingleCommand("gripper", -200.0))
    until(lambda: rig.position(arm)[7] < 0.0225, "closed")
    rig.states[arm].next(30)
    assert rig.states[arm].newest.velocity[6] == pytest.approx(0, abs=0.05)
    rig.mode(arm)


# --- faults ---


def test_a_lost_torque_comes_back_by_reboot_only(rig: Client) -> None:
    arm = "puppet_left"
    ready(rig, arm)
    rig.faults({arm: {"torque_loss": "gripper"}})
    status = rig.call(arm, "get_motor_registers", "group", "all", "Hardware_Error_Status", 0).values
    assert list(status) == [0, 0, 0, 0, 0, 0, 32]
    rig.faults({})
    rig.mode(arm)
    rig.torque(arm, True)
    assert list(rig.call(arm, "get_motor_registers", "single", "gripper", "Torque_Enable", 0).values) == [0]
    rig.call(arm, "reboot_motors", "single", "gripper", True, False)
    assert list(rig.call(arm, "get_motor_registers", "single", "gripper", "Torque_Enable", 0).values) == [1]
    rig.faults({arm: {"torque_loss": True}})
    assert list(rig.call(arm, "get_motor_registers", "group", "all", "Torque_Enable", 0).values) == [0] * 7


def test_positions_can_be_nan_or_unread(rig: Client) -> None:
    rig.faults({"puppet_left": {"nan": True}, "puppet_right": {"read_failure": True}})
    assert np.isnan(rig.states["puppet_left"].next()[0].position).all()
    np.testing.assert_allclose(rig.states["puppet_right"].next()[0].position[:7], [-np.pi] * 7)
    assert np.isfinite(rig.states["master_left"].next()[0].position).all(), "the others are well"


def test_stamps_can_be_off_jittery_or_missing(rig: Client) -> None:
    rig.faults(
        {"puppet_left": {"offset_s": -3.0}, "puppet_right": {"zero_stamp": True}, "master_left": {"jitter_s": 0.05}}
    )
    right_ones = {s.header.stamp.to_nsec() + 3_000_000_000 for s in rig.states["puppet_left"].next(20)}
    others = rig.states["master_right"].messages  # of the same instants, without a fault
    until(lambda: right_ones & {s.header.stamp.to_nsec() for s in list(others)}, "stamps 3 s before the others'")
    assert rig.states["puppet_right"].next()[0].header.stamp.to_nsec() == 0
    steps = np.diff([s.header.stamp.to_sec() for s in rig.states["master_left"].next(50)])
    assert steps.min() < 0, "later messages with earlier stamps"
    assert np.abs(steps).max() > 0.03


def test_messages_can_stop_or_get_lost(rig: Client) -> None:
    rig.faults({"puppet_left": {"stop": True}, "puppet_right": {"drop": 0.8}})
    rig.states["puppet_left"].messages.clear()
    kept = rig.states["puppet_right"].next(10)
    steps = np.diff([s.header.stamp.to_sec() for s in kept])
    assert steps.mean() > 0.02, "one in five gets through"
    assert not rig.states["puppet_left"].messages
    rig.faults({})
    assert rig.states["puppet_left"].next(3)


def test_faults_that_are_none_are_named_in_the_log(rig: Client, node: Process) -> None:
    rig.faults({"puppet_left": {"torque_los": True}, "cam_hgh": {"freeze": True}, "base": {"drop": 2.0}})
    node.wait_for("puppet_left: unknown key 'torque_los'. Did you mean 'torque_loss'?")
    node.wait_for("no stream 'cam_hgh'. Did you mean 'cam_high'?")
    node.wait_for("base: drop is a share from 0 to 1, given 2.0")


def test_the_manufacturers_package_drives_it(rig: Client) -> None:
    """Only where Interbotix's `interbotix_xs_modules` and `modern_robotics` are installed."""
    module = pytest.importorskip("interbotix_xs_modules.arm")
    ready(rig, "puppet_left")
    bot = module.InterbotixManipulatorXS("vx300s", robot_name="puppet_left", init_node=False)
    bot.dxl.robot_set_operating_modes("group", "arm", "position", "time", 1000, 200)
    bot.dxl.robot_set_operating_modes("single", "gripper", "pwm")
    assert (
        bot.arm.set_joint_positions([0.3, *START_ARM_POSE[1:].tolist()], moving_time=1.0, blocking=False) is not False
    )
    rig.arrives("puppet_left", [0.3, *START_ARM_POSE[1:]])
    assert bot.arm.set_joint_positions([0.3, 1.5, *START_ARM_POSE[2:].tolist()], blocking=False) is False
    bot.gripper.open(0.1)
    until(lambda: rig.position("puppet_left")[7] > 0.055, "the gripper open")
    bot.gripper.close(0.1)
    until(lambda: rig.position("puppet_left")[7] < 0.023, "the gripper closed")


# --- base, objects, person ---


def test_the_base_obeys_for_a_third_of_a_second(rig: Client) -> None:
    received, drive = Received("/odom", Odometry), rospy.Publisher("/cmd_vel", Twist, queue_size=1)
    until(drive.get_num_connections, "the base listens")
    command = Twist()
    command.linear.x, command.angular.z = 0.2, -0.3

    def driving() -> bool:
        drive.publish(command)
        time.sleep(0.03)
        twist = received.newest.twist.twist
        return abs(twist.linear.x - 0.2) < 1e-6 and abs(twist.angular.z + 0.3) < 1e-6

    until(driving, "the base reaches the commanded velocity")
    until(lambda: received.newest.twist.twist.linear.x == 0, "it stops by itself")
    pose = received.newest.pose.pose
    assert pose.position.x > 0.02
    assert pose.orientation.z < -0.01
    drive.unregister()
    received.subscriber.unregister()


def test_a_reset_puts_objects_back_and_leaves_arms_alone(rig: Client) -> None:
    ready(rig, "puppet_left")
    rospy.set_param("/sim_rig_seed", 42)
    assert rig.reset() == 42
    assert not rospy.has_param("/sim_rig_seed")
    env = SimEnv("transfer_cube", cameras={}, seed=42)
    env.reset()
    state = until(lambda: [s for s in rig.scene.next(5) if s.header.frame_id == "42"], "the state of seed 42")[-1]
    np.testing.assert_allclose(state.position[16:], env.object_poses()["cube"], atol=1e-3)
    np.testing.assert_allclose(state.position[:6], START_ARM_POSE, atol=0.03)
    assert rig.reset() == 43


def teleoperate(rig: Client, stop: threading.Event) -> None:
    """The least there is: leader joints to followers at 50 Hz, grippers by the share of their range."""
    while not stop.wait(0.02):
        for side in ("left", "right"):
            leader = rig.position(f"master_{side}")
            share = (leader[6] + 0.6842) / (0.3083 + 0.6842)
            rig.send(f"puppet_{side}", leader[:6], share * (1.4910 + 0.6213) - 0.6213)


def test_a_person_opens_the_episode_and_does_the_task(rig: Client) -> None:
    for arm in ARMS:
        ready(rig, arm)
    rig.reset()
    odometry = Received("/odom", Odometry)
    for leader in ("master_left", "master_right"):
        rig.torque(leader, False, joints="gripper")
    until(lambda: max(rig.position(f"master_{side}")[6] for side in ("left", "right")) < -0.3, "both grippers closed")
    for leader in ("master_left", "master_right"):
        np.testing.assert_allclose(rig.position(leader)[:6], START_ARM_POSE, atol=0.03)
        rig.torque(leader, False)
    stop = threading.Event()
    thread = threading.Thread(target=teleoperate, args=(rig, stop))
    thread.start()
    try:
        until(lambda: [m for m in rig.reward.messages if m.data == 4.0], "the cube is handed over", 30.0)
        speeds = np.array([(o.twist.twist.linear.x, o.twist.twist.angular.z) for o in odometry.messages])
        assert (np.ptp(speeds, axis=0) > 0.01).all(), "the person's body moves the base meanwhile"
    finally:
        stop.set()
        thread.join()
        odometry.subscriber.unregister()
    until(lambda: rig.reward.newest.data == 4.0, "it stays in the left gripper")
    rig.torque("master_left", True)
    rig.torque("master_right", True)
    states = rig.states["master_left"].next(40)[5:]
    np.testing.assert_allclose(states[-1].position, states[0].position, atol=1e-3)


def test_one_side_alone_is_opened_as_published_scripts_do_it(rig: Client) -> None:
    """ALOHA's one_side_teleop.py, step by step; without a reset of the simulation."""
    leader, other = "master_right", "master_left"
    rig.call("puppet_right", "reboot_motors", "single", "gripper", True, False)
    rig.mode(leader, gripper="position")
    rig.torque(leader, True)
    rig.move(leader, START_ARM_POSE, -0.2)
    still = rig.position(other)
    rig.torque(leader, False, joints="gripper")
    until(lambda: rig.position(leader)[6] < -0.3, "the person closes the gripper")
    np.testing.assert_allclose(rig.position(leader)[:6], START_ARM_POSE, atol=0.03)
    rig.torque(leader, False)
    until(lambda: np.abs(rig.position(leader)[:6] - START_ARM_POSE).max() > 0.2, "and does the task with it")
    np.testing.assert_allclose(rig.position(other), still, atol=1e-3)
    rig.torque(leader, True)
