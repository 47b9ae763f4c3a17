"""Joints that cannot be, motors in trouble, followers that do not follow."""

from __future__ import annotations

import numpy as np
import pytest

from aloha_kit.doctor.arm_checks import check_following, check_joints, check_motors
from aloha_kit.ros.rig_measurements import ArmMeasurement, MotorMeasurement
from tests.doctor.made import arm

MOTORS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper")
FINE = {"Hardware_Error_Status": (0,) * 7, "Torque_Enable": (1,) * 7, "Operating_Mode": (3,) * 6 + (5,)}


def motors(**registers: tuple[int, ...]) -> MotorMeasurement:
    return MotorMeasurement("puppet_left", MOTORS, {**FINE, **registers})


def bad_joints(seen: ArmMeasurement) -> list[tuple[str, str]]:
    return [(f.level, f.found) for f in check_joints(seen) if f.level != "ok"]


def test_an_arm_at_its_start_pose_is_ok() -> None:
    assert [(f.level, f.found) for f in check_joints(arm())] == [("ok", "100 readings within the limits")]


def test_an_arm_that_was_without_messages_is_left_to_its_topic() -> None:
    assert check_joints(arm(count=0)) == []


def test_nan_and_failed_reads_are_counted_apart_and_are_not_out_of_limits() -> None:
    raw = arm().raw.copy()
    raw[3, 2] = np.nan
    raw[10:15] = -np.pi
    assert bad_joints(arm(raw=raw)) == [
        ("error", "1 of 100 readings are not finite"),
        ("error", "5 of 100 readings are -π in every joint: the driver could not read its motors"),
    ]


@pytest.mark.parametrize(("elbow", "level"), [(1.6057, []), (1.65, ["warning"]), (2.2, ["error"])])
def test_joints_beyond_their_limits_are_named(elbow: float, level: list[str]) -> None:
    raw = arm().raw.copy()
    raw[50, 2] = elbow
    found = bad_joints(arm(raw=raw))
    assert [grade for grade, _ in found] == level
    assert all(words == f"elbow is {elbow - 1.6057:.2f} rad beyond its limit" for _, words in found)


def test_a_driver_without_velocities_is_reported_but_no_error() -> None:
    assert bad_joints(arm(lengths=(9, 0, 9))) == [("warning", "0 values of velocity for 9 of position")]


def test_readings_that_could_not_be_decoded_say_why() -> None:
    assert bad_joints(arm(error="3 joints (a, b, c), expected 7")) == [("error", "3 joints (a, b, c), expected 7")]


def test_motors_in_order_are_ok() -> None:
    assert [(f.level, f.found) for f in check_motors(motors(), follower=True)] == [("ok", "7 motors without errors")]


def test_error_bits_are_reported_in_words_with_the_way_to_reboot() -> None:
    [finding] = check_motors(motors(Hardware_Error_Status=(0, 0, 0, 0, 0, 0, 0b100100)), follower=False)
    assert (finding.level, finding.found) == ("error", "gripper: overheating and overload")
    assert "rosservice call /puppet_left/reboot_motors single gripper true false" in finding.remedy


def test_lost_torque_is_an_error_in_some_motors_and_a_warning_in_all() -> None:
    [some] = check_motors(motors(Torque_Enable=(1, 0, 1, 1, 1, 0, 1)), follower=True)
    [none] = check_motors(motors(Torque_Enable=(0,) * 7), follower=True)
    assert (some.level, some.found) == ("error", "no torque in shoulder, wrist_rotate")
    assert (none.level, none.found) == ("warning", "no motor has torque")
    assert [f.level for f in check_motors(motors(Torque_Enable=(0,) * 7), follower=False)] == ["ok"]


def test_other_modes_and_heat_are_reported() -> None:
    [mode] = check_motors(motors(Operating_Mode=(3, 3, 3, 3, 3, 3, 16)), follower=True)
    assert (mode.level, mode.found) == ("warning", "other modes: gripper (PWM)")
    warm, hot = check_motors(motors(Present_Temperature=(30, 62, 75, 30, 30, 30, 30)), follower=True)
    assert (warm.level, warm.found) == ("warning", "shoulder has 62 °C")
    assert (hot.level, hot.found) == ("error", "elbow has 75 °C")


def test_a_silent_service_is_an_error_and_no_registers_are_none() -> None:
    [finding] = check_motors(
        MotorMeasurement("puppet_left", error="no service /puppet_left/get_robot_info"), follower=True
    )
    assert (finding.level, finding.found) == ("error", "no service /puppet_left/get_robot_info")
    assert check_motors(MotorMeasurement("puppet_left"), follower=True) == []


def leader(offset: float) -> ArmMeasurement:
    raw = arm().raw.copy()
    raw[:, 1] += offset
    return arm("leader_left", raw=raw)


@pytest.mark.parametrize(("offset", "level"), [(0.05, "ok"), (0.2, "warning"), (0.8, "error")])
def test_the_residual_is_judged_while_commands_flow(offset: float, level: str) -> None:
    [finding] = check_following("left", arm(commands=100), leader(offset), hardware=False)
    assert finding.level == level
    assert finding.found == f"shoulder is {offset:.2f} rad from the leader's"


def test_the_residual_is_only_reported_where_nobody_teleoperates() -> None:
    [finding] = check_following("left", arm(), leader(0.8), hardware=False)
    assert (finding.level, finding.found) == ("ok", "not teleoperated now; shoulder is 0.80 rad from the leader's")
    assert [f.level for f in check_following("left", arm(), leader(0.8), hardware=True)] == ["error"]


def test_readings_are_compared_at_the_same_time() -> None:
    # The leader turns at 0.5 rad/s. Row by row the arms would be half a second, 0.25 rad, apart.
    turn = np.linspace(0.0, 0.5, 100)
    moving, late = arm().raw.copy(), arm().raw.copy()
    moving[:, 0] = turn
    late[:50, 0] = turn[50:]
    late[50:, 0] = turn[-1]
    follower = arm(raw=late, stamps_ns=arm().stamps_ns + 500_000_000, commands=1)
    [finding] = check_following("left", follower, arm("leader_left", raw=moving), hardware=False)
    assert finding.level == "ok"
