"""Curriculum from near to far targets, and the warning of a reward that stays zero."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from aloha_kit.core import plural
from aloha_kit.rl.episodes import EpisodeSummary

WINDOW = 60  # episodes
THRESHOLD = 0.8
ZERO = 20  # episodes
SHORT = 5  # steps


class Curriculum:
    """Curriculum over bands of distance.

    At level L targets come from the bands 0 to L: half of them from band L, the others from the nearer ones alike, so
    that these are not forgotten. The next level begins when more than 80 % of the last 60 episodes of band L were
    successes. On the last level all bands are drawn alike once it is mastered.

    Args:
        bands: their number, at least 1.
        enabled: without it, all bands are drawn alike from the beginning.

    Attributes:
        level: present level; without curriculum the last one.
        mastered: whether the last level has been passed too.
    """

    def __init__(self, bands: int, *, enabled: bool = True) -> None:
        self._count = bands
        self.level, self.mastered = (0, False) if enabled and bands > 1 else (bands - 1, True)
        self._recent = [deque[bool](maxlen=WINDOW) for _ in range(bands)]

    @property
    def weights(self) -> tuple[float, ...]:
        """Probability of each band."""
        if self.mastered or self.level == 0:
            return tuple(1 / (self.level + 1) if band <= self.level else 0.0 for band in range(self._count))
        nearer = 0.5 / self.level
        return tuple(0.5 if band == self.level else nearer if band < self.level else 0.0 for band in range(self._count))

    @property
    def success(self) -> tuple[float | None, ...]:
        """Success over the last 60 episodes of each band; None where there was none."""
        return tuple(sum(recent) / len(recent) if recent else None for recent in self._recent)

    def add(self, episode: EpisodeSummary) -> bool:
        """Count an episode; returns whether `weights` have changed."""
        recent = self._recent[episode.band]
        recent.append(episode.success)
        passed = len(recent) == WINDOW and sum(recent) > THRESHOLD * WINDOW
        if self.mastered or episode.band != self.level or not passed:
            return False
        if self.level + 1 == self._count:
            self.mastered = True
        else:
            self.level += 1
        return True

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `restore`."""
        recent = [list(map(int, each)) for each in self._recent]
        return {"level": self.level, "mastered": self.mastered, "recent": recent}

    def restore(self, values: Mapping[str, Any]) -> None:
        """Go on from `to_json`."""
        self.level, self.mastered = int(values["level"]), bool(values["mastered"])
        self._recent = [deque(map(bool, each), maxlen=WINDOW) for each in values["recent"]]


class ZeroRewardWatch:
    """Watch for a reward that stays zero; a learner has nothing to go by then."""

    def __init__(self, bands: Sequence[tuple[float, float]]) -> None:
        self._bands = bands
        self._episodes: deque[EpisodeSummary] = deque(maxlen=ZERO)

    def add(self, episode: EpisodeSummary) -> str:
        """Count an episode; returns a warning with the reason, once in 20 episodes without reward, else nothing."""
        self._episodes.append(episode)
        if episode.paid:
            self._episodes.clear()
        if len(self._episodes) < ZERO:
            return ""
        reason = self._reason()
        self._episodes.clear()
        return f"no reward above 0 in {ZERO} episodes: {reason}"

    def _reason(self) -> str:
        episodes = list(self._episodes)
        steps = statistics.median(episode.steps for episode in episodes)
        ended = sum(episode.terminated for episode in episodes)
        if steps <= SHORT and ended:
            return (
                f"episodes end after {plural(int(steps), 'step')} (median), {ended} of {ZERO} by termination "
                "(discount 0), before anything can be reached. Look at what terminates them"
            )
        distances = [episode.nearest for episode in episodes if episode.nearest is not None]
        if not distances:
            return "nothing that was done is paid for. Look at the terms of the reward in episodes.jsonl"
        drawn = {episode.band for episode in episodes}
        near, far = min(self._bands[band][0] for band in drawn), max(self._bands[band][1] for band in drawn)
        return (
            f"targets were {near:g} to {far:g} m away and never nearer than {min(distances):.3g} m, farther than "
            "what is paid for. Unless the reward pays for coming nearer, begin with nearer targets (the curriculum, or "
            "nearer bands) or take a reward that does"
        )
