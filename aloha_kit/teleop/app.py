"""Teleoperation and parking on one screen."""

from __future__ import annotations

import contextlib
import select
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TYPE_CHECKING

import dm_env
import numpy as np

from aloha_kit import envs
from aloha_kit.config import load, RigConfig, TaskConfig
from aloha_kit.core import Action, ConfigError
from aloha_kit.loop import Outcome, run_episode, sigterm_interrupts
from aloha_kit.teleop.args import TeleopArgs

if TYPE_CHECKING:
    from aloha_kit.ros.ros_env import RosEnv

FOR_EVER = sys.maxsize
"""Steps of an episode that only the operator ends."""
REPORT_S = 10.0
"""How often a line says how it goes."""


def run(args: TeleopArgs) -> None:
    """Teleoperate or park.

    Raises:
        ConfigError: a rig that is not behind ROS, or whose leaders drive the followers themselves.
        RosError: no master, or a driver that is not there.
        SafetyError: the emergency stop, a fault that lasted, or arms that did not reach their sleep pose.
        StreamError: a stream that went quiet.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the followers hold.
    """
    task = load(TaskConfig, "tasks", args.task)
    rig = load(RigConfig, "rigs", args.rig or task.rig)
    if not rig.has_drivers:
        raise ConfigError(f"rig '{rig.name}' of task '{task.name}' lists no followers: it has no arms to move")
    # nobody looks
    task, rig = replace(task, cameras=(), episode_len=FOR_EVER), replace(rig, sensors={})
    with sigterm_interrupts():
        if args.park:
            _park(args, task, rig)
        else:
            _teleoperate(args, task, rig)


def _teleoperate(args: TeleopArgs, task: TaskConfig, rig: RigConfig) -> None:
    if rig.teleop == "hardware":
        raise ConfigError(f"the leaders of rig '{rig.name}' drive its followers themselves as soon as its drivers run")
    from aloha_kit.ros.safety import make_guard
    from aloha_kit.ros.start_sequence import StartSequence

    start_sequence = StartSequence(status=_tell, poll=_entered, countdown_s=args.countdown_s)
    with _connected(task, rig, leaders=True, start_sequence=start_sequence) as env:
        assert env.leaders is not None
        try:
            run_episode(env, make_guard(env, env.leaders), [_Status(env)])
        finally:
            env.lock_leaders()  # the operator may let go of them
            print(f"nothing is sent to the followers any more; {env.torque_report()}", flush=True)


def _park(args: TeleopArgs, task: TaskConfig, rig: RigConfig) -> None:
    with _connected(task, rig) as env:
        env.prepare()
        print(f"parking {', '.join(arm.name for arm in env.followers.values())}", flush=True)
        env.park(args.park_s)
        if args.release:
            env.release()
        print(f"parked; {env.torque_report()}", flush=True)


@contextlib.contextmanager
def _connected(
    task: TaskConfig, rig: RigConfig, *, leaders: bool = False, start_sequence: Callable[[Any], None] | None = None
) -> Iterator[RosEnv]:
    from aloha_kit.ros.ros_env import RosEnv

    env = envs.connect(task, rig, leaders=leaders, start_sequence=start_sequence)
    assert isinstance(env, RosEnv)
    with contextlib.closing(env):
        try:
            yield env
        except KeyboardInterrupt:
            env.hold()
            raise


def _tell(state: str, words: str) -> None:
    print(f"{state}: {words}", flush=True)


def _entered() -> str | None:
    """Enter on a terminal stands for the gesture."""
    if sys.stdin is None or not sys.stdin.isatty() or not select.select([sys.stdin], [], [], 0)[0]:
        return None
    sys.stdin.readline()
    return "start"


class _Status:
    """An observer that says every few seconds how fast and how well the followers follow."""

    def __init__(self, env: RosEnv) -> None:
        self._env = env

    def on_reset(self, timestep: dm_env.TimeStep) -> None:
        print("teleoperating; Ctrl-C ends it, nothing is sent any more then", flush=True)
        self._start()

    def _start(self) -> None:
        self._began, self._steps, self._late, self._residual = time.monotonic(), 0, 0, 0.0

    def on_step(self, action: Action, timestep: dm_env.TimeStep) -> None:
        qpos = timestep.observation["qpos"]
        self._steps, self._late = self._steps + 1, self._late + (self._env.late_ns > 0)
        self._residual = max(self._residual, float(np.abs(action[: len(qpos)] - qpos).max()))
        if (elapsed := time.monotonic() - self._began) >= REPORT_S:
            print(
                f"{self._steps / elapsed:.1f} Hz, {self._late} late steps,"
                f" followers at most {self._residual:.2f} from the leaders",
                flush=True,
            )
            self._start()

    def on_end(self, outcome: Outcome) -> None:
        print(f"ended ({outcome.reason})", flush=True)
