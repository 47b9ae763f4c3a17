"""Motion profiles of Dynamixel motors: where a joint's own controller pulls to next, on the way to its goal.

Vectors are (size,), one entry a joint; `velocity` and `acceleration` are the registers Profile_Velocity and
Profile_Acceleration, whose units depend on the kind of profile.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aloha_kit.ros.sim_rig.control_table import ACCELERATION_UNIT, SPEED_UNIT

Vector = npt.NDArray[np.float64]
Registers = npt.NDArray[np.int64]


def by_time(start: Vector, goal: Vector, since: Vector, velocity: Registers, acceleration: Registers) -> Vector:
    """Position of a motion with a given duration (ms): ramps of constant acceleration at both ends.

    Args:
        start, goal: rad; since: s from the command on.
    """
    whole = np.maximum(velocity / 1e3, 1e-9)
    ramp = np.minimum(acceleration / 1e3, whole / 2)
    t = np.clip(since, 0.0, whole)
    top, soft = 1.0 / (whole - ramp), np.maximum(ramp, 1e-9)
    begin, end = top * t**2 / (2 * soft), 1.0 - top * (whole - t) ** 2 / (2 * soft)
    share = np.where(t < ramp, begin, np.where(t > whole - ramp, end, top * (t - ramp / 2)))
    return np.asarray(start + share * (goal - start))


def by_speed(
    setpoint: Vector, goal: Vector, speed: Vector, velocity: Registers, acceleration: Registers, seconds: float
) -> tuple[Vector, Vector]:
    """Position (rad) and speed after `seconds` of a motion with a top speed and an acceleration, 0 for none."""
    top, rise = velocity * SPEED_UNIT, acceleration * ACCELERATION_UNIT
    top, rise = np.where(top > 0, top, 1e6), np.where(rise > 0, rise, 1e9)
    left = goal - setpoint
    faster = np.minimum(np.minimum(top, speed + rise * seconds), np.sqrt(2 * rise * np.abs(left)))
    return np.asarray(setpoint + np.clip(left, -faster * seconds, faster * seconds)), np.asarray(faster)
