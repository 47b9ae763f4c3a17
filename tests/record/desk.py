"""A rig on the desk: no ROS, time that passes only when somebody waits, an operator with a script."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import dm_env
import numpy as np

from aloha_kit.config import RigConfig, TaskConfig
from aloha_kit.config.rig import ArmConfig
from aloha_kit.core import aloha_limits, aloha_start, Contract, Environment, SafetyLimits, VirtualClock, VX300S
from aloha_kit.loop import Latch, SafetyGuard
from aloha_kit.record.conversation import Conversation
from aloha_kit.record.gesture import Squeezes
from aloha_kit.record.plan import Plan
from aloha_kit.record.screen import Cues, Screen
from aloha_kit.record.session import Session

NAMES = ("left_waist", "left_gripper", "right_waist", "right_gripper")
CONTRACT = Contract(NAMES, NAMES, {"cam_high": (8, 10)}, rate_hz=50.0)
TASK = TaskConfig("stack", "stack the cubes", rig="bench", episode_len=10, cameras=("cam_high",))
RIG = RigConfig("bench", "ros", {}, followers={"left": ArmConfig(name="a"), "right": ArmConfig(name="b")})


class Leaders:
    """Says what a function of the step says; half open, at rest by default."""

    def __init__(self) -> None:
        self.step = 0
        self.path: Callable[[int], Sequence[float]] = lambda step: (0.0, 0.5, 0.0, 0.5)

    def reset(self) -> None:
        self.step = 0

    def act(self, observation: Any) -> Any:
        self.step += 1
        return np.array(self.path(self.step), np.float32)


class Arm:
    def __init__(self) -> None:
        self.locked = True

    def set_torque(self, on: bool, part: str = "all") -> None:
        self.locked = on


class Desk(Environment):
    """What a session needs of a `RosEnv`. `faults[k]` is raised by step k of the rig's life, once."""

    def __init__(self, *, episode_len: int = 10, max_reward: float = 0.0, simulated: bool = False) -> None:
        self.clock = VirtualClock(1_000_000_000)
        self.leaders = Leaders()
        self.leader_arms = {"left": Arm(), "right": Arm()}
        self.listens_only = False
        self._simulated, self.arm_model = simulated, VX300S
        self.streams = SimpleNamespace(sync=SimpleNamespace(health=dict))
        self.opening: Callable[[Any], None] = lambda env: None
        self.episode_len, self._max_reward = episode_len, max_reward
        self.rewards: list[float] = []  # of the last step of each episode
        self.seeds: list[int] = []
        self.faults: dict[int, BaseException] = {}
        self.estop = Latch()
        self.steps = self.parked = self.resets = 0
        self._step = 0

    @property
    def contract(self) -> Contract:
        return CONTRACT

    @property
    def max_reward(self) -> float:
        return self._max_reward

    @property
    def limits(self) -> SafetyLimits:
        return aloha_limits(self.contract)

    @property
    def rest_action(self) -> Any:
        return aloha_start(self.contract)

    @property
    def simulated(self) -> bool:
        return self._simulated

    def seed(self, seed: int) -> None:
        self.seeds.append(seed)

    def describe(self) -> dict[str, Any]:
        return {"rig": "bench"}

    def require_alone(self) -> None:
        """Nobody else commands it."""

    def reset(self) -> dm_env.TimeStep:
        self.resets += 1
        self.opening(self)
        for arm in self.leader_arms.values():
            arm.set_torque(False)
        self._step = 0
        return dm_env.restart(self.observe(None))

    def step(self, action: Any) -> dm_env.TimeStep:
        self.steps += 1
        if fault := self.faults.pop(self.steps, None):
            raise fault
        self._step += 1
        command = self.clock.now_ns()
        self.clock.sleep_until(command + 20_000_000)
        self.qpos = np.array(action, np.float32)
        last = self._step == self.episode_len
        reward = (self.rewards.pop(0) if self.rewards else self.max_reward) if last else 0.0
        return (dm_env.truncation if last else dm_env.transition)(reward, self.observe(command))

    def observe(self, command: int | None) -> dict[str, Any]:
        now = self.clock.now_ns()
        stamps = {"qpos": now - 1_000_000, "images/cam_high": now - 5_000_000, "leader_left": now - 9_000_000}
        return {
            "qpos": np.array((0.0, 0.5, 0.0, 0.5), np.float32),
            "images": {"cam_high": np.full((8, 10, 3), self._step, np.uint8)},
            "stamps": {**stamps, "deadline": now, **({} if command is None else {"command": command})},
        }

    def park(self) -> None:
        self.estop.require_released()
        self.parked += 1

    def lock_leaders(self) -> None:
        for arm in self.leader_arms.values():
            arm.set_torque(True)

    def torque_report(self) -> str:
        return "their torque is on"

    def observation_spec(self) -> Any: ...

    def action_spec(self) -> Any: ...


class Script:
    """An operator: in turn, after `polls` looks while the session is in `state`, says `word`."""

    def __init__(self, *lines: tuple[str, int, str]) -> None:
        self.lines, self.looks = list(lines), 0
        self.told: list[tuple[str, str]] = []
        self.idle = 0
        self.closed = False

    @property
    def state(self) -> str:
        return self.told[-1][0] if self.told else ""

    @property
    def states(self) -> list[str]:
        return [state for state, _ in self.told]

    def poll(self) -> list[str]:
        self.idle += 1
        assert self.idle < 5000, f"nothing happens any more while {self.told[-1]}, left to say: {self.lines}"
        if not self.lines or self.lines[0][0] != self.state:
            return []
        self.looks += 1
        if self.looks <= self.lines[0][1]:
            return []
        self.looks = self.idle = 0
        return [self.lines.pop(0)[2]]

    def status(self, state: str, message: str) -> None:
        self.idle = self.looks = 0
        self.told.append((state, message))

    def close(self) -> None:
        self.closed = True


def guard(env: Any, policy: Any) -> SafetyGuard:
    return SafetyGuard(policy, env.limits, frozen=50, stale_s=1.0, estop=env.estop)


def session(
    folder: Any,
    env: Desk,
    *lines: tuple[str, int, str],
    wanted: int = 1,
    auto: bool = True,
    squeezes: Squeezes | None = None,
    timeout_s: float | None = None,
    **plan: Any,
) -> tuple[Session, Script, io.StringIO]:
    """A session on `env`, its operator, and what is written for them."""
    script, output = Script(*lines), io.StringIO()
    talk = Conversation([script, *([squeezes] if squeezes else [])], Screen(output), Cues())
    made = Session(
        Plan(TASK, RIG, folder, wanted, auto=auto, **plan), talk,
        guard=guard, squeezes=squeezes, timeout_s=timeout_s,
    )  # fmt: skip

    def opening(env: Desk) -> None:
        made.ready(env)  # type: ignore[arg-type]
        made.tell("waiting", "close both leader grippers to begin")
        while made.poll(env) != "start":  # type: ignore[arg-type]
            env.clock.sleep_until(env.clock.now_ns() + 10_000_000)

    env.opening = opening
    return made, script, output
