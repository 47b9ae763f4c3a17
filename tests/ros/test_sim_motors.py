"""Motors, person, base and faults of the simulated rig, without ROS's network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from aloha_kit.config import from_mapping, load, RigConfig
from aloha_kit.core import ConfigError, START_ARM_POSE, VX300S, WX250S
from aloha_kit.ros.sim_rig.faults import ArmFault, CameraFault, Faults
from aloha_kit.ros.sim_rig.motors import Motors
from aloha_kit.ros.sim_rig.scripted_operator import HOME, ScriptedOperator
from aloha_kit.ros.sim_rig.simulated_arms import folded, Leader
from aloha_kit.ros.sim_rig.simulated_base import SimulatedBase
from aloha_kit.ros.sim_rig.simulated_rig import SimRig
from aloha_kit.sim import scripts

AT = np.append(START_ARM_POSE.astype(float), 0.5)
DT = 0.01


def motors(printed: list[str] | None = None, *, torque: bool = True) -> Motors:
    return Motors(VX300S, AT, torque=torque, warn=(printed if printed is not None else []).append)


def followed(bus: Motors, seconds: float, joint: int = 0) -> np.ndarray:
    """The setpoints of a joint, for an arm that goes exactly where it is pulled to."""
    line, position = [], AT.copy()
    for _ in range(round(seconds / DT)):
        bus.advance(DT, position)
        position = bus.setpoint.copy()
        line.append(position[joint])
    return np.array(line)


def test_without_a_profile_a_command_is_a_step() -> None:
    bus = motors()
    bus.command_group("arm", [0.5, *START_ARM_POSE[1:]])
    np.testing.assert_allclose(followed(bus, 0.05), 0.5)


def test_a_velocity_profile_is_a_trapezoid_of_the_registers_units() -> None:
    """131 is π rad/s and 15 is 5.6 rad/s²: 1 rad takes 1/π + π/5.6 s."""
    bus = motors()
    bus.set_mode("group", "arm", "position", "velocity", 131, 15)
    bus.command_single("waist", 1.0)
    line = followed(bus, 1.2)
    speed = np.diff(line, prepend=0.0) / DT
    assert np.diff(speed).max() / DT == pytest.approx(5.6, rel=0.03)
    arrived = DT * (np.argmax(line > 0.999) + 1)
    assert arrived == pytest.approx(2 * np.sqrt(1.0 / 5.6), rel=0.06), "too short a way to reach full speed"
    bus.set_mode("group", "arm", "position", "velocity", 40, 0)
    bus.command_single("waist", 0.0)
    assert np.abs(np.diff(followed(bus, 0.5))).max() / DT == pytest.approx(40 * 0.02398, rel=1e-3)


def test_a_time_profile_arrives_on_time_with_soft_ends() -> None:
    bus = motors()
    bus.set_mode("group", "arm", "position", "time", 1000, 300)
    bus.command_single("waist", 0.7)
    line = followed(bus, 1.2)
    assert line[98] < 0.7 <= line[100] + 1e-9
    assert line[49] == pytest.approx(0.35, abs=0.02)
    speed = np.diff(line, prepend=0.0) / DT
    assert speed.max() == pytest.approx(0.7 / (1.0 - 0.3), rel=0.01)
    assert speed[0] < 0.1 * speed.max()


def test_torque_begins_where_the_arm_is() -> None:
    bus = motors(torque=False)
    bus.command_group("arm", [1.0] * 6)
    elsewhere = AT + 0.2
    bus.advance(DT, elsewhere)
    np.testing.assert_array_equal(bus.setpoint, elsewhere)
    assert not bus.stiffness.any()
    bus.enable("group", "all", True)
    bus.advance(DT, elsewhere - 0.05)
    np.testing.assert_array_equal(bus.setpoint, elsewhere)


@pytest.mark.parametrize(("mode", "off"), [("position", True), ("current_based_position", False)])
def test_a_blocked_gripper_shuts_off_in_position_mode_only(mode: str, off: bool) -> None:
    printed: list[str] = []
    bus = motors(printed)
    bus.set_mode("single", "gripper", mode, "velocity", 0, 0)
    bus.command_single("gripper", -0.6)  # something holds its fingers where they are
    for _ in range(600):
        bus.advance(DT, AT)
    assert bus.get_register("single", "gripper", "Hardware_Error_Status") == [32 if off else 0]
    assert bus.torque[6] != off
    assert any("overloaded" in words for words in printed) == off
    bus.enable("single", "gripper", True)
    assert bus.torque[6] != off
    bus.reboot("single", "gripper", True, False)
    rebooted(bus)
    assert bus.torque[6]


def rebooted(bus: Motors) -> float:
    """Seconds until a reboot is through."""
    seconds = 0.0
    while bus.rebooting:
        bus.advance(DT, AT)
        seconds += DT
    return seconds


def test_only_failed_motors_reboot_when_requested() -> None:
    bus = motors()
    bus.fail(["elbow"])
    bus.set_register("group", "all", "Profile_Velocity", 7)
    bus.reboot("group", "all", False, True)
    assert rebooted(bus) == pytest.approx(2.0), "the elbow has two motors"
    assert bus.get_register("group", "all", "Profile_Velocity") == [7, 7, 0, 7, 7, 7, 7]
    assert bus.torque.tolist() == [True, True, False, True, True, True, True]


@pytest.mark.parametrize(
    ("what", "seconds"), [(("single", "gripper"), 1), (("group", "arm"), 8), (("group", "all"), 9)]
)
def test_a_reboot_takes_a_second_for_each_motor(what: tuple[str, str], seconds: float) -> None:
    bus = motors()
    bus.reboot(*what, True, False)
    assert rebooted(bus) == pytest.approx(seconds)
    assert bus.torque.all()


def test_motors_go_off_one_after_the_other_and_come_back_together() -> None:
    bus = motors()
    bus.reboot("group", "arm", True, False)
    bus.advance(2.5, AT)
    assert bus.torque.tolist() == [False, False, True, True, True, True, True]
    bus.advance(5.4, AT + 0.1)
    assert bus.torque.tolist() == [False] * 6 + [True]
    bus.advance(0.2, AT + 0.1)
    assert bus.torque.all()
    np.testing.assert_array_equal(bus.setpoint[:6], AT[:6] + 0.1)


def read(bus: Motors, register: str, joint: str = "gripper") -> int:
    (value,) = bus.get_register("single", joint, register)
    return value


def test_registers_have_the_motors_units() -> None:
    """Values as the e-manual of the XM430 and XM540 has them, each computed here anew."""
    bus = motors()
    velocity, effort = np.array([1.0, 0, 0, 0, 0, 0, -0.1]), np.array([0.0, 0, 0, 0, 0, 0, -538.0])
    bus.advance(DT, AT, velocity, effort)
    assert read(bus, "Present_Velocity", "waist") == round(1.0 * 60 / (2 * np.pi) / 0.229)
    assert read(bus, "Present_Current") == -200
    assert (read(bus, "Moving", "waist"), read(bus, "Moving")) == (1, 0)
    assert read(bus, "Present_Position", "shoulder") == round(2048 - 0.96 * 4096 / (2 * np.pi))
    assert (read(bus, "Min_Position_Limit", "shoulder"), read(bus, "Max_Position_Limit", "shoulder")) == (842, 2867)
    assert (read(bus, "Min_Position_Limit", "waist"), read(bus, "Max_Position_Limit", "waist")) == (0, 4095)
    assert (read(bus, "Current_Limit", "waist"), read(bus, "Current_Limit")) == (2047, 1193)
    assert 20 < read(bus, "Present_Temperature") < read(bus, "Temperature_Limit") == 80
    assert read(bus, "Min_Voltage_Limit") < read(bus, "Present_Input_Voltage") < read(bus, "Max_Voltage_Limit")
    assert (read(bus, "Model_Number", "waist"), read(bus, "Model_Number"), read(bus, "ID")) == (1120, 1020, 9)
    assert read(bus, "Realtime_Tick") == 10


def test_goals_can_be_written_as_registers_within_the_limits() -> None:
    bus = motors()
    bus.set_register("single", "waist", "Goal_Position", 2048 + 512)
    assert followed(bus, 0.05)[-1] == pytest.approx(np.pi / 4)
    assert read(bus, "Goal_Position", "waist") == 2560
    bus.set_register("single", "gripper", "Goal_Current", 200)
    bus.set_register("single", "gripper", "Goal_Current", 5000)
    assert read(bus, "Goal_Current") == 200
    bus.enable("single", "gripper", False)
    bus.set_register("single", "gripper", "Current_Limit", 150)
    assert (read(bus, "Current_Limit"), read(bus, "Goal_Current")) == (150, 150)
    bus.enable("single", "waist", False)
    bus.set_register("single", "waist", "Max_Position_Limit", 2100)
    bus.enable("single", "waist", True)
    bus.command_single("waist", 0.5)
    assert bus.goal[0] != 0.5


@pytest.mark.parametrize(("mode", "command"), [("current", -200.0), ("pwm", -250.0)])
def test_a_gripper_without_a_goal_position_turns_until_something_stops_it(mode: str, command: float) -> None:
    bus = motors()
    bus.set_mode("single", "gripper", mode, "velocity", 0, 0)
    assert np.ptp(followed(bus, 0.2, 6)) == 0, "it stands until it is commanded"
    bus.command_single("gripper", command)
    assert followed(bus, 0.5, 6)[-1] < 0.5 - 0.5, "a rad or more each second"
    bus.settle(AT)
    bus.command_single("gripper", command)
    for _ in range(300):
        bus.advance(DT, AT)  # something holds its fingers where they are
    expected = command if mode == "current" else -2300 * 250 / 885
    assert bus.push[6] == pytest.approx(expected, rel=0.02), "it pushes with the current commanded"
    bus.command_single("gripper", 0.0)
    bus.advance(DT, AT)
    assert bus.push[6] == 0


def test_velocity_mode_turns_at_the_speed_requested() -> None:
    bus = motors()
    bus.set_mode("group", "arm", "velocity", "velocity", 0, 0)
    bus.command_group("arm", [0.5, 0, 0, 0, 0, 0])
    assert followed(bus, 1.0)[-1] == pytest.approx(0.5, rel=0.05)


def test_a_leader_closes_its_gripper_by_current_up_to_its_stop() -> None:
    leader = Leader(Motors(WX250S, folded(WX250S), torque=False, warn=print))
    leader.motors.set_mode("single", "gripper", "current", "velocity", 0, 0)
    leader.motors.command_single("gripper", -150.0)
    for _ in range(300):
        leader.advance(DT, None)
    assert leader.position[6] == pytest.approx(-0.6842, abs=0.05)
    assert leader.velocity[6] == 0
    assert leader.motors.get_register("single", "gripper", "Present_Current") == [round(-150 / 2.69)]


@pytest.mark.parametrize("opening", [0.0, 0.1, 0.55, 0.95])
def test_the_persons_hand_opens_the_follower_as_the_plan_wants(opening: float) -> None:
    """Through teleoperation and both cranks, each computed here anew."""
    leader = Leader(Motors(WX250S, folded(WX250S), torque=False, warn=print))
    for _ in range(200):
        leader.advance(DT, np.append(START_ARM_POSE, opening))
    share = (leader.position[6] + 0.6842) / (0.3083 + 0.6842)
    motor = share * (1.4910 + 0.6213) - 0.6213
    finger = 0.022 * np.sin(motor) + np.sqrt(0.036**2 - (0.022 * np.cos(motor)) ** 2)
    assert (finger - 0.01844) / (0.05800 - 0.01844) == pytest.approx(opening, abs=1e-3)
    assert leader.hand[6] == pytest.approx(opening, abs=1e-3)


CUBE = {"cube": np.array([0.1, 0.5, 0.02, 1, 0, 0, 0])}


def person(printed: list[str] | None = None, noise: float = 0.0) -> ScriptedOperator:
    return ScriptedOperator(
        scripts.transfer_cube, noise=noise, seed=0, warn=(printed if printed is not None else []).append
    )


def both(gesture: str) -> dict[str, str]:
    return {"left": gesture, "right": gesture}


def hands(pose: np.ndarray = HOME) -> dict[str, np.ndarray]:
    return {"left": pose.copy(), "right": pose.copy()}


def test_the_task_begins_where_the_hands_are_and_is_smooth() -> None:
    somebody = person()
    somebody.prepare(CUBE, 1).result()
    away = HOME + 0.1
    line = [somebody.advance(k * DT, both("play"), hands(away), lambda: CUBE, 1)["right"] for k in range(800)]
    np.testing.assert_allclose(line[0], away, atol=1e-9)
    assert np.abs(np.diff(line, axis=0))[:, :6].max() / DT < np.pi, "no joint is faster than a follower's"
    assert somebody.playing(3.0) == pytest.approx(3.0)
    assert somebody.playing(9.0) is None
    somebody.close()


def test_noise_is_the_seeds() -> None:
    def motion(noise: float, seed: int) -> np.ndarray:
        somebody = person(noise=noise)
        rows = somebody.prepare(CUBE, seed).result()
        somebody.close()
        return rows

    np.testing.assert_array_equal(motion(1.0, 4), motion(1.0, 4))
    assert np.abs(motion(1.0, 4) - motion(1.0, 5)).max() > 0.01
    np.testing.assert_array_equal(motion(0.0, 4), motion(0.0, 5))


def test_grippers_close_after_a_moment() -> None:
    somebody = person()
    grips = [somebody.advance(k * DT, both("close"), hands(), lambda: CUBE, 1)["left"][6] for k in range(120)]
    assert grips[0] == grips[45] == HOME[6]
    assert grips[-1] == pytest.approx(0.0, abs=1e-9)
    assert set(somebody.advance(2.0, both("rest"), hands(), lambda: CUBE, 1).values()) == {None}
    somebody.close()


def test_objects_that_moved_are_looked_at_again() -> None:
    somebody = person()
    somebody.prepare(CUBE, 1).result()
    moved = {"cube": CUBE["cube"] + [-0.08, 0, 0, 0, 0, 0, 0]}
    held = somebody.advance(0.0, both("play"), hands(), lambda: moved, 1)
    np.testing.assert_array_equal(held["left"], HOME)
    other = somebody.prepare(moved, 1).result()
    somebody.advance(0.02, both("play"), hands(), lambda: moved, 1)
    np.testing.assert_allclose(
        somebody.advance(2.02, both("play"), hands(), lambda: moved, 1)["right"], other[100, 7:], atol=0.02
    )
    somebody.close()


def test_what_is_out_of_reach_is_reported() -> None:
    printed: list[str] = []
    somebody = person(printed)
    assert somebody.prepare({"cube": np.array([2.0, 2.0, 0.02, 1, 0, 0, 0])}, 1).result() is None
    assert "the operator cannot do the task from here: the right gripper does not reach" in printed[0]
    somebody.close()


def test_a_base_drives_on_its_heading_and_stops_by_itself() -> None:
    base, now = SimulatedBase(), 0.0

    def drive(seconds: float, command: Callable[[], None]) -> None:
        nonlocal now
        for _ in range(round(seconds / DT)):
            now += DT
            command()
            base.advance(DT, now, None)

    drive(1.0 + np.pi / 2, lambda: base.command((0.0, 1.0), now))
    drive(1.0, lambda: None)
    np.testing.assert_array_equal(base.velocity, 0)
    turned = base.pose[2]
    assert turned > 1.5
    drive(2.0, lambda: base.command((9.0, 0.0), now))
    assert base.velocity[0] == pytest.approx(1.6), "no faster than it can"
    assert np.arctan2(base.pose[1], base.pose[0]) == pytest.approx(turned, abs=1e-6)
    base.command((np.nan, 0.0), now)
    base.advance(DT, now, None)
    assert np.isfinite(base.velocity).all()


def test_faults_are_taken_one_by_one() -> None:
    printed: list[str] = []
    faults = Faults(load(RigConfig, "rigs", "aloha"), printed.append)
    faults.set({"puppet_left": {"torque_loss": "elbow"}, "cam_high": {"swap": "cam_lo"}, "cam_low": {"freeze": True}})
    assert faults.of("puppet_left", ArmFault).torque_loss == "elbow"
    assert faults.of("cam_low", CameraFault).freeze
    assert faults.of("cam_high", CameraFault) == CameraFault(), "the wrong one is left out"
    assert printed == [
        "/sim_rig_faults: cam_high: swap: no camera 'cam_lo'. Did you mean 'cam_low'? "
        "Known: cam_high, cam_left_wrist, cam_low, cam_right_wrist."
    ]
    faults.set({"puppet_left": {"torque_loss": "ellbow"}, "cam_high": 3})
    faults.set({"puppet_left": {"torque_loss": "ellbow"}, "cam_high": 3})
    assert len(printed) == 3, "each is reported once"
    assert "torque_loss: no joint 'ellbow'. Did you mean 'elbow'?" in printed[1]
    assert "cam_high needs {fault: value}, it is 3" in printed[2]
    faults.set({})
    assert faults.of("puppet_left", ArmFault) == ArmFault()


def test_a_second_hand_joins_the_task_where_it_is() -> None:
    somebody = person()
    rows = somebody.prepare(CUBE, 1).result()
    line = []
    for k in range(400):
        gestures = {"left": "play", "right": "rest" if k < 200 else "play"}
        line.append(somebody.advance(k * DT, gestures, hands(), lambda: CUBE, 1)["right"])
    assert line[199] is None
    np.testing.assert_allclose(line[200], HOME, atol=1e-6)
    np.testing.assert_allclose(line[399], rows[round(3.99 * 50), 7:], atol=0.02)
    assert np.abs(np.diff(line[200:], axis=0)).max() / DT < np.pi, "smoothly"
    somebody.close()


@pytest.fixture
def rig() -> Iterator[SimRig]:
    built = SimRig(load(RigConfig, "rigs", "aloha"), "transfer_cube", operator=person(), seed=0, warn=print)
    built.reset().result()
    yield built
    built.close()


def lock(rig: SimRig, *sides: str, at: np.ndarray = HOME) -> None:
    """Torque on and to a pose, as any script does with its leaders."""
    for side in sides:
        motors = rig.leaders[side].motors
        motors.enable("group", "all", True)
        motors.command_group("arm", at[:6])
        motors.command_single("gripper", 0.0)
    let(rig, 1.5)


def release(rig: SimRig, *sides: str, what: str = "all") -> None:
    for side in sides:
        rig.leaders[side].motors.enable("single" if what == "gripper" else "group", what, False)


def let(rig: SimRig, seconds: float) -> None:
    for _ in range(round(seconds / DT)):
        rig.advance(DT)


def far(rig: SimRig, side: str) -> float:
    """rad that a leader is away from the start pose."""
    return float(np.abs(rig.leaders[side].position[:6] - START_ARM_POSE).max())


def test_arms_that_were_never_locked_at_the_start_are_no_sign_to_begin(rig: SimRig) -> None:
    let(rig, 0.3)
    sleep = rig.leaders["left"].position.copy()
    lock(rig, "left", "right", at=sleep)
    release(rig, "left", "right")
    let(rig, 0.5)
    np.testing.assert_allclose(rig.leaders["left"].position[:6], sleep[:6], atol=1e-6)
    lock(rig, "left", "right")
    release(rig, "left", "right")
    let(rig, 2.0)
    assert far(rig, "right") > 0.2, "now they are"


@pytest.mark.parametrize("side", ["left", "right"])
def test_one_leader_alone_is_served(rig: SimRig, side: str) -> None:
    """As ALOHA's one_side_teleop.py commands it: to the start pose, gripper free, closed, arm free."""
    (other,) = {"left", "right"} - {side}
    asleep = rig.leaders[other].position.copy()
    lock(rig, side)
    release(rig, side, what="gripper")
    let(rig, 1.5)
    assert rig.leaders[side].position[6] < -0.3, "the person closes the gripper"
    assert far(rig, side) < 0.02
    release(rig, side)
    let(rig, 4.0)
    assert far(rig, side) > 0.2, "and does the task"
    np.testing.assert_array_equal(rig.leaders[other].position, asleep)
    lock(rig, side)
    let(rig, 1.0)
    assert far(rig, side) < 0.02


