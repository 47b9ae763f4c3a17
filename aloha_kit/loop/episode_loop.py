"""The control loop of one episode, its observers, and the confidence interval of a success rate over episodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import dm_env

from aloha_kit.core import Action, Outcome, Policy, StopEpisode


class Observer(Protocol):
    """Observer of each step of an episode: a writer, a display, a latency counter. It must not delay the loop."""

    def on_reset(self, timestep: dm_env.TimeStep) -> None:
        """The first observation."""

    def on_step(self, action: Action, timestep: dm_env.TimeStep) -> None:
        """An action was executed and this is what came of it."""

    def on_end(self, outcome: Outcome) -> None:
        """The episode is over; called exactly once after `on_reset`, also when an error ended it."""


def run_episode(env: dm_env.Environment, policy: Policy, observers: Sequence[Observer] = ()) -> Outcome:
    """Run one episode until the environment gives LAST or the policy raises `StopEpisode`.

    T actions give T + 1 observations. The environment owns time: `step` sends, waits for its
    deadline and observes, so the loop itself never sleeps. An error from the environment, the
    policy or an observer is passed to every observer's `on_end` (what was recorded stays recorded) and raised.
    """
    timestep = env.reset()
    policy.reset()
    steps, best, final = 0, 0.0, 0.0
    started: list[Observer] = []
    reason, error = "complete", True
    try:
        for observer in observers:
            started.append(observer)
            observer.on_reset(timestep)
        while not timestep.last():
            action = policy.act(timestep.observation)
            timestep = env.step(action)
            final = float(timestep.reward or 0.0)
            best, steps = max(best, final), steps + 1
            for observer in observers:
                observer.on_step(action, timestep)
        error = False
    except StopEpisode as stop:
        reason, error = str(stop) or "stopped by the policy", False
    except BaseException as failure:
        reason = f"{type(failure).__name__}: {failure}".rstrip(": ")
        raise
    finally:
        outcome = Outcome(steps, final, best, reason, error)
        _end(started, outcome)
    return outcome


def _end(observers: Sequence[Observer], outcome: Outcome) -> None:
    """Call `on_end` of every observer, even if one before it fails; the first failure is raised last."""
    failures: list[Exception] = []
    for observer in observers:
        try:
            observer.on_end(outcome)
        except Exception as failure:
            failures.append(failure)
    if failures:
        raise failures[0]
