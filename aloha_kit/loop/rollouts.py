"""Rollout results: what deployment and evaluation report of each rollout, and success rates over many."""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dm_env
import numpy as np

from aloha_kit.core import Action
from aloha_kit.core.environment import Outcome
from aloha_kit.core.lang import Message


@dataclass(frozen=True, kw_only=True)
class RolloutResult:
    """One finished rollout of a policy.

    Attributes:
        seed: of its start.
        steps: actions executed.
        success: the highest reward held at the end, or the operator's verdict; None where neither is there.
        touched: the highest reward at any step, which is what the published ACT counts; None where nothing measures it.
        reason: why it ended; "complete" at its full length.
        actions: checksum of all commands; equal where two rollouts are.
    """

    seed: int
    steps: int
    final_reward: float
    max_reward: float
    success: bool | None
    touched: bool | None
    reason: str
    actions: str


class RolloutRecorder:
    """Observer that records how an episode ended and the checksum of its commands."""

    outcome: Outcome

    def __init__(self) -> None:
        self._checksum = 0

    @property
    def actions(self) -> str:
        """CRC-32 of the commands (T, A) as float32, in hex."""
        return f"{self._checksum:08x}"

    def on_reset(self, timestep: dm_env.TimeStep) -> None:
        """Nothing was commanded yet."""

    def on_step(self, action: Action, timestep: dm_env.TimeStep) -> None:
        self._checksum = zlib.crc32(np.ascontiguousarray(action, np.float32).tobytes(), self._checksum)

    def on_end(self, outcome: Outcome) -> None:
        self.outcome = outcome


def success_rate(verdicts: Sequence[bool | None]) -> dict[str, Any] | None:
    """Successes, trials, their ratio and its 95 % Wilson interval; None where nothing was judged."""
    judged = [verdict for verdict in verdicts if verdict is not None]
    if not judged:
        return None
    low, high = wilson_interval(sum(judged), len(judged))
    return {"successes": sum(judged), "trials": len(judged), "rate": sum(judged) / len(judged), "wilson95": [low, high]}


def summarise(rollouts: Sequence[RolloutResult]) -> dict[str, Any]:
    """Success held to the end, success at any time, and the highest rewards: their mean, and how many rollouts got to
    each, or to each tenth where rewards are no whole numbers."""
    stages = Counter(f"{math.floor(10 * rollout.max_reward + 1e-9) / 10:g}" for rollout in rollouts)
    return {
        "success": success_rate([rollout.success for rollout in rollouts]),
        "success_any_time": success_rate([rollout.touched for rollout in rollouts]),
        "mean_max_reward": sum(rollout.max_reward for rollout in rollouts) / max(len(rollouts), 1),
        "max_reward_histogram": dict(sorted(stages.items(), key=lambda item: float(item[0]))),
    }


def wilson_interval(successes: int, trials: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson score interval of a success rate; `z` is the normal quantile, by default for 95 %.

    Unlike the textbook p ± z·sqrt(p(1-p)/n) it stays inside [0, 1] and has a width at 0 of n and n of n.
    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).

    Raises:
        ValueError: no trials, or successes outside 0 … trials.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(
            Message(
                "need 0 ≤ successes ≤ trials and a trial, given {successes} of {trials}",
                successes=successes,
                trials=trials,
            )
        )
    share, z2 = successes / trials, z * z / trials
    centre = (share + z2 / 2) / (1 + z2)
    half = z / (1 + z2) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials))
    return max(0.0, centre - half), min(1.0, centre + half)
