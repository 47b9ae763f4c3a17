"""Control table of the arms' Dynamixel X motors: registers by name, their units and what they hold at first.

Names and units are those of the XM430 and XM540 (protocol 2), as `get_motor_registers` takes and gives them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aloha_kit.core.arm_models import ARM_JOINTS, ArmModel

JOINTS = (*ARM_JOINTS, "gripper")
GRIPPER = JOINTS.index("gripper")

SPEED_UNIT = 0.229 * 2 * np.pi / 60  # rad/s for 1 of Present_Velocity, Profile_Velocity and Velocity_Limit
ACCELERATION_UNIT = 214.577 * 2 * np.pi / 3600  # rad/s² for 1 of Profile_Acceleration
CURRENT_UNIT = 2.69  # mA for 1 of Present_Current, Goal_Current and Current_Limit
ANGLE_UNIT, MIDDLE = np.pi / 2048, 2048  # rad for 1 of Present_Position, which is 2048 at 0 rad
FULL_PWM = 885
XM430, XM540 = (1020, 1193), (1120, 2047)
"""(Model_Number, the Current_Limit that it comes with)."""
MOTORS = {"vx300s": (XM540,) * 5 + (XM430,) * 2, "wx250s": (XM430,) * len(JOINTS)}
"""{model: of each joint's motor}."""
IDS = (1, 2, 4, 6, 7, 8, 9)  # 3 and 5 turn with shoulder and elbow
COUNT = {"shoulder": 2, "elbow": 2}
"""Motors of a joint where it is more than one."""

READ_ONLY = (
    "Torque_Enable", "Hardware_Error_Status", "Operating_Mode", "Drive_Mode", "Moving", "Moving_Status", "Present_PWM",
    "Present_Current", "Present_Velocity", "Present_Position", "Velocity_Trajectory", "Position_Trajectory",
    "Present_Input_Voltage", "Present_Temperature", "Realtime_Tick", "Registered_Instruction", "Model_Number",
    "Firmware_Version", "ID", "Goal_Position",
)  # fmt: skip
"""Registers that follow from what the motor does; of these `Torque_Enable` and `Goal_Position` can be written."""

VOLTAGE, WARM, FIRMWARE = 120, 35, 46  # 0.1 V; degrees Celsius, constant; version


LOST = {
    "Profile_Velocity": 0, "Profile_Acceleration": 0, "Position_P_Gain": 800, "Position_I_Gain": 0,
    "Position_D_Gain": 0, "Feedforward_1st_Gain": 0, "Feedforward_2nd_Gain": 0, "Velocity_P_Gain": 100,
    "Velocity_I_Gain": 1920, "LED": 0, "Status_Return_Level": 2, "Bus_Watchdog": 0,
}  # fmt: skip
"""Registers that a reboot sets back to this."""

GOALS = {"Goal_Current": "Current_Limit", "Goal_PWM": "PWM_Limit", "Goal_Velocity": "Velocity_Limit"}
"""{register: its limit}: what motors turn or push with; lost in a reboot, set anew with the operating mode."""

DRIVEN = {"velocity": "Goal_Velocity", "pwm": "Goal_PWM", "current": "Goal_Current"}
"""{operating mode without a goal position: the register that it obeys}."""


class Registers:
    """Registers of an arm's joints that hold what was written: {name: (size,)}; others follow from the motion."""

    def __init__(self, model: ArmModel) -> None:
        self._kept = _kept(model)
        self._values = {**self._kept, **{name: np.full(model.size, value) for name, value in LOST.items()}}
        self._values |= {goal: self._kept[limit].copy() for goal, limit in GOALS.items()}

    def __getitem__(self, name: str) -> npt.NDArray[np.int64]:
        return self._values[name]

    def __contains__(self, name: str) -> bool:
        return name in self._values

    @property
    def names(self) -> set[str]:
        """All that can be read, `READ_ONLY` included."""
        return {*self._values, *READ_ONLY}

    def write(self, name: str, i: int, value: int, *, torque: bool) -> None:
        """Write as a motor accepts it: nothing beyond a limit, nothing into permanent memory under torque."""
        if name in GOALS:
            if abs(value) <= self._values[GOALS[name]][i]:
                self._values[name][i] = value
        elif name in LOST:
            self._values[name][i] = value
        elif name in self._kept and not torque:
            self._values[name][i] = value
            for goal, limit in GOALS.items():
                if limit == name:
                    self._values[goal][i] = min(self._values[goal][i], value)

    def reboot(self, i: int, mode: str) -> None:
        """Back to what is in permanent memory."""
        for name, value in LOST.items():
            self._values[name][i] = value
        self.begin(i, mode)

    def begin(self, i: int, mode: str) -> None:
        """An operating mode begins: its own goal is 0, the others are at their limits."""
        for goal, limit in GOALS.items():
            self._values[goal][i] = 0 if goal == DRIVEN.get(mode) else self._values[limit][i]

    def rest(self, i: int, mode: str) -> None:
        """Torque comes on: a motor without a goal position stands still."""
        if mode in DRIVEN:
            self._values[DRIVEN[mode]][i] = 0


def position_value(angle: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Register values of angles in rad."""
    return np.asarray(np.rint(MIDDLE + angle / ANGLE_UNIT), np.int64)


def _kept(model: ArmModel) -> dict[str, npt.NDArray[np.int64]]:
    """{register in permanent memory: (size,)}: it takes no value under torque, and a reboot leaves it."""
    lower, upper = position_value(np.array([*model.lower, -np.pi])), position_value(np.array([*model.upper, np.pi]))
    values = {
        "Min_Position_Limit": np.maximum(lower, 0), "Max_Position_Limit": np.minimum(upper, 4095),
        "Current_Limit": np.array([limit for _, limit in MOTORS[model.name]]), "Velocity_Limit": 131,
        "PWM_Limit": FULL_PWM, "Homing_Offset": 0, "Shutdown": 52, "Moving_Threshold": 10, "Temperature_Limit": 80,
        "Max_Voltage_Limit": 160, "Min_Voltage_Limit": 95, "Return_Delay_Time": 0, "Baud_Rate": 3, "Secondary_ID": 255,
    }  # fmt: skip
    return {name: np.full(model.size, value) for name, value in values.items()}
