"""Simulated mobile base on a plane: driven by commands or pushed by the operator, with odometry."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]

COMMAND_S = 0.3  # a command is obeyed so long, then the base stops
TOP = np.array([1.6, 1.0])  # m/s, rad/s
RISE = np.array([1.5, 3.0])  # m/s², rad/s²


def push(seconds: float) -> Vector:
    """(2,) m/s, rad/s: velocity by which the operator pushes the base while doing the task."""
    return np.array([0.04 * np.sin(0.8 * seconds), 0.06 * np.sin(1.3 * seconds)])


class SimulatedBase:
    """Velocity (2,) in m/s forwards and rad/s to the left; pose (3,) x, y in m and heading in rad, from the start."""

    def __init__(self) -> None:
        self.velocity, self.pose = np.zeros(2), np.zeros(3)
        self._command, self._until = np.zeros(2), -np.inf

    def command(self, velocity: npt.ArrayLike, now: float) -> None:
        """Drive; holds for `COMMAND_S` from `now` (s)."""
        given = np.asarray(velocity, float)
        if given.shape == (2,) and np.all(np.isfinite(given)):
            self._command, self._until = np.clip(given, -TOP, TOP), now + COMMAND_S

    def advance(self, seconds: float, now: float, pushed: float | None) -> None:
        """Advance until `now`; `pushed` is how long the operator has done the task, None for not at all."""
        wanted = push(pushed) if pushed is not None else np.zeros(2)
        if now < self._until:
            wanted = self._command
        self.velocity = self.velocity + np.clip(wanted - self.velocity, -RISE * seconds, RISE * seconds)
        forward, turn = self.velocity * seconds
        heading = self.pose[2] + turn / 2
        self.pose = self.pose + (forward * np.cos(heading), forward * np.sin(heading), turn)