def test_two_leaders_that_are_let_go_one_after_the_other_begin_together(rig: SimRig) -> None:
    lock(rig, "left", "right")
    release(rig, "left", "right", what="gripper")
    let(rig, 1.5)
    release(rig, "right")
    let(rig, 0.5)
    assert far(rig, "right") < 0.02, "the left one is still locked"
    release(rig, "left")
    let(rig, 2.0)
    assert far(rig, "right") > 0.2


def drop(rig: SimRig) -> None:
    """The cube off the table."""
    state = rig.scene.qpos
    state[16:19] = (0.0, 1.2, -0.4)
    rig.scene.restore(state)


def follow(rig: SimRig, pose: np.ndarray) -> None:
    """Both followers to a pose, as any script commands them."""
    for follower in rig.followers.values():
        follower.motors.command_group("arm", pose[:6])
    let(rig, 1.5)


def test_what_fell_is_put_back_when_anybody_moves_the_arms_to_the_start(rig: SimRig) -> None:
    follow(rig, HOME)
    away = HOME + np.array([0, 0.5, -0.5, 0, 0, 0, 0])
    follow(rig, away)
    drop(rig)
    let(rig, 0.5)
    assert rig.scene.object_poses()["cube"][2] < -0.02, "not while the arms are away"
    follow(rig, HOME)
    assert rig.scene.object_poses()["cube"][2] == pytest.approx(0.02, abs=2e-3)
    assert rig.seed == 1, "where the next seed has it"
    rig.reset()
    assert rig.seed == 1, "which stays the next one at a reset"
    follow(rig, away)
    before = rig.scene.object_poses()["cube"]
    follow(rig, HOME)
    np.testing.assert_allclose(rig.scene.object_poses()["cube"], before, atol=2e-3)


