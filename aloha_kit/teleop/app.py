"""Teleoperation and parking: leaders move followers without recording; followers move to rest."""

from __future__ import annotations

import contextlib
import logging
import select
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import dm_env
import numpy as np

from aloha_kit import envs
from aloha_kit.config import load, RigConfig, TaskConfig
from aloha_kit.core import Action, ConfigError, UsageError
from aloha_kit.core.lang import Message, tr
from aloha_kit.loop import Outcome, run_episode, sigterm_interrupts
from aloha_kit.loop.capabilities import ParkableRobot, require, TeleoperatedRobot
from aloha_kit.media.live_view import live_view, ViewAddress
from aloha_kit.teleop.args import TeleopArgs

LOG = logging.getLogger(__name__)

UNLIMITED = sys.maxsize
"""Steps of an episode that only the operator ends."""
REPORT_S = 10.0
"""Period of the progress messages."""


def run(args: TeleopArgs) -> None:
    """Teleoperate or park.

    Raises:
        ConfigError: an environment that cannot be teleoperated or parked, or leaders that drive the followers
            themselves.
        RosError: no master, or a driver that is not there.
        SafetyError: the emergency stop, a fault that lasted, or arms that did not reach their rest pose.
        StreamError: a silent stream.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the followers hold.
    """
    task = load(TaskConfig, "tasks", args.task or _running_task())
    rig = load(RigConfig, "rigs", args.rig or task.rig)
    LOG.info(tr("rig '{rig}', task '{task}'", rig=rig.name, task=task.name))
    if args.countdown_s != TeleopArgs.countdown_s and not rig.leaders:
        raise UsageError(
            "{flag} does not apply to rig '{rig}': {reason}",
            flag="--countdown_s",
            rig=rig.name,
            reason=Message("it has no leader arms"),
        )
    # images are needed for a view only, sensors are not
    cameras = () if args.view is None or args.park else task.cameras
    task, rig = replace(task, cameras=cameras, episode_len=UNLIMITED), replace(rig, sensors={})
    with sigterm_interrupts():
        if args.park:
            _park(task, rig, args.park_s, release=args.release)
        else:
            # a wrong address is refused before a node starts
            _teleoperate(task, rig, ViewAddress.parse(args.view), args.countdown_s)


def _running_task() -> str:
    from aloha_kit.ros.operator_topics import running_task  # imports rospy

    return running_task(default="aloha_transfer_cube")


def _teleoperate(task: TaskConfig, rig: RigConfig, view: ViewAddress | None, countdown_s: float) -> None:
    if rig.teleop == "hardware":
        raise ConfigError(
            "the leaders of rig '{rig}' drive its followers themselves as soon as its drivers run", rig=rig.name
        )

    def start_sequence(env: TeleoperatedRobot) -> None:
        env.run_start_sequence(status=_log_status, poll=_enter_pressed, countdown_s=countdown_s)

    with _connected(task, rig, TeleoperatedRobot, leaders=True, start_sequence=start_sequence) as env:
        try:
            with live_view(view, env, task.name) as views:
                run_episode(env, env.guard(env.leaders), [_TrackingLog(env), *views])
        finally:
            env.lock_leaders()  # the operator may release them
            print(_ending(tr("no command is sent any more"), env), flush=True)


def _park(task: TaskConfig, rig: RigConfig, park_s: float, *, release: bool) -> None:
    with _connected(task, rig, ParkableRobot) as env:
        env.prepare()
        LOG.info(tr("parking the arms of rig '{rig}'", rig=rig.name))
        env.park(park_s)
        if release:
            env.release()
        print(_ending(tr("parked"), env), flush=True)


def _ending(text: str, env: ParkableRobot) -> str:
    """Message at the end, with the state of the motors' torque where there are motors."""
    torque = env.torque_report()
    return tr("{message}; {torque}", message=text, torque=torque) if torque else text


@contextlib.contextmanager
def _connected(task: TaskConfig, rig: RigConfig, capability: type, **options: Any) -> Iterator[Any]:
    """The environment, with `capability`; it holds after an interruption."""
    env = envs.connect(task, rig, **options)
    with contextlib.closing(env):
        require(env, capability, f"rig '{rig.name}'")
        try:
            yield env
        except KeyboardInterrupt:
            env.hold()
            raise


def _log_status(state: str, message: str) -> None:
    LOG.info("%s: %s", state, message)


def _enter_pressed() -> str | None:
    """Return "start" where Enter was pressed on the terminal, in place of closing the grippers."""
    if sys.stdin is None or not sys.stdin.isatty() or not select.select([sys.stdin], [], [], 0)[0]:
        return None
    sys.stdin.readline()
    return "start"


class _TrackingLog:
    """Observer that logs every few seconds how fast and how closely the followers track the leaders."""

    def __init__(self, env: TeleoperatedRobot) -> None:
        self._env = env

    def on_reset(self, timestep: dm_env.TimeStep) -> None:
        LOG.info(tr("teleoperating; Ctrl-C ends it, no command is sent any more then"))
        self._start()

    def _start(self) -> None:
        self._began, self._steps, self._late, self._residual = time.monotonic(), 0, 0, 0.0

    def on_step(self, action: Action, timestep: dm_env.TimeStep) -> None:
        qpos = timestep.observation["qpos"]
        self._steps, self._late = self._steps + 1, self._late + (self._env.late_ns > 0)
        self._residual = max(self._residual, float(np.abs(action[: len(qpos)] - qpos).max()))
        if (elapsed := time.monotonic() - self._began) >= REPORT_S:
            LOG.info(
                tr(
                    "{rate:.1f} Hz, {late} late steps, followers at most {distance:.2f} from the leaders",
                    rate=self._steps / elapsed,
                    late=self._late,
                    distance=self._residual,
                )
            )
            self._start()

    def on_end(self, outcome: Outcome) -> None:
        LOG.info(tr("ended: {reason}", reason=outcome.reason.replace("KeyboardInterrupt", tr("interrupted"))))
