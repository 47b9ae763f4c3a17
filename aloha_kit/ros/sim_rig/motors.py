"""Simulated motors of one Interbotix arm as their driver leaves them: modes, torque, registers, profiles, errors.

No ROS and no physics: commands come in, setpoints go out, and the caller gives the arm's position.
Positions are in rad, time in seconds. Register names and units are the Dynamixel X series'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from aloha_kit.core import AlohaKitError, did_you_mean
from aloha_kit.core.arm_models import ARM_JOINTS, ArmModel
from aloha_kit.ros.sim_rig import control_table as table
from aloha_kit.ros.sim_rig import profiles
from aloha_kit.ros.sim_rig.control_table import ANGLE_UNIT, CURRENT_UNIT, GRIPPER, JOINTS, SPEED_UNIT
from aloha_kit.sim.workcell import FINGER_METRES_PER_RADIAN, SERVOS

Vector = npt.NDArray[np.float64]

GROUPS: dict[str, tuple[str, ...]] = {"arm": ARM_JOINTS, "all": JOINTS}
MODES = {"current": 0, "velocity": 1, "position": 3, "linear_position": 3, "ext_position": 4,
         "current_based_position": 5, "pwm": 16}  # fmt: skip

FREE_SPEED = 4.8  # rad/s: a motor at full voltage and without a load
STALL_MA = 2300.0  # of a blocked motor at full PWM
FRICTION_MA = 20.0  # a motor that pushes less does not turn
MILLIAMPERE_PER_NEWTON_METRE = np.array([415.0, 208.0, 208.0, 415.0, 415.0, 561.0, 561.0])
"""Of each joint's motor: XM540 at 2.41 N m/A, two of them for shoulder and elbow, XM430 at 1.78 N m/A."""
STIFFNESS = np.array([SERVOS[joint].stiffness for joint in JOINTS])  # N m/rad
STIFFNESS[GRIPPER] *= FINGER_METRES_PER_RADIAN**2  # a finger's is in N/m
REBOOT_S = 1.0  # how long the driver sleeps for each motor that reboots
OVERLOAD = 0x20  # in Hardware_Error_Status
STRAIN, STRAIN_S = 0.3, 4.0  # a gripper's motor held off its goal by so much (rad), so long (s), shuts off
_STEADY = 0.15 * STIFFNESS * MILLIAMPERE_PER_NEWTON_METRE  # mA that a motor at a set speed pushes with at most


class RefusedError(AlohaKitError):
    """A request that the driver's service refuses."""