def test_what_the_person_cannot_reach_is_put_back_before_the_next_start(rig: SimRig) -> None:
    state = rig.scene.qpos
    state[16:19] = (-0.3, 0.3, 0.02)  # on the table, but far from the right arm
    rig.scene.restore(state)
    lock(rig, "left", "right")
    assert rig.scene.object_poses()["cube"][0] < -0.2
    release(rig, "left", "right", what="gripper")
    for _ in range(50):
        let(rig, 0.1)
        time.sleep(0.1)  # the operator plans in a thread of its own
        if rig.scene.object_poses()["cube"][0] > -0.2:
            break
    assert 0.0 <= rig.scene.object_poses()["cube"][0] <= 0.2
    assert rig.seed == 1


def test_a_rig_that_no_scene_has_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"scenes have the arms left, right; rig 'sim' has: \(none\)"):
        SimRig(load(RigConfig, "rigs", "sim"), "transfer_cube", operator=None, seed=0, warn=print)
    crossed = from_mapping(
        RigConfig,
        {"name": "x", "kind": "ros", "cameras": {},
         "followers": {side: {"name": side, "model": "wx250s"} for side in ("left", "right")}},
    )  # fmt: skip
    with pytest.raises(ConfigError, match="scenes have vx300s followers, the left one is a wx250s"):
        SimRig(crossed, "transfer_cube", operator=None, seed=0, warn=print)
