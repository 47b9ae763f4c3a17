"""The seven motors of one Interbotix arm as their driver leaves them: modes, torque, registers, profiles, errors.

No ROS and no physics: commands come in, setpoints go out, and whoever holds the arm says where it is.
Positions are in rad, time in seconds. Register names and units are the Dynamixel X series'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from aloha_kit.core import AlohaKitError, nearest
from aloha_kit.core.arms import ARM_JOINTS, ArmModel

Vector = npt.NDArray[np.float64]

JOINTS = (*ARM_JOINTS, "gripper")
GROUPS: dict[str, tuple[str, ...]] = {"arm": ARM_JOINTS, "all": JOINTS}
MODES = {"current": 0, "velocity": 1, "position": 3, "linear_position": 3, "ext_position": 4,
         "current_based_position": 5, "pwm": 16}  # fmt: skip
GRIPPER = 6

SPEED_UNIT = 0.229 * 2 * np.pi / 60  # rad/s for 1 of Profile_Velocity and Velocity_Limit
ACCELERATION_UNIT = 214.577 * 2 * np.pi / 3600  # rad/s² for 1 of Profile_Acceleration
FREE_SPEED = 4.8  # rad/s: a gripper's motor at full voltage and without a load
FULL_PWM, STALL_MA = 885.0, 2300.0
REBOOT_S = 0.5  # how long a motor that starts is silent, and with it the whole bus
OVERLOAD = 0x20  # in Hardware_Error_Status
WARM = 35  # degrees Celsius, whatever happens
STRAIN, STRAIN_S = 0.3, 4.0  # a gripper's motor held off its goal by so much (rad), so long (s), shuts off

KEPT = {"Current_Limit": 1193, "Velocity_Limit": 131, "PWM_Limit": 885, "Homing_Offset": 0, "Shutdown": 52}
"""Registers in a motor's permanent memory: it takes no value under torque, and a reboot leaves it."""

LOST = {
    "Profile_Velocity": 0, "Profile_Acceleration": 0, "Position_P_Gain": 800, "Position_I_Gain": 0,
    "Position_D_Gain": 0, "Feedforward_1st_Gain": 0, "Feedforward_2nd_Gain": 0, "Velocity_P_Gain": 100,
    "Velocity_I_Gain": 1920, "Goal_Current": 1193, "LED": 0,
}  # fmt: skip
"""Registers that a reboot sets back to this."""

READ = (
    "Torque_Enable", "Hardware_Error_Status", "Operating_Mode", "Drive_Mode", "Present_Position", "Goal_Position",
    "Present_Temperature",
)  # fmt: skip


class RefusedError(AlohaKitError):
    """A request that the driver's service refuses."""


