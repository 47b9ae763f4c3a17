"""Comparison of failed rollouts with successful ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from aloha_kit.core import plural
from aloha_kit.core.lang import pad, shown, tr
from aloha_kit.diagnose.diagnosis import Diagnosis

SURE = 2.8
"""Standard errors from chance. A dozen measures are compared, so 2 would find something in any noise."""


@dataclass(frozen=True)
class Shared:
    """A finding that several failed rollouts have."""

    subject: str
    check: str
    failed: int
    succeeded: int


@dataclass(frozen=True)
class Difference:
    """A measure that differs between failed and successful rollouts: medians, and P(failed > successful)."""

    measure: str
    failed: float
    succeeded: float
    more: float


@dataclass(frozen=True)
class RolloutComparison:
    """All rollouts of a folder together."""

    failed: int
    succeeded: int
    unjudged: int
    shared: tuple[Shared, ...]
    differences: tuple[Difference, ...]

    def to_mapping(self) -> dict[str, Any]:
        """Mapping for JSON."""
        return asdict(self)

    def text(self) -> str:
        """Comparison as text."""
        lines = [
            tr(
                "{rollouts}, {succeeded} successful, {unjudged} not judged",
                rollouts=plural(self.failed, "failed rollout"),
                succeeded=self.succeeded,
                unjudged=self.unjudged,
            )
        ]
        if self.shared:
            lines += ["", tr("What the failed ones have in common")]
            for each in self.shared:
                among = tr(
                    "{failed} of {all_failed} failed, {succeeded} of {all_succeeded} successful",
                    failed=each.failed,
                    all_failed=self.failed,
                    succeeded=each.succeeded,
                    all_succeeded=self.succeeded,
                )
                lines.append(f"  {shown(each.subject)}: {pad(tr(each.check), 12)} {among}")
        if self.differences:
            lines += ["", tr("How they differ from the successful ones (medians)")]
            lines += [
                "  "
                + tr(
                    "{measure}: {failed:.3g} against {succeeded:.3g}",
                    measure=each.measure,
                    failed=each.failed,
                    succeeded=each.succeeded,
                )
                for each in self.differences
            ]
        if self.failed and not self.shared and not self.differences:
            lines.append(tr("no finding is shared, and no measure differs between failed and successful ones"))
        return "\n".join(lines)


def compare(diagnoses: Sequence[Diagnosis]) -> RolloutComparison:
    """Count findings among failed and successful rollouts, and find measures that differ between them."""
    failed = [d for d in diagnoses if d.success is False]
    succeeded = [d for d in diagnoses if d.success]
    counts = [Counter(key for d in group for key in _findings(d)) for group in (failed, succeeded)]
    shared = [Shared(subject, check, n, counts[1][subject, check]) for (subject, check), n in counts[0].items()]
    shared.sort(key=lambda each: each.succeeded / max(len(succeeded), 1) - each.failed / max(len(failed), 1))
    return RolloutComparison(
        len(failed),
        len(succeeded),
        len(diagnoses) - len(failed) - len(succeeded),
        tuple(each for each in shared if each.failed > 1 or len(failed) == 1),
        _differences(failed, succeeded),
    )


def _findings(diagnosis: Diagnosis) -> set[tuple[str, str]]:
    return {(cause.finding.subject, cause.finding.check) for cause in diagnosis.causes}


def _differences(failed: Sequence[Diagnosis], succeeded: Sequence[Diagnosis]) -> tuple[Difference, ...]:
    """The rank test of Mann and Whitney (1947) on each measure, in its normal approximation."""
    if min(len(failed), len(succeeded)) < 3:
        return ()
    found = []
    for measure in failed[0].measures:
        a, b = (np.array([d.measures[measure] for d in each if measure in d.measures]) for each in (failed, succeeded))
        if min(len(a), len(b)) < 3:
            continue
        more = float(((a[:, None] > b).mean() + (a[:, None] >= b).mean()) / 2)
        error = np.sqrt((len(a) + len(b) + 1) / (12 * len(a) * len(b)))
        if abs(more - 0.5) > SURE * error:
            found.append(Difference(measure, float(np.median(a)), float(np.median(b)), more))
    return tuple(sorted(found, key=lambda each: -abs(each.more - 0.5)))
