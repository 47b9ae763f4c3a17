"""Summary of an episode: band of distance, success, return and terms of the reward."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import dm_env

from aloha_kit.core import Action, Environment, Outcome
from aloha_kit.loop.capabilities import RewardTerms, TargetBands


def bands_of(env: Environment) -> tuple[tuple[float, float], ...]:
    """Bands of the target's distance (m), near to far; none where the environment has none."""
    return tuple((float(near), float(far)) for near, far in env.bands) if isinstance(env, TargetBands) else ()


@dataclass(frozen=True)
class EpisodeSummary:
    """One episode.

    Attributes:
        band: that its target was drawn from; 0 where the environment has none.
        success: as the environment judges it.
        returned: sum of the rewards.
        paid: whether a reward was above 0.
        terminated: whether it ended before its time.
        nearest: least distance to the target, m; None where it is not known.
        distance: the last one.
        terms: {term: its sum} of the reward.
    """

    band: int
    success: bool
    returned: float
    paid: bool
    steps: int
    terminated: bool
    nearest: float | None
    distance: float | None
    terms: dict[str, float]


class EpisodeRecorder:
    """Observer of an environment's episodes.

    Attributes:
        summary: of the last episode that ended.
    """

    summary: EpisodeSummary

    def __init__(self, env: Environment) -> None:
        self._env: Any = env
        self._bands, self._terms = isinstance(env, TargetBands), isinstance(env, RewardTerms)

    def on_reset(self, timestep: dm_env.TimeStep) -> None:
        self._returned, self._paid, self._terminated = 0.0, False, False
        self._sums: Counter[str] = Counter()
        self._distances = [self._env.target_distance] if self._bands else []

    def on_step(self, action: Action, timestep: dm_env.TimeStep) -> None:
        reward = float(timestep.reward or 0.0)
        self._returned += reward
        self._paid = self._paid or reward > 0
        self._terminated = timestep.last() and timestep.discount == 0
        if self._bands:
            self._distances.append(self._env.target_distance)
        if self._terms:
            for name, value in self._env.reward_terms.items():
                self._sums[name] += value

    def on_end(self, outcome: Outcome) -> None:
        distances = [float(distance) for distance in self._distances]
        self.summary = EpisodeSummary(
            band=(self._env.band or 0) if self._bands else 0,
            success=bool(self._env.succeeded(outcome)),
            returned=self._returned,
            paid=self._paid,
            steps=outcome.steps,
            terminated=self._terminated,
            nearest=min(distances, default=None),
            distance=distances[-1] if distances else None,
            terms={name: float(value) for name, value in self._sums.items()},
        )
