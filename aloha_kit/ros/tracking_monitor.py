"""Tracking monitor of a follower: detects motors that have shut off, which the driver does not report."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aloha_kit.core import ArmModel, SafetyError

JOINT_FAR = 0.5  # rad: further than a servo is pushed off its goal, or lags behind a fast command for long
GRIPPER_FAR = 0.3  # opening: an object between the fingers holds them off as well, but then the motor pushes
IDLE_MA = 10.0
NONE_MA = 3.0  # a motor without torque measures no current, or one unit of it
LASTING_S = 1.0
SLACK_S = 0.1
"""An arm that falls for this long (s) drops by about 10 cm."""


class TrackingMonitor:
    """Tracking monitor of one follower.

    Args:
        who: its name in errors.
        model: its arm model.
        milliamperes: whether efforts are currents of the motors. A gripper that is off its goal without a
            current has shut off, usually from overload; otherwise grippers are not monitored.
    """

    def __init__(self, who: str, model: ArmModel, *, milliamperes: bool) -> None:
        self._who, self._model, self._milliamperes = who, model, milliamperes
        self.reset()

    def reset(self) -> None:
        """Reset the monitor: the arm was prepared again."""
        self._since_ns: npt.NDArray[np.int64] = np.full(self._model.size, -1, np.int64)
        self._slack_ns, self._reported = -1, False

    def slack(self, effort: npt.ArrayLike | None, now_ns: int) -> bool:
        """Whether no joint has drawn a current for `SLACK_S`; true once, until one draws some again.

        Its torque was switched off, or it is at rest where nothing has to be held: the driver reports which.
        """
        if not self._milliamperes or effort is None or np.any(np.abs(np.asarray(effort)[: self._model.dof]) > NONE_MA):
            self._slack_ns, self._reported = -1, False
            return False
        self._slack_ns = now_ns if self._slack_ns < 0 else self._slack_ns
        before, self._reported = self._reported, now_ns - self._slack_ns >= SLACK_S * 1e9
        return self._reported and not before

    def check(self, target: npt.ArrayLike, qpos: npt.ArrayLike, effort: npt.ArrayLike | None, now_ns: int) -> None:
        """Compare the command with the observation, each (size,); without efforts grippers are not monitored.

        Raises:
            SafetyError: a joint has been off its command for `LASTING_S`; names it, and how far.
        """
        residual = np.abs(np.asarray(target, np.float64) - np.asarray(qpos, np.float64))
        off, dof = residual > self._model.vector(JOINT_FAR, GRIPPER_FAR), self._model.dof
        idle = self._milliamperes and effort is not None and np.abs(np.asarray(effort, np.float64)[dof:]) < IDLE_MA
        off[dof:] &= idle
        self._since_ns = np.where(off, np.where(self._since_ns < 0, now_ns, self._since_ns), -1)
        lasting = off & (now_ns - self._since_ns >= LASTING_S * 1e9)
        if not lasting.any():
            return
        joint = int(np.argmax(lasting))
        name = self._model.names[joint]
        what = (
            f"its {name} is {residual[joint]:.2f} of its opening from its command and draws no current: the motor has "
            "shut off, usually from overload. The next reset reboots it"
            if joint >= dof
            else f"{name} is {residual[joint]:.2f} rad from its command for {LASTING_S:g} s. "
            "Has its torque gone, or is something in its way?"
        )
        raise SafetyError("{arm} does not follow: {what}", arm=self._who, what=what)
