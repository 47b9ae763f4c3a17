"""Leader arms as a policy: their joint positions are the followers' targets."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from aloha_kit.core import Action, Clock, Observation
from aloha_kit.sync.arm_readers import ArmReader
from aloha_kit.sync.readings import require_believable, retry_read, Vector
from aloha_kit.sync.soft_sync import SoftSync


class LeaderArms:
    """Teleoperation policy: the leaders' newest joints and, with a base, its observed velocity (2,).

    Attributes:
        arms: {name: leader} in the order of the action.
        stamps: {stream: ns} of the readings that the last action came from.
    """

    def __init__(
        self, arms: Mapping[str, ArmReader], sync: SoftSync, clock: Clock, *, base: bool, timeout_s: float
    ) -> None:
        self.arms = dict(arms)
        self.stamps: dict[str, int] = {}
        self._sync, self._clock, self._base, self._timeout_s = sync, clock, base, timeout_s

    def reset(self) -> None:
        """Do nothing: the policy has no state."""

    def act(self, observation: Observation) -> Action:
        """Action (A,) from the leaders' newest joint states.

        Raises:
            StreamError: a leader is silent, or its readings are invalid.
        """
        joints = [self.reading(name) for name in self.arms]
        if self._base:
            joints.append(observation["base_vel"])
        return np.concatenate(joints).astype(np.float32)

    def reading(self, name: str) -> Vector:
        """Follower target from one leader's newest reading; its stamp is stored. Raises as `act` does."""

        def read() -> Vector:
            sample = self._sync.newest(f"leader_{name}")
            arm = self.arms[name]
            require_believable(arm.name, arm.model, arm.leader_action, sample, self._sync, f"leader_{name}")
            target = arm.leader_action(sample.value)
            self.stamps[f"leader_{name}"] = sample.stamp_ns
            return target

        return retry_read(read, self._clock, self._timeout_s)