class Motors:
    """One bus.

    Attributes:
        setpoint: (7,) rad: where the motors' own controllers pull to, on the way to the goals.
        torque: (7,) bool.

    Args:
        position: (7,) rad: where the arm is.
        torque: whether its motors begin under torque, as a follower's do.
        complain: told what the driver would log.
    """

    def __init__(self, model: ArmModel, position: Vector, *, torque: bool, complain: Callable[[str], None]) -> None:
        self.model, self._complain = model, complain
        self.torque = np.full(7, torque)
        self.setpoint, self.goal = position.copy(), position.copy()
        self.mode = dict.fromkeys(JOINTS, "position")
        self.group_mode = {"arm": "position", "all": "position"}
        self.profile = dict.fromkeys((*JOINTS, *GROUPS), "velocity")
        self._registers = {name: np.full(7, value) for name, value in {**KEPT, **LOST}.items()}
        self._errors = np.zeros(7, int)
        self._drive = np.zeros(7)  # rad/s that a velocity, PWM or current command turns at
        self._position = position.copy()
        self._from, self._since, self._speed = position.copy(), np.zeros(7), np.zeros(7)
        self._strained, self._silent = 0.0, 0.0
        self._lower = np.array([*model.lower, -np.pi]) - 2e-3  # motors count in steps of 1.5 mrad
        self._upper = np.array([*model.upper, np.pi]) + 2e-3

    @property
    def stiffness(self) -> Vector:
        """(7,) share of the usual stiffness that the motors pull with: none without torque."""
        gain: Vector = self.torque * self._registers["Position_P_Gain"] / LOST["Position_P_Gain"]
        return gain

    @property
    def silent(self) -> bool:
        """Whether a motor is starting, so that the driver cannot read any."""
        return self._silent > 0

    # what the driver's services and topics do

    def joints(self, cmd_type: str, name: str) -> list[int]:
        """Indices of a "group" or "single" joint.

        Raises:
            RefusedError: there is no such thing; names the nearest.
        """
        if cmd_type not in {"group", "single"}:
            raise RefusedError(f"cmd_type must be 'group' or 'single', given '{cmd_type}'")
        known = GROUPS if cmd_type == "group" else {joint: (joint,) for joint in JOINTS}
        if name not in known:
            raise RefusedError(f"no {cmd_type} '{name}'. {nearest(name, known)}")
        return [JOINTS.index(joint) for joint in known[name]]

    def set_mode(self, cmd_type: str, name: str, mode: str, profile: str, velocity: int, acceleration: int) -> None:
        """Torque off, another mode, torque on; an unknown mode is complained of, and torque comes on all the same."""
        indices = self.joints(cmd_type, name)
        self.enable(cmd_type, name, False)
        if mode not in MODES:
            self._complain(f"no operating mode '{mode}'. {nearest(mode, MODES)}")
        else:
            for joint in (JOINTS[i] for i in indices):
                self.mode[joint], self.profile[joint] = mode, profile
            if "position" in mode and mode != "current_based_position":
                self._registers["Profile_Velocity"][indices] = velocity
            if mode not in {"pwm", "current", "current_based_position"}:
                self._registers["Profile_Acceleration"][indices] = acceleration
            if cmd_type == "group":
                self.group_mode[name], self.profile[name] = mode, profile
        self.enable(cmd_type, name, True)

    def enable(self, cmd_type: str, name: str, on: bool) -> None:
        """Torque. A motor begins by holding where it is; one that has shut off stays off."""
        for i in self.joints(cmd_type, name):
            if on and not self.torque[i] and not self._errors[i]:
                self.torque[i] = True
                self._hold(i)
            elif not on:
                self.torque[i] = False

    def reboot(self, cmd_type: str, name: str, on: bool, only_failed: bool) -> None:
        """Clear errors and what a motor does not keep; then torque, if asked for."""
        indices = self.joints(cmd_type, name)
        for i in indices:
            if only_failed and not self._errors[i]:
                continue
            self._silent, self._errors[i], self.torque[i] = REBOOT_S, 0, False
            for register, value in LOST.items():
                self._registers[register][i] = value
            if on:
                self.enable("single", JOINTS[i], True)

    def set_register(self, cmd_type: str, name: str, register: str, value: int) -> None:
        """Write; where the motor does not take it, the driver says nothing."""
        for i in self.joints(cmd_type, name):
            if register == "Torque_Enable":
                self.enable("single", JOINTS[i], bool(value))
            elif register in LOST or (register in KEPT and not self.torque[i]):
                self._registers[register][i] = value

    def get_register(self, cmd_type: str, name: str, register: str) -> list[int]:
        """Values of the joints; none where there is no such register (names are case-sensitive)."""
        indices = self.joints(cmd_type, name)
        if register not in {*KEPT, *LOST, *READ}:
            self._complain(f"no register '{register}'. {nearest(register, {*KEPT, *LOST, *READ})}")
            return []
        return [self._read(register, i) for i in indices]

    def set_gains(self, cmd_type: str, name: str, gains: dict[str, int]) -> None:
        """Position, feed-forward and velocity gains, by register."""
        for i in self.joints(cmd_type, name):
            for register, value in gains.items():
                self._registers[register][i] = value

    def command_group(self, name: str, values: Sequence[float]) -> None:
        """What `commands/joint_group` does: all joints of a group in the group's mode, or nothing."""
        if name not in GROUPS:
            self._complain(f"no group '{name}'. {nearest(name, GROUPS)}")
        elif len(values) != len(GROUPS[name]):
            self._complain(f"group '{name}' has {len(GROUPS[name])} joints, {len(values)} commands are not executed")
        else:
            for joint, value in zip(GROUPS[name], values, strict=True):
                self._command(JOINTS.index(joint), self.group_mode[name], value)

    def command_single(self, name: str, value: float) -> None:
        """What `commands/joint_single` does."""
        if name not in JOINTS:
            self._complain(f"no joint '{name}'. {nearest(name, JOINTS)}")
        else:
            self._command(JOINTS.index(name), self.mode[name], value)

    def fail(self, joints: Sequence[str]) -> None:
        """These motors shut off by overload; only a reboot brings them back."""
        for i in map(JOINTS.index, joints):
            self._errors[i], self.torque[i] = OVERLOAD, False

    def settle(self, position: Vector) -> None:
        """The arm was put to `position` (7,) rad: hold it there."""
        self._position = position.copy()
        for i in range(len(JOINTS)):
            self._hold(i)

    # what time does

    def advance(self, seconds: float, position: Vector) -> None:
        """Move the setpoints as the motors' profiles do; the arm is at `position` (7,) rad now."""
        self._position = position.copy()
        self._silent = max(0.0, self._silent - seconds)
        self._since += seconds
        timed = np.array([self.profile[joint] == "time" for joint in JOINTS])
        turning = np.array(["position" not in self.mode[joint] for joint in JOINTS])
        goal = np.where(timed, self._by_time(), self._by_speed(seconds))
        reach = np.clip(self.setpoint + self._drive * seconds, position - 0.15, position + 0.15)
        self.setpoint = np.where(self.torque, np.where(turning, reach, goal), position)
        self._overload(seconds)

    def _by_time(self) -> Vector:
        """Where a motion that has a time to arrive in (ms) is: ramps of constant acceleration at both ends."""
        whole = np.maximum(self._registers["Profile_Velocity"] / 1e3, 1e-9)
        ramp = np.minimum(self._registers["Profile_Acceleration"] / 1e3, whole / 2)
        t = np.clip(self._since, 0.0, whole)
        top, soft = 1.0 / (whole - ramp), np.maximum(ramp, 1e-9)
        begin, end = top * t**2 / (2 * soft), 1.0 - top * (whole - t) ** 2 / (2 * soft)
        share = np.where(t < ramp, begin, np.where(t > whole - ramp, end, top * (t - ramp / 2)))
        return np.asarray(self._from + share * (self.goal - self._from))

    def _by_speed(self, seconds: float) -> Vector:
        """Where a motion with a top speed and an acceleration is next; 0 stands for none."""
        top, rise = self._registers["Profile_Velocity"] * SPEED_UNIT, self._registers["Profile_Acceleration"]
        top, rise = np.where(top > 0, top, 1e6), np.where(rise > 0, rise * ACCELERATION_UNIT, 1e9)
        left = self.goal - self.setpoint
        self._speed = np.minimum(np.minimum(top, self._speed + rise * seconds), np.sqrt(2 * rise * np.abs(left)))
        return np.asarray(self.setpoint + np.clip(left, -self._speed * seconds, self._speed * seconds))

    def _overload(self, seconds: float) -> None:
        """A gripper in position control pushes with all it has, and shuts off when that lasts."""
        pushing = self.torque[GRIPPER] and self.mode["gripper"] in {"position", "linear_position", "ext_position"}
        strain = abs(self.goal[GRIPPER] - self._position[GRIPPER]) > STRAIN
        self._strained = self._strained + seconds if pushing and strain else 0.0
        if self._strained > STRAIN_S:
            self._complain("the gripper's motor is overloaded and has shut off; reboot it")
            self.fail(["gripper"])

    def _command(self, i: int, mode: str, value: float) -> None:
        turning = "position" not in mode
        if not self.torque[i] or not np.isfinite(value) or turning != ("position" not in self.mode[JOINTS[i]]):
            return  # a motor that turns has no use for a goal position, nor one with a goal for a speed
        if mode == "linear_position":
            value = self._motor_angle(value)
        if turning:
            unit = {"velocity": 1.0, "pwm": FREE_SPEED / FULL_PWM, "current": FREE_SPEED / STALL_MA}[mode]
            self._drive[i] = value * unit
            return
        if mode != "ext_position" and not self._lower[i] <= value <= self._upper[i]:
            self._complain(f"{JOINTS[i]} does not go to {value:.3f} rad, its limits are "
                           f"{self._lower[i]:.3f} and {self._upper[i]:.3f}: ignored")  # fmt: skip
            return
        if value != self.goal[i]:
            self._from[i], self._since[i], self.goal[i] = self.setpoint[i], 0.0, value

    def _motor_angle(self, opening: float) -> float:
        """rad for a distance (m) between the two fingers."""
        return self.model.crank.angle(opening / 2) if self.model.crank else opening

    def _hold(self, i: int) -> None:
        self.setpoint[i] = self.goal[i] = self._from[i] = self._position[i]
        self._drive[i] = self._speed[i] = 0.0

    def _read(self, register: str, i: int) -> int:
        if register in self._registers:
            return int(self._registers[register][i])
        joint = JOINTS[i]
        values = {
            "Present_Position": 2048 + self._position[i] * 2048 / np.pi,
            "Goal_Position": 2048 + self.goal[i] * 2048 / np.pi,
            "Torque_Enable": self.torque[i],
            "Hardware_Error_Status": self._errors[i],
            "Operating_Mode": MODES[self.mode[joint]],
            "Drive_Mode": 4 * (self.profile[joint] == "time"),
            "Present_Temperature": WARM,
        }
        return round(float(values[register]))
