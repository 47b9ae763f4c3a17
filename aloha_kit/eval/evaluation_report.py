"""Evaluation report: eval.json for programs, a table for people."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from aloha_kit.core.lang import pad, tr, tr_plural
from aloha_kit.eval.compare import CheckpointComparison
from aloha_kit.eval.worker import EvaluatedRollout
from aloha_kit.loop import wilson_interval
from aloha_kit.loop.rollouts import summarise


@dataclass
class CheckpointResult:
    """One checkpoint and its rollouts so far, in the order in which they ended.

    Attributes:
        label: A or B.
        about: the checkpoint, its policy and how it was run, plain values for JSON.
        seconds: from the first seed to the last verdict, start-up left out; on Ray, those of its cores added up.
        network_s: how much of them the network took.
    """

    label: str
    about: Mapping[str, Any]
    rollouts: list[EvaluatedRollout] = field(default_factory=list)
    seconds: float = 0.0
    network_s: float = 0.0
    inferences: int = 0

    def add(self, rollout: EvaluatedRollout, seconds: float, network_s: float, inferences: int) -> None:
        """One more rollout, and the totals up to it."""
        self.rollouts.append(rollout)
        self.seconds, self.network_s, self.inferences = seconds, network_s, inferences

    def merge(self, part: CheckpointResult) -> None:
        """Rollouts of the same checkpoint that ran elsewhere; times are added up."""
        self.about = self.about or part.about
        self.rollouts += part.rollouts
        self.seconds += part.seconds
        self.network_s += part.network_s
        self.inferences += part.inferences

    @property
    def successes(self) -> int:
        return sum(bool(rollout.success) for rollout in self.rollouts)

    def verdicts(self) -> dict[int, bool]:
        """{seed: success}"""
        return {rollout.seed: bool(rollout.success) for rollout in self.rollouts}

    def rollouts_per_hour(self) -> float:
        return 3600 * len(self.rollouts) / self.seconds if self.seconds else 0.0

    def line(self, wanted: int) -> str:
        """Progress, where there is no bar."""
        return tr(
            "{label}: rollout {done}/{wanted}, success {successes}/{done}, {per_hour:,.0f} an hour",
            label=self.label,
            done=len(self.rollouts),
            wanted=wanted,
            successes=self.successes,
            per_hour=self.rollouts_per_hour(),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values; rollouts by seed, so that two runs can be compared line by line."""
        each = [asdict(rollout) for rollout in sorted(self.rollouts, key=lambda rollout: rollout.seed)]
        for row in each:
            guard = row.pop("guard")
            row |= {"limited": guard["limited"], "held": guard["held"]}
        return {
            "label": self.label,
            **self.about,
            **summarise(self.rollouts),
            "guard": self.guard(),
            "chunk_boundaries": self.chunk_boundaries(),
            "speed": {
                "seconds": round(self.seconds, 3),
                "rollouts_per_hour": round(self.rollouts_per_hour(), 1),
                "network_seconds": round(self.network_s, 3),
                "inferences": self.inferences,
            },
            "rollouts": each,
        }

    def guard(self) -> dict[str, Any]:
        """The safety guard's reports of all rollouts, added up."""
        totals: Counter[str] = Counter()
        faults: Counter[str] = Counter()
        rules: dict[str, Counter[str]] = {}
        for rollout in self.rollouts:
            totals.update({key: rollout.guard[key] for key in ("commands", "limited", "held")})
            faults.update(rollout.guard["faults"])
            for rule, names in rollout.guard["limited_by"].items():
                rules.setdefault(rule, Counter()).update(names)
        limited_by = {rule: dict(names.most_common()) for rule, names in rules.items()}
        return {**totals, "limited_by": limited_by, "faults": dict(faults)}

    def chunk_boundaries(self) -> dict[str, Any] | None:
        """Jumps at chunk boundaries, see `BoundaryMonitor.report`: medians over rollouts, and the worst."""
        if not self.rollouts:
            return None
        count, largest, usual = (
            [rollout.chunk_boundaries[key] for rollout in self.rollouts] for key in ("count", "largest", "median_step")
        )
        return {
            "count": statistics.median(count),
            "largest_step": {"p50": statistics.median(largest), "max": max(largest)},
            "median_step": statistics.median(usual),
        }

    def table(self) -> str:
        """The result as text."""
        lines = [f"{self.label}  {self.about['checkpoint']}"]
        for label, verdicts in (
            (tr("success, held to the end"), [r.success for r in self.rollouts]),
            (tr("success at any time"), [r.touched for r in self.rollouts]),
        ):
            successes = sum(map(bool, verdicts))
            low, high = wilson_interval(successes, len(verdicts))
            share = f"{successes}/{len(verdicts)} = {successes / len(verdicts):.1%}"
            interval = tr("95 % Wilson interval {low:.1%} to {high:.1%}", low=low, high=high)
            lines.append(f"  {pad(label, 26)} {share:<18} {interval}")
        summary = summarise(self.rollouts)
        reached = ", ".join(f"{stage}: {n}" for stage, n in summary["max_reward_histogram"].items())
        mean = tr("mean {mean:.3g}; {reached}", mean=summary["mean_max_reward"], reached=reached)
        lines.append(f"  {pad(tr('highest reward'), 26)} {mean}")
        if early := Counter(r.reason for r in self.rollouts if r.reason != "complete"):
            lines += [tr("  ended early: {reason} ({n}x)", reason=reason, n=n) for reason, n in early.most_common(5)]
        guard = self.guard()
        counted = tr(
            "{limited} of {commands} commands limited, {held} held",
            limited=guard["limited"],
            commands=guard["commands"],
            held=guard["held"],
        )
        lines.append(f"  {pad(tr('safety guard'), 26)} {counted}")
        if (jumps := self.chunk_boundaries()) is not None:
            largest, usual = jumps["largest_step"]["p50"], jumps["median_step"]
            jumped = tr(
                "{count:g} a rollout, largest step {largest:.2f} of what the guard allows (a usual one {usual:.2f})",
                count=jumps["count"],
                largest=largest,
                usual=usual,
            )
            lines.append(f"  {pad(tr('chunk boundaries'), 26)} {jumped}")
        share_of_network = self.network_s / self.seconds if self.seconds else 0.0
        speed = tr_plural(
            "{n} rollout in {seconds:.1f} s ({per_hour:,.0f} an hour); the network took {share:.0%} of it",
            "{n} rollouts in {seconds:.1f} s ({per_hour:,.0f} an hour); the network took {share:.0%} of it",
            len(self.rollouts),
            seconds=self.seconds,
            per_hour=self.rollouts_per_hour(),
            share=share_of_network,
        )
        lines.append(f"  {pad(tr('speed'), 26)} {speed}")
        return "\n".join(lines)


def to_json(about: Mapping[str, Any], evaluated: Sequence[CheckpointResult]) -> dict[str, Any]:
    """The whole report as plain values."""
    comparison = compared(evaluated)
    found = None
    if comparison is not None:
        found = {
            **asdict(comparison),
            "difference": comparison.difference,
            "interval95": list(comparison.interval()),
            "p_value": comparison.p_value(),
            "verdict": comparison.verdict(),
        }
    return {**about, "checkpoints": [each.to_json() for each in evaluated], "comparison": found}


def table(evaluated: Sequence[CheckpointResult]) -> str:
    """The whole report as text."""
    parts = [each.table() for each in evaluated if each.rollouts]
    comparison = compared(evaluated)
    return "\n\n".join(["", *parts, *([comparison.table()] if comparison else [])])


def compared(evaluated: Sequence[CheckpointResult]) -> CheckpointComparison | None:
    """Comparison of two checkpoints, over the starts that both have run; None where there is none."""
    if len(evaluated) != 2:
        return None
    comparison = CheckpointComparison.of(*(each.verdicts() for each in evaluated))
    return comparison if comparison.starts else None
