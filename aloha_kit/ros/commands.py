"""Command sequence of one arm: each command starts from the previous one, the first from the measured pose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.core import ArmModel, Clock, command_step, CommandLimiter
from aloha_kit.ros.readings import agreed_reading, Vector

Array = npt.NDArray[np.float64]

FOLLOWED = 0.2  # rad: an arm further than this from its last command, for so long, does not follow it
SETTLE_S = 1.0
FASTEST_HZ = 100.0  # moves send at 50 Hz, so a task with a very short period must not make their steps too large


class ArmCommands:
    """Last command of one arm, and the limit on the step to the next one.

    Args:
        topic: of its joint states; `parse` gives the (size,) target equivalent to a message.
        next_reading: waits for the next of them, and raises as `Arm.present`.
        rate_hz: of the commands: the largest step is the joints' top speed divided by this rate.
    """

    def __init__(
        self,
        who: str,
        model: ArmModel,
        topic: str,
        parse: Callable[[Any], Vector],
        next_reading: Callable[[], Vector],
        clock: Clock,
        *,
        rate_hz: float,
        timeout_s: float,
    ) -> None:
        self._who, self._model, self._topic, self._parse = who, model, topic, parse
        self._next_reading, self._clock, self._timeout_s = next_reading, clock, timeout_s
        rate_hz = min(rate_hz, FASTEST_HZ)
        self._limiter = CommandLimiter(command_step(model, rate_hz), rate_hz)

    @property
    def last(self) -> Array | None:
        """(size,) the last command; None before the first and after `forget`."""
        return self._limiter.last

    def start(self) -> Array:
        """(size,) start of the next command: the last command while the arm follows it, else the measured pose.

        Raises:
            RosError: nothing is published.
            ReadingError: no plausible readings.
        """
        if self.last is not None and not self._follows():
            self.forget()
        if self.last is None:
            pose = agreed_reading(
                self._topic, self._who, self._model, self._parse, self._clock, self._timeout_s
            ).astype(np.float64)
            joints = pose[: self._model.dof]  # a view
            joints[:] = np.clip(joints, self._model.lower, self._model.upper)  # a resting arm sags past its limits
            self._limiter.begin(pose)
        assert self.last is not None
        return self.last.copy()

    def limit(self, goal: npt.ArrayLike) -> Array:
        """(size,) `goal` limited to the largest step of a command. Raises as `start`, before the first command."""
        if self.last is None:
            self.start()
        return self._limiter.limit(goal, self._clock.now_ns())

    def sent(self, command: Array) -> None:
        """Record (size,) `command` as sent."""
        self._limiter.sent(command, self._clock.now_ns())

    def forget(self) -> None:
        """Discard the last command: the arm may have left it, since its torque was off or its driver ended."""
        self._limiter.forget()

    def _follows(self) -> bool:
        """Whether the joints are near the last command; the gripper need not be, it may hold an object."""
        assert self.last is not None
        end = self._clock.now_ns() + int(SETTLE_S * 1e9)
        while np.abs(self._next_reading() - self.last)[: self._model.dof].max() > FOLLOWED:
            if self._clock.now_ns() > end:
                return False
        return True