class Motors:
    """One bus.

    Attributes:
        setpoint: (size,) rad: where the motors' own controllers pull to, on the way to the goals.
        torque: (size,) bool.

    Args:
        position: (size,) rad: where the arm is.
        torque: whether its motors begin under torque, as a follower's do.
        warn: called with what the driver would log.
        reboot_s: how long the driver is blocked by each motor that reboots.
    """

    def __init__(
        self,
        model: ArmModel,
        position: Vector,
        *,
        torque: bool,
        warn: Callable[[str], None],
        reboot_s: float = REBOOT_S,
    ) -> None:
        self.model, self._warn, self._reboot_s = model, warn, reboot_s
        self.torque = np.full(model.size, torque)
        self.setpoint, self.goal = position.copy(), position.copy()
        self.mode = dict.fromkeys(JOINTS, "position")
        self.group_mode = {"arm": "position", "all": "position"}
        self.profile = dict.fromkeys((*JOINTS, *GROUPS), "velocity")
        self._registers = table.Registers(model)
        self._errors = np.zeros(model.size, int)
        self._position, self._velocity, self._effort = position.copy(), np.zeros(model.size), np.zeros(model.size)
        self._from, self._since, self._speed = position.copy(), np.zeros(model.size), np.zeros(model.size)
        self._strained, self._time = 0.0, 0.0
        self._rebooting: list[int] = []  # joints whose motors still have to; the first is at it
        self._rebooted: list[int] = []  # those that get torque when all are done
        self._reboot_left = 0.0  # s until the first one is through

    @property
    def stiffness(self) -> Vector:
        """(size,) share of the usual stiffness that the motors pull with: none without torque."""
        gain: Vector = self.torque * self._registers["Position_P_Gain"] / table.LOST["Position_P_Gain"]
        return gain

    @property
    def push(self) -> Vector:
        """(size,) mA that motors under torque pull with from where the arm is to their setpoints."""
        pull = (self.setpoint - self._position) * STIFFNESS * MILLIAMPERE_PER_NEWTON_METRE
        return np.where(self.torque, np.clip(pull, -STALL_MA, STALL_MA), 0.0)

    @property
    def rebooting(self) -> bool:
        """Whether the driver waits for motors to start: it reads, publishes and answers nothing meanwhile."""
        return bool(self._rebooting)

    # what the driver's services and topics do

    def joints(self, cmd_type: str, name: str) -> list[int]:
        """Indices of a "group" or "single" joint.

        Raises:
            RefusedError: there is no such thing; names the nearest.
        """
        if cmd_type not in {"group", "single"}:
            raise RefusedError("cmd_type must be 'group' or 'single', given '{cmd_type}'", cmd_type=cmd_type)
        known = GROUPS if cmd_type == "group" else {joint: (joint,) for joint in JOINTS}
        if name not in known:
            raise RefusedError(
                "no {cmd_type} '{name}'. {known}", cmd_type=cmd_type, name=name, known=did_you_mean(name, known)
            )
        return [JOINTS.index(joint) for joint in known[name]]

    def set_mode(self, cmd_type: str, name: str, mode: str, profile: str, velocity: int, acceleration: int) -> None:
        """Torque off, another mode, torque on; an unknown mode is logged, and torque comes on all the same."""
        indices = self.joints(cmd_type, name)
        self.enable(cmd_type, name, False)
        if mode not in MODES:
            self._warn(f"no operating mode '{mode}'. {did_you_mean(mode, MODES)}")
        else:
            for joint in (JOINTS[i] for i in indices):
                self.mode[joint], self.profile[joint] = mode, profile
            if "position" in mode and mode != "current_based_position":
                self._registers["Profile_Velocity"][indices] = velocity
            if mode not in {"pwm", "current", "current_based_position"}:
                self._registers["Profile_Acceleration"][indices] = acceleration
            for i in indices:
                self._registers.begin(i, self.mode[JOINTS[i]])
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
        """Begin to clear errors and what a motor does not keep, one motor after the other; then torque, if requested.

        It takes time (`advance`), a second for each motor: 9 s for all of an arm.
        """
        self._rebooting = [i for i in self.joints(cmd_type, name) if self._errors[i] or not only_failed]
        self._rebooted = list(self._rebooting) if on else []
        self._reboot_left = 0.0
        self._begin_reboot()

    def set_register(self, cmd_type: str, name: str, register: str, value: int) -> None:
        """Write; where the motor does not take it, the driver reports nothing."""
        for i in self.joints(cmd_type, name):
            if register == "Torque_Enable":
                self.enable("single", JOINTS[i], bool(value))
            elif register == "Goal_Position":
                self._go(i, (value - table.MIDDLE) * ANGLE_UNIT)
            else:
                self._registers.write(register, i, value, torque=bool(self.torque[i]))

    def get_register(self, cmd_type: str, name: str, register: str) -> list[int]:
        """Values of the joints; none where there is no such register (names are case-sensitive)."""
        indices = self.joints(cmd_type, name)
        if register not in self._registers.names:
            self._warn(f"no register '{register}'. {did_you_mean(register, self._registers.names)}")
            return []
        return [self._read(register, i) for i in indices]

    def set_gains(self, cmd_type: str, name: str, gains: dict[str, int]) -> None:
        """Position, feed-forward and velocity gains, by register."""
        for i in self.joints(cmd_type, name):
            for register, value in gains.items():
                self._registers[register][i] = value

    def command_group(self, name: str, values: Sequence[float]) -> None:
        """Execute `commands/joint_group`: all joints of a group in the group's mode, or nothing."""
        if name not in GROUPS:
            self._warn(f"no group '{name}'. {did_you_mean(name, GROUPS)}")
        elif len(values) != len(GROUPS[name]):
            self._warn(f"group '{name}' has {len(GROUPS[name])} joints, {len(values)} commands are not executed")
        else:
            for joint, value in zip(GROUPS[name], values, strict=True):
                self._command(JOINTS.index(joint), self.group_mode[name], value)

    def command_single(self, name: str, value: float) -> None:
        """Execute `commands/joint_single`."""
        if name not in JOINTS:
            self._warn(f"no joint '{name}'. {did_you_mean(name, JOINTS)}")
        else:
            self._command(JOINTS.index(name), self.mode[name], value)

    def fail(self, joints: Sequence[str]) -> None:
        """Shut motors off by overload; only a reboot brings them back."""
        for i in map(JOINTS.index, joints):
            self._errors[i], self.torque[i] = OVERLOAD, False

    def settle(self, position: Vector) -> None:
        """The arm was put to `position` (size,) rad: hold it there."""
        self._position = position.copy()
        for i in range(len(JOINTS)):
            self._hold(i)

    # what time does

    def advance(
        self, seconds: float, position: Vector, velocity: Vector | None = None, effort: Vector | None = None
    ) -> None:
        """Move the setpoints as the motors' profiles do; the arm is at `position` (size,) rad now.

        Args:
            velocity, effort: (size,) rad/s and mA that the motors measure; at rest by default.
        """
        self._position = position.copy()
        self._velocity = np.zeros(self.model.size) if velocity is None else velocity.copy()
        self._effort = np.zeros(self.model.size) if effort is None else effort.copy()
        self._time += seconds
        self._reboot(seconds)
        self._since += seconds
        timed = np.array([self.profile[joint] == "time" for joint in JOINTS])
        turning = np.array(["position" not in self.mode[joint] for joint in JOINTS])
        top, rise = self._registers["Profile_Velocity"], self._registers["Profile_Acceleration"]
        arriving = profiles.by_time(self._from, self.goal, self._since, top, rise)
        nearing, self._speed = profiles.by_speed(self.setpoint, self.goal, self._speed, top, rise, seconds)
        goal = np.where(timed, arriving, nearing)
        rate, strength = self._turn()
        # a motor that is held back pulls no harder than its current: its setpoint waits so far ahead of it
        ahead = strength / (STIFFNESS * MILLIAMPERE_PER_NEWTON_METRE)
        one_way = np.array([self.mode[joint] in {"pwm", "current"} for joint in JOINTS])
        low = position - np.where(one_way & (rate >= 0), 0.0, ahead)
        high = position + np.where(one_way & (rate <= 0), 0.0, ahead)
        wanted = np.clip(np.where(turning, self.setpoint + rate * seconds, goal), low, high)
        self.setpoint = np.where(self.torque, wanted, position)
        self._overload(seconds)

    def _turn(self) -> tuple[Vector, Vector]:
        """(size,) rad/s that motors turn at where nothing holds them, and (size,) mA that they push with at most."""
        rate, strength = np.zeros(self.model.size), np.full(self.model.size, np.inf)
        for i, joint in enumerate(JOINTS):
            mode = self.mode[joint]
            if mode == "velocity":
                rate[i], strength[i] = self._registers["Goal_Velocity"][i] * SPEED_UNIT, _STEADY[i]
            elif mode == "pwm":
                duty = self._registers["Goal_PWM"][i] / table.FULL_PWM
                rate[i], strength[i] = FREE_SPEED * duty, STALL_MA * abs(duty)
            elif mode == "current":
                current = self._registers["Goal_Current"][i] * CURRENT_UNIT
                strength[i] = abs(current)
                if strength[i] > FRICTION_MA:
                    rate[i] = np.sign(current) * FREE_SPEED * max(0.1, 1 - strength[i] / STALL_MA)
            elif mode == "current_based_position":
                strength[i] = abs(self._registers["Goal_Current"][i]) * CURRENT_UNIT
        return rate, strength

    def _reboot(self, seconds: float) -> None:
        self._reboot_left -= seconds
        while self._rebooting and self._reboot_left <= 0:
            self._rebooting.pop(0)
            self._begin_reboot()
            if not self._rebooting:
                for i in self._rebooted:
                    self.enable("single", JOINTS[i], True)

    def _begin_reboot(self) -> None:
        """The first joint of those that reboot: its motors are off from now on."""
        if not self._rebooting:
            return
        i = self._rebooting[0]
        self._reboot_left += self._reboot_s * table.COUNT.get(JOINTS[i], 1)
        self._errors[i], self.torque[i] = 0, False
        self._registers.reboot(i, self.mode[JOINTS[i]])

    def _overload(self, seconds: float) -> None:
        """A gripper in position control pushes with all it has, and shuts off when that lasts."""
        pushing = self.torque[GRIPPER] and self.mode["gripper"] in {"position", "linear_position", "ext_position"}
        strain = abs(self.goal[GRIPPER] - self._position[GRIPPER]) > STRAIN
        self._strained = self._strained + seconds if pushing and strain else 0.0
        if self._strained > STRAIN_S:
            self._warn("the gripper's motor is overloaded and has shut off; reboot it")
            self.fail(["gripper"])

    def _command(self, i: int, mode: str, value: float) -> None:
        turning = "position" not in mode
        if not self.torque[i] or not np.isfinite(value) or turning != ("position" not in self.mode[JOINTS[i]]):
            return  # a motor that turns has no use for a goal position, nor one with a goal for a speed
        if turning:
            unit = {"velocity": SPEED_UNIT, "pwm": 1.0, "current": CURRENT_UNIT}[mode]
            self.set_register("single", JOINTS[i], table.DRIVEN[mode], round(value / unit))
        else:
            self._go(i, self._motor_angle(value) if mode == "linear_position" else value)

    def _go(self, i: int, angle: float) -> None:
        """A goal position in rad, within the limits."""
        low, high = self._registers["Min_Position_Limit"][i], self._registers["Max_Position_Limit"][i]
        value = round(table.MIDDLE + angle / ANGLE_UNIT)
        if self.mode[JOINTS[i]] != "ext_position" and not low - 1 <= value <= high + 1:
            lower, upper = ((limit - table.MIDDLE) * ANGLE_UNIT for limit in (low, high))
            self._warn(
                f"{JOINTS[i]} does not go to {angle:.3f} rad, its limits are {lower:.3f} and {upper:.3f}: ignored"
            )
        elif angle != self.goal[i]:
            self._from[i], self._since[i], self.goal[i] = self.setpoint[i], 0.0, angle

    def _motor_angle(self, opening: float) -> float:
        """rad for a distance (m) between the two fingers."""
        return self.model.crank.angle(opening / 2) if self.model.crank else opening

    def _hold(self, i: int) -> None:
        self.setpoint[i] = self.goal[i] = self._from[i] = self._position[i]
        self._speed[i] = 0.0
        self._registers.rest(i, self.mode[JOINTS[i]])

    def _read(self, register: str, i: int) -> int:
        if register in self._registers:
            return int(self._registers[register][i])
        joint = JOINTS[i]
        moving = abs(self._velocity[i]) > self._registers["Moving_Threshold"][i] * SPEED_UNIT
        values = {
            "Present_Position": table.MIDDLE + self._position[i] / ANGLE_UNIT,
            "Position_Trajectory": table.MIDDLE + self.setpoint[i] / ANGLE_UNIT,
            "Goal_Position": table.MIDDLE + self.goal[i] / ANGLE_UNIT,
            "Present_Velocity": self._velocity[i] / SPEED_UNIT,
            "Velocity_Trajectory": self._velocity[i] / SPEED_UNIT,
            "Present_Current": self._effort[i] / CURRENT_UNIT,
            "Present_PWM": np.clip(self._effort[i] / STALL_MA, -1, 1) * table.FULL_PWM,
            "Moving": moving,
            "Moving_Status": int(moving) << 1 | (abs(self.goal[i] - self._position[i]) < 0.02),
            "Torque_Enable": self.torque[i],
            "Hardware_Error_Status": self._errors[i],
            "Operating_Mode": MODES[self.mode[joint]],
            "Drive_Mode": 4 * (self.profile[joint] == "time"),
            "Present_Temperature": table.WARM,
            "Present_Input_Voltage": table.VOLTAGE,
            "Realtime_Tick": self._time * 1e3 % 32768,
            "Registered_Instruction": 0,
            "Model_Number": table.MOTORS[self.model.name][i][0],
            "Firmware_Version": table.FIRMWARE,
            "ID": table.IDS[i],
        }
        return round(float(values[register]))
