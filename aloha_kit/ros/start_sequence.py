"""Start sequence of an episode with leader arms: start pose, closed grippers, a countdown, torque off.

Recording and teleoperation pass it to `RosEnv`, which runs it in `reset` once the followers are at their start pose.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from aloha_kit.core.lang import Message, tr
from aloha_kit.ros.node import RosError
from aloha_kit.ros.ros_robot import RosRobot

POLL_S = 0.01
"""Period at which grippers and operator are polled while waiting."""

HALF_OPEN = 0.5
"""Opening of the leaders' grippers at the start pose: closing them starts the episode."""


def _no_display(state: str, message: str) -> None:
    """No operator to inform."""


def _no_command() -> str | None:
    """No operator to give one."""
    return None


class StartSequence:
    """Start sequence: leaders to the start pose, wait until both grippers are closed, count down, release the leaders.

    The leaders stay locked until the last moment, so the first action is the pose that the followers are
    in. Where the leaders drive the followers themselves (`teleop: hardware`) nothing is moved, and the command
    "start" begins the countdown.

    Args:
        status: called with a state ("starting", "waiting", "countdown") and a message for the operator.
        poll: called every `POLL_S`; "start" replaces closing the grippers. What it raises (`StopEpisode`, for
            example) ends the sequence with the leaders locked.
        countdown_s: whole seconds between closing the grippers and the first step.
        move_s: duration of the leaders' move to the start pose.
        timeout_s: wait no longer than this for the grippers to close; None waits without limit.
    """

    def __init__(
        self,
        *,
        status: Callable[[str, str], None] = _no_display,
        poll: Callable[[], str | None] = _no_command,
        countdown_s: float = 2.0,
        move_s: float = 1.5,
        timeout_s: float | None = None,
    ) -> None:
        if countdown_s < 0 or not move_s > 0:
            raise ValueError(
                Message(
                    "need countdown_s ≥ 0 and move_s > 0, given {countdown_s} and {move_s}",
                    countdown_s=countdown_s,
                    move_s=move_s,
                )
            )
        self._status, self._poll = status, poll
        self._countdown_s, self._move_s, self._timeout_s = countdown_s, move_s, timeout_s

    def __call__(self, robot: RosRobot) -> None:
        """Run the sequence; on return the leaders are free to move.

        Raises:
            SafetyError: the emergency stop is pressed, or another node commands the followers; the leaders stay
                locked.
            StreamError: a leader's joint states are silent.
            RosError: the grippers were not closed within `timeout_s`.
        """
        by_hand = robot.leaders is not None and robot.rig.teleop == "software"
        if by_hand:
            self._status("starting", tr("the leaders move to the start pose"))
            self._lock(robot)
            self._status("waiting", tr("close both leader grippers to begin"))
        else:
            self._status("waiting", tr("enter start when the leaders are where the episode begins"))
        self._wait(robot, gesture=by_hand)
        self._count_down(robot)
        if by_hand:
            for arm in robot.leader_arms.values():
                arm.set_torque(False)

    def _lock(self, robot: RosRobot) -> None:
        for arm in robot.leader_arms.values():
            arm.prepare_leader()
        robot.move(
            {arm: arm.model.vector(arm.model.start, HALF_OPEN) for arm in robot.leader_arms.values()}, self._move_s
        )
        for arm in robot.leader_arms.values():
            arm.set_torque(False, "gripper")

    def _wait(self, robot: RosRobot, *, gesture: bool) -> None:
        began = robot.clock.now_ns()
        while self._polled(robot) != "start" and not (
            gesture and all(self._closed(robot, name) for name in robot.leader_arms)
        ):
            waited = (robot.clock.now_ns() - began) / 1e9
            if self._timeout_s is not None and waited > self._timeout_s:
                raise RosError("the leader grippers were not both closed within {seconds:g} s", seconds=self._timeout_s)
            robot.clock.sleep_until(robot.clock.now_ns() + int(POLL_S * 1e9))

    def _polled(self, robot: RosRobot) -> str | None:
        robot.estop.require_released()
        robot.require_alone()
        return self._poll()

    def _closed(self, robot: RosRobot, name: str) -> bool:
        model = robot.leader_arms[name].model
        angles = model.gripper.unnormalise(robot.leader_action(name)[model.dof :]).astype(np.float64)
        return bool(len(angles) and (angles < robot.rig.gripper_closed_to_start).all())

    def _count_down(self, robot: RosRobot) -> None:
        end = robot.clock.now_ns() + int(self._countdown_s * 1e9)
        shown = -1
        while (left := end - robot.clock.now_ns()) > 0:
            if (seconds := math.ceil(left / 1e9)) != shown:
                self._status("countdown", str(shown := seconds))
            self._polled(robot)
            robot.clock.sleep_until(min(end, robot.clock.now_ns() + int(POLL_S * 1e9)))
