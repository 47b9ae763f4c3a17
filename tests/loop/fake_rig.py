"""A two-joint rig that reaches each command at once: an environment for tests, with nothing to wait for."""

from __future__ import annotations

from typing import Any

import dm_env
import numpy as np
from dm_env import specs

from aloha_kit.core import aloha_limits, aloha_start, Contract, Environment, SafetyLimits

NAMES = ("left_waist", "left_gripper")
CONTRACT = Contract.of(NAMES, NAMES, {"top": (8, 10)}, rate_hz=50.0)


class FakeRig(Environment):
    """`episode_len` actions, reward k at step k; keeps every action it was sent in `sent`."""

    def __init__(self, episode_len: int = 5, *, fail_at: int | None = None, contract: Contract = CONTRACT) -> None:
        self.episode_len, self.fail_at, self._contract = episode_len, fail_at, contract
        self.sent: list[np.ndarray[Any, Any]] = []
        self.resets = 0
        self.qpos = np.zeros(len(contract.state_names), np.float32)
        self._step = 0

    @property
    def contract(self) -> Contract:
        return self._contract

    @property
    def max_reward(self) -> float:
        return float(self.episode_len)

    @property
    def limits(self) -> SafetyLimits:
        return aloha_limits(self.contract)

    @property
    def rest_action(self) -> Any:
        return aloha_start(self.contract)

    @property
    def simulated(self) -> bool:
        return True

    def observe(self) -> dict[str, Any]:
        stamp = 20_000_000 * (self._step + 1)
        return {
            "qpos": self.qpos.copy(),
            "images": {"top": np.full((8, 10, 3), self._step, np.uint8)},
            "stamps": {"qpos": stamp, "images/top": stamp, "deadline": stamp},
        }

    def reset(self) -> dm_env.TimeStep:
        self._step, self.resets = 0, self.resets + 1
        return dm_env.restart(self.observe())

    def step(self, action: Any) -> dm_env.TimeStep:
        if self._step == self.fail_at:
            raise OSError("the bus is gone")
        self._step += 1
        self.sent.append(np.array(action))
        self.qpos = np.array(action[: len(self.qpos)], np.float32)
        ended = self._step == self.episode_len
        return (dm_env.termination if ended else dm_env.transition)(float(self._step), self.observe())

    def observation_spec(self) -> dict[str, Any]:
        return {"qpos": specs.Array(self.qpos.shape, np.float32)}

    def action_spec(self) -> specs.Array:
        return specs.Array((len(self._contract.action_names),), np.float32)


class Constant:
    """The same action for ever."""

    def __init__(self, action: Any) -> None:
        self.action, self.resets = action, 0

    def reset(self) -> None:
        self.resets += 1

    def act(self, observation: Any) -> Any:
        return self.action
