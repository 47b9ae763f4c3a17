"""The control loop of one episode, its observers, and the confidence interval of a success rate over episodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import dm_env

from aloha_kit.core import Action, Outcome, Policy, StopEpisode


class Observer(Protocol):
    """What is called at each step of an episode: a writer, a display, a latency counter. It must not delay the loop."""

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


def wilson_interval(successes: int, trials: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson score interval of a success rate; `z` is the normal quantile, by default for 95 %.

    Unlike the textbook p ± z·sqrt(p(1-p)/n) it stays inside [0, 1] and has a width at 0 of n and n of n.
    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).

    Raises:
        ValueError: no trials, or successes outside 0 … trials.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"need 0 ≤ successes ≤ trials and a trial, given {successes} of {trials}")
    share, z2 = successes / trials, z * z / trials
    centre = (share + z2 / 2) / (1 + z2)
    half = z / (1 + z2) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials))
    return max(0.0, centre - half), min(1.0, centre + half)
