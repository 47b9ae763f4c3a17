"""Joint targets of every control step from a script of waypoints."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pyquaternion import Quaternion

from aloha_kit.core import START_ARM_POSE, VX300S
from aloha_kit.sim.kinematics import Kinematics, Pose
from aloha_kit.sim.scripts import Script, Waypoint
from aloha_kit.sim.workcell import arm_rows, ARMS, BASE_X, BASE_Y, START_GRIPPER

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Stop:
    """A waypoint with the joint angles that reach it."""

    waypoint: Waypoint
    joints: Array  # (dof,) rad


class Planner:
    """Motions of least jerk between waypoints, and the joint targets that make them.

    A straight motion is followed in space, with inverse kinematics at every step. The others are
    straight in joint space: they carry nothing, and on the way from the start pose to a grasp the wrist
    stretches, where a path in space would spin the forearm.

    Args:
        rate_hz: control steps a second; scripts are in seconds, so any rate will do.
    """

    def __init__(self, rate_hz: float) -> None:
        self._rate = rate_hz
        self._kinematics = Kinematics()

    def actions(self, script: Script, steps: int) -> npt.NDArray[np.float32]:
        """(steps, A) normalised joint targets, gravity made up for.

        Raises:
            ValueError: a waypoint that the arms cannot reach.
        """
        lines = self.joints(script, steps)
        actions = np.zeros((steps, len(ARMS) * VX300S.size), np.float32)
        for step in range(steps):
            joints = {arm: line[step, :-1] for arm, line in lines.items()}
            sag = self._kinematics.sag(joints)
            for i, arm in enumerate(ARMS):
                target = np.clip(joints[arm] + sag[arm], VX300S.lower, VX300S.upper)
                actions[step, arm_rows(i)] = [*target, lines[arm][step, -1]]
        return actions

    def joints(self, script: Script, steps: int) -> dict[str, Array]:
        """{arm: (steps, size)} joint angles and gripper opening; row k is where it should be one period after step k.

        Raises:
            ValueError: as `actions`.
        """
        return {arm: self._joints(arm, self._stops(arm, waypoints), steps) for arm, waypoints in script.arms.items()}

    def _stops(self, arm: str, waypoints: tuple[Waypoint, ...]) -> list[_Stop]:
        start = START_ARM_POSE.astype(float)
        opening = float(VX300S.finger.normalise(START_GRIPPER))
        stops = [_Stop(Waypoint(0.0, self._kinematics.forward(arm, start), opening), start)]
        for waypoint in waypoints:
            guess = stops[-1].joints if len(stops) > 1 else _elbow_up(arm, waypoint)
            stops.append(_Stop(waypoint, self._kinematics.inverse(arm, waypoint.pose, guess)))
        return stops

    def _joints(self, arm: str, stops: list[_Stop], steps: int) -> Array:
        line, joints = np.zeros((steps, VX300S.size)), stops[0].joints
        for step in range(steps):
            time = (step + 1) / self._rate
            index = next((i for i, stop in enumerate(stops) if time < stop.waypoint.time), len(stops))
            after = stops[min(index, len(stops) - 1)]
            before = stops[min(index, len(stops)) - 1]
            span = after.waypoint.time - before.waypoint.time
            s = least_jerk((time - before.waypoint.time) / span) if span > 0 else 1.0
            if after.waypoint.straight and 0.0 < s < 1.0:
                joints = self._kinematics.inverse(arm, _between(before.waypoint.pose, after.waypoint.pose, s), joints)
            else:
                joints = before.joints + s * (after.joints - before.joints)
            grip = before.waypoint.gripper + s * (after.waypoint.gripper - before.waypoint.gripper)
            line[step] = [*joints, grip]
        return line


def _elbow_up(arm: str, waypoint: Waypoint) -> Array:
    """Joint angles near a first waypoint, on the side of the wrist that its pitch needs."""
    x, y, _ = waypoint.pose.position
    side = -1.0 if arm == "left" else 1.0
    waist = np.arctan2(-side * (y - BASE_Y), BASE_X - side * x)
    turn = waypoint.pose.turn
    down = np.arcsin(np.clip(-turn.rotate(np.array([1.0, 0.0, 0.0]))[2], -1.0, 1.0))
    out = turn.rotate(np.array([0.0, 1.0, 0.0]))
    roll = np.arctan2(out[2], -side * out[1])
    return np.array([waist, -0.5, 0.9, 0.0, down - 0.4, roll])


def least_jerk(share: float) -> float:
    """Progress 0 to 1 at a share of a motion's time, at rest at both ends (Flash and Hogan 1985)."""
    s = min(max(share, 0.0), 1.0)
    return s**3 * (10.0 - 15.0 * s + 6.0 * s**2)


def _between(before: Pose, after: Pose, s: float) -> Pose:
    """The pose at a share `s` of the straight way between two."""
    position = before.position + s * (after.position - before.position)
    return Pose(position, Quaternion.slerp(before.turn, after.turn, s))
