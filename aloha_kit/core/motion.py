"""Largest distance of a command from the one before it, for every sender and every clock."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aloha_kit.core.arm_models import ArmModel
from aloha_kit.core.lang import Message

Array = npt.NDArray[np.float64]

GRIPPER_SPEED = 10.0
"""Openings per second of a gripper's command. Its force is limited by the motor's current, so this only keeps a
command from jumping through the whole range in one step."""

BASE_ACCELERATION = (1.0, 2.0)
"""m/s² and rad/s² of a mobile base's command."""

_ROUNDING = 1e-6  # commands pass through 32-bit floats


def command_step(model: ArmModel, rate_hz: float) -> Array:
    """(size,) the largest change of each joint (rad) and gripper (openings) from one command to the next."""
    return model.vector(model.velocity, GRIPPER_SPEED) / rate_hz


class CommandLimiter:
    """Keeps each command within one step of the one before it, and commands that come in a burst within two.

    In any time w the commands that pass move an entry by at most `2 step + w step rate_hz`. Commands at `rate_hz`
    pass unchanged even where each is late or early by up to a period.

    Args:
        step: (N,) the largest change of each entry in one command.
        rate_hz: how often a command may change by so much.

    Attributes:
        last: (N,) the last command; None before the first, and where what was commanded no longer holds.
    """

    def __init__(self, step: npt.ArrayLike, rate_hz: float) -> None:
        self.step, self._rate_hz = np.asarray(step, np.float64), rate_hz
        self.last: Array | None = None
        self._room, self._then_ns = 2 * self.step, 0

    def begin(self, pose: npt.ArrayLike) -> None:
        """(N,) where the next command starts from."""
        self.last = np.array(pose, np.float64)
        self._room = 2 * self.step

    def forget(self) -> None:
        """Forget the last command: `begin` comes before the next one."""
        self.last = None

    def limit(self, target: npt.ArrayLike, now_ns: int) -> Array:
        """(N,) as far towards `target` as a command may go now; changes nothing.

        Raises:
            ValueError: before `begin`.
        """
        if self.last is None:
            raise ValueError(Message("no command to start from: call begin with the pose that the arm is in"))
        goal = np.asarray(target, np.float64)
        way, reach = goal - self.last, np.minimum(self.step, self._room_at(now_ns))
        return np.where(np.abs(way) > reach + _ROUNDING, self.last + np.sign(way) * reach, goal)

    def sent(self, command: npt.ArrayLike, now_ns: int) -> None:
        """(N,) `command` was sent."""
        given = np.array(command, np.float64)
        room = self._room_at(now_ns)
        self._room = np.maximum(0.0, room - np.abs(given - self.last)) if self.last is not None else room
        self.last, self._then_ns = given, now_ns

    def _room_at(self, now_ns: int) -> Array:
        """(N,) what a burst may still move."""
        elapsed_s = max(0, now_ns - self._then_ns) / 1e9  # simulated time may start again
        return np.minimum(2 * self.step, self._room + self.step * self._rate_hz * elapsed_s)
