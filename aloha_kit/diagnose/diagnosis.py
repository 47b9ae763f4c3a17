"""Diagnosis of one rollout: outcome, causes, and what could not be checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from aloha_kit.core.features import IMAGES
from aloha_kit.core.lang import joined, Message, shown, tr
from aloha_kit.core.lang import width as columns
from aloha_kit.diagnose.action_checks import (
    check_ending,
    check_grippers,
    check_limited,
    check_motion,
    check_stalled,
    matters,
)
from aloha_kit.diagnose.causes import Cause, Limits, ranked
from aloha_kit.diagnose.chunk_checks import boundary_changes, check_boundaries, check_delay, check_holds
from aloha_kit.diagnose.distribution_shift import cells_beyond, check_images, check_joints, check_start, joints_beyond
from aloha_kit.diagnose.evidence import Evidence
from aloha_kit.diagnose.timing_checks import check_overruns, check_streams

CHECKS = (
    check_overruns,
    check_streams,
    check_holds,
    check_delay,
    check_boundaries,
    check_start,
    check_joints,
    check_images,
    check_limited,
    check_motion,
    check_stalled,
    check_grippers,
    check_ending,
)


@dataclass(frozen=True)
class Diagnosis:
    """Result of the checks of one rollout.

    Attributes:
        causes: errors first, then by when they began.
        measures: numbers that rollouts can be compared by.
        unknown: what could not be checked, and why.
    """

    episode: str
    success: bool | None
    outcome: str
    causes: tuple[Cause, ...]
    measures: dict[str, float]
    unknown: tuple[str, ...]

    def to_mapping(self) -> dict[str, Any]:
        """Mapping for JSON."""
        return {
            "episode": self.episode,
            "success": self.success,
            "outcome": self.outcome,
            "causes": [cause.to_mapping() for cause in self.causes],
            "measures": self.measures,
            "unknown": list(self.unknown),
        }

    def text(self) -> str:
        """Diagnosis as text: the outcome, the causes, the checks that could not be made."""
        width = max((columns(shown(cause.finding.subject)) for cause in self.causes), default=0)
        lines = [f"{self.episode}: {shown(self.outcome)}", ""]
        for cause in self.causes:
            lines += cause.finding.lines(width)
        if len(self.causes) > 1:
            lines += ["", tr("Errors come first, and what began earlier: what began later may have come of it.")]
        if not self.causes:
            lines.append(tr("nothing found: loop, chunks, inputs and actions were as they should be"))
            if self.success is False:
                lines.append(tr("so look at the policy itself: more demonstrations like this one, longer training"))
        return "\n".join([*lines, *(tr("not known: {what}", what=what) for what in self.unknown)])


def diagnose(evidence: Evidence, limits: Limits = Limits()) -> Diagnosis:  # noqa: B008 - frozen
    """Run all checks on one rollout."""
    causes = ranked([cause for check in CHECKS for cause in check(evidence, limits)])
    return Diagnosis(
        evidence.path.name,
        evidence.success,
        outcome(evidence),
        causes,
        measures(evidence, limits),
        (*evidence.unknown, *_blind(evidence)),
    )


def outcome(evidence: Evidence) -> str:
    """Outcome in words: success, length, highest reward, and when that was lost again."""
    verdict = {True: Message("success"), False: Message("failed"), None: Message("not judged")}[evidence.success]
    words: list[str] = [
        verdict,
        Message("{steps} steps ({seconds:.1f} s)", steps=evidence.steps, seconds=evidence.steps / evidence.rate_hz),
    ]
    reward = evidence.reward
    if reward is not None:
        best = float(reward.max())
        held = np.flatnonzero(reward == best)
        reached = Message("highest reward {best:g}, reached at step {step}", best=best, step=held[0])
        words.append(reached if best else Message("highest reward 0"))
        if best and held[-1] < len(reward) - 1:
            words.append(
                Message("lost for good at step {step}, {reward:g} at the end", step=held[-1] + 1, reward=reward[-1])
            )
    if evidence.reason and evidence.reason != "complete":
        words.append(evidence.reason)
    return joined(words)


def measures(evidence: Evidence, limits: Limits) -> dict[str, float]:
    """Measures by which rollouts are compared, whether or not they are beyond a limit."""
    found: dict[str, float] = {}
    log, training = evidence.log, evidence.training
    if log:
        if not evidence.simulated_time:
            found[Message("share of steps late")] = float(np.mean([step.missed for step in log]))
            found[Message("age of the oldest sample (ms, median)")] = float(np.median([step.age_ms for step in log]))
        found[Message("share of steps held still")] = float(np.mean([bool(step.held) for step in log]))
        limited = [any(matters(entry, rule) for entry, rule in step.limited) for step in log]
        found[Message("share of commands limited")] = float(np.mean(limited))
    boundaries, change = boundary_changes(evidence)
    if len(boundaries):
        found[Message("largest jump at a chunk boundary")] = float(change[boundaries].max())
    if training is not None and training["qpos"].size == evidence.qpos.shape[1]:
        found[Message("furthest joint beyond training")] = float(joints_beyond(evidence.qpos, training["qpos"]).max())
    for camera, statistics in evidence.camera_statistics.items():
        found[Message("brightness of {camera} at the start", camera=camera)] = float(statistics.described[0].mean())
        if training is not None and f"{IMAGES}{camera}" in training:
            outside = cells_beyond(statistics.described, training[f"{IMAGES}{camera}"], limits.cell)
            found[Message("share of {camera} unlike training", camera=camera)] = float(outside.mean())
    return found | {Message("{entry} at the start", entry=entry): value for entry, value in evidence.begin.items()}


def _blind(evidence: Evidence) -> list[str]:
    """Inputs that training's statistics do not cover."""
    training = evidence.training
    if training is None:
        return []
    cameras = [camera for camera in evidence.camera_statistics if f"{IMAGES}{camera}" not in training]
    blind: list[str] = []
    if cameras:
        named = ", ".join(cameras)
        blind.append(
            Message("whether images are as in training: its statistics lack {named} (an older checkpoint)", named=named)
        )
    if training["qpos"].size != evidence.qpos.shape[1]:
        blind.append(
            Message(
                "whether joints are as in training: {size} there, {shape} here",
                size=training["qpos"].size,
                shape=evidence.qpos.shape[1],
            )
        )
    return blind
