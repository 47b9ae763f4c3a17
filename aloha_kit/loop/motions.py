"""Policies without a network: replay of recorded actions, a smooth motion to a pose, and parking with it."""

from __future__ import annotations

import contextlib

import dm_env
import numpy as np
import numpy.typing as npt

from aloha_kit.core import Action, EpisodeError, Observation, SafetyLimits, StopEpisode
from aloha_kit.loop.guard import SafetyGuard


class Replay:
    """A policy that gives recorded actions (T, A) one after another, whatever is observed.

    Raises:
        EpisodeError: `actions` is not a table with at least one row.
        StopEpisode: from `act`, after the last row.
    """

    def __init__(self, actions: npt.ArrayLike) -> None:
        self._actions = np.array(actions, np.float32)
        if self._actions.ndim != 2 or len(self._actions) == 0:
            raise EpisodeError(
                "a recording of actions has shape (T, A) with T ≥ 1, given {shape}", shape=self._actions.shape
            )
        self._next = 0

    def reset(self) -> None:
        self._next = 0

    def act(self, observation: Observation) -> Action:
        if self._next == len(self._actions):
            raise StopEpisode("end of the recording")
        self._next += 1
        action: Action = self._actions[self._next - 1].copy()
        return action


class GoTo:
    """A policy that moves from where the arms are to `pose` and then stops.

    Half a cosine in time, so speed starts and ends at zero; its peak is the limits' ramp speed.

    Args:
        pose: (A,) the command to end at; velocity entries end at 0 whatever it holds.
        limits: bounds; the pose is brought inside them.
        start: (A,) the command to begin at; by default the first observed `qpos`.
    """

    def __init__(self, pose: npt.ArrayLike, limits: SafetyLimits, *, start: npt.ArrayLike | None = None) -> None:
        moves = np.array([i is not None for i in limits.state_index])
        self._pose = np.where(moves, np.clip(np.asarray(pose, np.float64), limits.lower, limits.upper), 0.0)
        self._limits, self._given = limits, start
        self.reset()

    def reset(self) -> None:
        self._step, self._steps = 0, 0
        self._start = self._pose

    def act(self, observation: Observation) -> Action:
        if self._step == 0:
            self._start = np.asarray(
                self._limits.present(observation["qpos"]) if self._given is None else self._given, np.float64
            )
            # A half cosine's peak speed is π/2 times its mean.
            self._steps = int(np.ceil(np.pi / 2 * np.max(np.abs(self._pose - self._start) / self._limits.ramp)))
        if self._step > 0 and self._step >= self._steps:
            raise StopEpisode("pose reached")
        self._step += 1
        share = (1 - np.cos(np.pi * min(self._step / max(self._steps, 1), 1.0))) / 2
        return np.asarray(self._start + share * (self._pose - self._start), np.float32)


def park(env: dm_env.Environment, guard: SafetyGuard, pose: npt.ArrayLike) -> int:
    """Move to `pose` from the guard's last command, without a reset; returns the steps taken.

    For exit paths in the middle of an episode (an error, Ctrl-C, SIGTERM), before torque is switched off.
    Nothing moves if no command was ever sent, or if the emergency stop was pressed. An environment
    that has ended its episode would start a new one: a step type FIRST ends the parking.
    """
    if guard.command is None or guard.stopped:
        return 0
    policy = GoTo(pose, guard.limits, start=guard.command)
    steps = 0
    with contextlib.suppress(StopEpisode):
        while not guard.stopped:
            timestep = env.step(policy.act(Observation()))
            steps += 1
            if timestep.first() or timestep.last():
                break
    return steps
