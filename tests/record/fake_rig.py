"""Fake rig of a recording session: no ROS, virtual time, an operator with a script."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import dm_env
import numpy as np

from aloha_kit.config import RigConfig, TaskConfig
from aloha_kit.config.rig import ArmConfig
from aloha_kit.core import aloha_limits, aloha_start, Contract, Environment, SafetyLimits, VirtualClock, VX300S
from aloha_kit.loop import Latch, SafetyGuard
from aloha_kit.loop.capabilities import TeleoperatedRobot
from aloha_kit.record.episode_attempt import RecordingPlan
from aloha_kit.record.gripper_gesture import GripperGesture
from aloha_kit.record.operator_interface import Cues, Display, OperatorInterface
from aloha_kit.record.recording_session import RecordingSession
from tests.loop.fake_rig import FakeRig

NAMES = ("left_waist", "left_gripper", "right_waist", "right_gripper")
CONTRACT = Contract.of(NAMES, NAMES, {"cam_high": (8, 10)}, rate_hz=50.0)
TASK = TaskConfig("stack", "stack the cubes", rig="bench", episode_len=10, cameras=("cam_high",))
RIG = RigConfig("bench", "ros", {}, followers={"left": ArmConfig(name="a"), "right": ArmConfig(name="b")})


class Leaders:
    """Follow a function of the step; half open, at rest by default."""

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


class FakeTeleoperatedRig(Environment):
    """What a session needs of a `TeleoperatedRobot`. `faults[k]` is raised by step k of the rig's life, once."""

    def __init__(self, *, episode_len: int = 10, max_reward: float = 0.0, simulated: bool = False) -> None:
        self.clock = VirtualClock(1_000_000_000)
        self.leaders = Leaders()
        self.leader_arms = {"left": Arm(), "right": Arm()}
        self.listens_only = False
        self._simulated, self.arm_model = simulated, VX300S
        self.start_sequence: Callable[[Any], None] = lambda env: None
        self.connection_error: BaseException | None = None
        self.late_ns = 0
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

    def guard(self, policy: Any, *, limits: SafetyLimits | None = None) -> SafetyGuard:
        return SafetyGuard(policy, limits or self.limits, frozen=50, stale_s=1.0, estop=self.estop)

    def run_start_sequence(self, *, status: Any, poll: Any, countdown_s: float) -> None:
        status("waiting", "close both leader grippers to begin")
        while poll() != "start":
            self.clock.sleep_until(self.clock.now_ns() + 10_000_000)

    def camera_images(self) -> dict[str, Any]:
        return {"cam_high": np.full((8, 10, 3), 200, np.uint8)}

    def stream_health(self) -> dict[str, Any]:
        return {}

    def require_connection(self) -> None:
        if self.connection_error:
            raise self.connection_error

    def prepare(self) -> None: ...

    def hold(self) -> None: ...

    def release(self) -> None: ...

    def operator(self, commands: Any, namespace: str) -> Any:
        return Script()

    def guarded(self, policy: Any, *, release: bool = False) -> Any: ...

    def reset(self) -> dm_env.TimeStep:
        self.resets += 1
        self.start_sequence(self)
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

    def park(self, seconds: float | None = None) -> None:
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
    """Operator: in turn, after so many polls while the session is in a state, gives a command."""

    def __init__(self, *lines: tuple[str, int, str]) -> None:
        self.lines, self.looks = list(lines), 0
        self.statuses: list[tuple[str, str]] = []
        self.idle = 0
        self.closed = False

    @property
    def state(self) -> str:
        return self.statuses[-1][0] if self.statuses else ""

    @property
    def states(self) -> list[str]:
        return [state for state, _ in self.statuses]

    def poll(self) -> list[str]:
        self.idle += 1
        assert self.idle < 5000, f"no progress in {self.statuses[-1]}, commands left: {self.lines}"
        if not self.lines or self.lines[0][0] != self.state:
            return []
        self.looks += 1
        if self.looks <= self.lines[0][1]:
            return []
        self.looks = self.idle = 0
        return [self.lines.pop(0)[2]]

    def status(self, state: str, message: str) -> None:
        self.idle = self.looks = 0
        self.statuses.append((state, message))

    def close(self) -> None:
        self.closed = True


def session(
    folder: Any,
    env: FakeTeleoperatedRig,
    *lines: tuple[str, int, str],
    wanted: int = 1,
    auto: bool = True,
    gesture: GripperGesture | None = None,
    timeout_s: float | None = None,
    **plan: Any,
) -> tuple[RecordingSession, Script, io.StringIO]:
    """A session on `env`, its operator, and what is displayed."""
    script, output = Script(*lines), io.StringIO()
    operator = OperatorInterface([script, *([gesture] if gesture else [])], Display(output), Cues())
    made = RecordingSession(
        RecordingPlan(TASK, RIG, folder, wanted, auto=auto, **plan), operator, gesture=gesture, timeout_s=timeout_s
    )
    assert isinstance(env, TeleoperatedRobot)
    env.start_sequence = made.start
    return made, script, output


def connect(task: TaskConfig, rig: RigConfig, *, start_sequence: Callable[[Any], None], **_: Any) -> Environment:
    """The fake rig, where a rig's `kind` names this function."""
    env = FakeTeleoperatedRig()
    env.start_sequence = start_sequence
    return env


def connect_without_leaders(task: TaskConfig, rig: RigConfig, **_: Any) -> Environment:
    """An environment that has none of a teleoperated robot's capabilities but a clock."""
    return FakeRig()
