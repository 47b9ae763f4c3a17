"""How an episode begins when a person holds the leaders: start pose, closed grippers, a countdown, torque off.

Recording and teleoperation open in the same way, so the way lives here and they hand it to `RosEnv`,
which runs it in `reset` once the followers stand at their start pose.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from aloha_kit.ros.node import RosError

if TYPE_CHECKING:
    from aloha_kit.ros.environment import RosEnv

POLL_S = 0.01
"""How often grippers and operator are looked at while waiting."""

HALF_OPEN = 0.5
"""Where the leaders' grippers wait: closing them is then a gesture."""


def _silent(state: str, words: str) -> None:
    """Nobody is told."""


def _nothing() -> str | None:
    """No operator."""
    return None


class Opening:
    """Leaders to the start pose, wait for both grippers to be closed, count down, let the leaders go.

    The leaders stay locked until the last moment, so the first action is the pose that the followers are
    in. Where the leaders drive the followers themselves (`teleop: hardware`) nothing is moved: the
    operator is told, and the countdown runs.

    Args:
        tell: called with a state ("starting", "waiting", "countdown") and words for the operator.
        poll: called all the time; "start" stands for the gesture. Whatever it raises (`StopEpisode`,
            say) ends the opening with the leaders locked.
        countdown_s: whole seconds between gesture and go.
        move_s: how long the leaders take to the start pose.
        timeout_s: wait no longer than this for the gesture; None waits for ever.
    """

    def __init__(
        self,
        *,
        tell: Callable[[str, str], None] = _silent,
        poll: Callable[[], str | None] = _nothing,
        countdown_s: float = 2.0,
        move_s: float = 1.5,
        timeout_s: float | None = None,
    ) -> None:
        if countdown_s < 0 or not move_s > 0:
            raise ValueError(f"need countdown_s ≥ 0 and move_s > 0, given {countdown_s} and {move_s}")
        self._tell, self._poll = tell, poll
        self._countdown_s, self._move_s, self._patience_s = countdown_s, move_s, timeout_s

    def __call__(self, env: RosEnv) -> None:
        """Run the opening; on return the leaders are the operator's.

        Raises:
            SafetyError: the emergency stop is pressed, or another node commands the followers; the leaders are
                not let go.
            StreamError: a leader's joint states have gone quiet.
            RosError: nobody closed the grippers within `timeout_s`.
        """
        by_hand = env.leaders is not None and env.rig.teleop == "software"
        if by_hand:
            self._tell("starting", "the leaders move to the start pose")
            self._lock(env)
            self._tell("waiting", "close both leader grippers to begin")
            self._wait(env)
        self._count_down(env)
        if by_hand:
            for arm in env.leader_arms.values():
                arm.torque(False)

    def _lock(self, env: RosEnv) -> None:
        for arm in env.leader_arms.values():
            arm.prepare_leader()
        env.move({arm: arm.model.vector(arm.model.start, HALF_OPEN) for arm in env.leader_arms.values()}, self._move_s)
        for arm in env.leader_arms.values():
            arm.torque(False, "gripper")

    def _wait(self, env: RosEnv) -> None:
        began = env.clock.now_ns()
        while self._polled(env) != "start" and not all(self._closed(env, name) for name in env.leader_arms):
            waited = (env.clock.now_ns() - began) / 1e9
            if self._patience_s is not None and waited > self._patience_s:
                raise RosError(f"the leader grippers were not both closed within {self._patience_s:g} s")
            env.clock.sleep_until(env.clock.now_ns() + int(POLL_S * 1e9))

    def _polled(self, env: RosEnv) -> str | None:
        env.estop.require_released()
        env.require_alone()
        return self._poll()

    def _closed(self, env: RosEnv, name: str) -> bool:
        model = env.leader_arms[name].model
        angles = model.gripper.unnormalise(env.leader_action(name)[model.dof :]).astype(np.float64)
        return bool(len(angles) and (angles < env.rig.gripper_closed_to_start).all())

    def _count_down(self, env: RosEnv) -> None:
        end = env.clock.now_ns() + int(self._countdown_s * 1e9)
        said = -1
        while (left := end - env.clock.now_ns()) > 0:
            if (seconds := math.ceil(left / 1e9)) != said:
                self._tell("countdown", str(said := seconds))
            self._polled(env)
            env.clock.sleep_until(min(end, env.clock.now_ns() + int(POLL_S * 1e9)))
