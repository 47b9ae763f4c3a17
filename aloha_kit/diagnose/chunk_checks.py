"""Checks of chunk execution: chunk boundaries, delays, and steps without a chunk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from aloha_kit.core.findings import Finding
from aloha_kit.core.lang import joined, Message
from aloha_kit.diagnose.causes import Cause, Flags, level, Limits, worst
from aloha_kit.diagnose.evidence import Evidence
from aloha_kit.storage.vectors import longest_run, runs


def check_holds(evidence: Evidence, limits: Limits) -> Iterator[Cause]:
    """Steps in which the arms had to hold still, and why."""
    held: Flags = np.array([bool(step.held) for step in evidence.log or ()], bool)
    if not held.any():
        return
    length, first = longest_run(held)
    share, held_s = float(held.mean()), length / evidence.rate_hz
    grade = worst(level(share, limits.held), level(held_s, limits.held_s))
    if grade == "ok":
        return
    reasons = Counter(step.held for step in evidence.log or () if step.held)
    reason = reasons.most_common(1)[0][0]
    found = Message(
        "{held} of {count} steps ({share:.1%}) repeated the command before, up to {length} in a row ({held_s:.2f} s) "
        "from step {first}; {names}",
        held=held.sum(),
        count=len(held),
        share=share,
        length=length,
        held_s=held_s,
        first=first,
        names=joined([Message("{reason} ({n}x)", reason=why, n=n) for why, n in reasons.most_common(3)]),
    )
    late = evidence.report.get("inference", {}).get("late", 0)
    if late:
        came = Message("{late} chunks of this deployment came after their last step", late=late)
        found = joined([found, came])
    stream = next((name for name in evidence.streams if f"'{name}'" in reason), None)
    if stream is not None:
        remedy = Message("cable, USB bandwidth or driver of that stream: python -m aloha_kit.doctor")
    else:
        remedy = Message(
            "a chunk has to last longer than the network takes: a faster network (--engine, a GPU, a smaller one), or "
            "a policy trained with a larger chunk_size"
        )
    yield Cause(
        Finding(grade, "held", stream or Message("chunks"), found, Message("no step without a command"), remedy),
        tuple(runs(held)),
    )


def check_delay(evidence: Evidence, limits: Limits) -> Iterator[Cause]:
    """Chunks that were old when their first action was executed."""
    begun = [step for step in evidence.log or () if step.boundary and step.step and step.row is not None]
    if not begun:
        return
    delays = np.array([step.row or 0 for step in begun])
    typical_s = float(np.median(delays)) / evidence.rate_hz
    if (grade := level(typical_s, limits.delay_s)) == "ok":
        return
    found = Message(
        "from an observation to the first action of its chunk: {median:g} steps ({typical_s:.2f} s, median of "
        "{count}), {most} at most; what happens meanwhile is acted upon that late",
        median=np.median(delays),
        typical_s=typical_s,
        count=len(delays),
        most=delays.max(),
    )
    remedy = Message("a faster network (--engine, a GPU, a smaller one); over a network, check the connection")
    steps = tuple((step.step, step.step + 1) for step in begun)
    yield Cause(
        Finding(
            grade, "delay", Message("chunks"), found, Message("below {delay_s:g} s", delay_s=limits.delay_s[0]), remedy
        ),
        steps,
    )


def check_boundaries(evidence: Evidence, limits: Limits) -> Iterator[Cause]:
    """Jumps of the action where one chunk ends and the next begins, against those of ordinary steps."""
    boundaries, change = boundary_changes(evidence)
    # averaging begins a chunk at every step: then nothing is left to compare with
    if len(boundaries) < 1 or len(change) < 4 * len(boundaries):
        return
    ordinary: Flags = np.ones(len(change), bool)
    ordinary[[*boundaries, *(boundaries[boundaries + 1 < len(change)] + 1)]] = False
    typical = np.percentile(change[ordinary], 90, axis=0)
    jump = np.median(change[boundaries], axis=0)
    counts = np.where(jump >= limits.boundary_ratio * typical, jump, 0.0)
    if (grade := level(float(counts.max()), limits.boundary_jump)) == "ok":
        return
    names = evidence.contract.action_names
    order = [int(i) for i in np.argsort(-counts) if counts[i] >= limits.boundary_jump[0]]
    shown = [
        Message("{name} {jump:.3f} against {typical:.3f}", name=names[i], jump=jump[i], typical=typical[i])
        for i in order[:3]
    ]
    worst_boundary = int(boundaries[change[boundaries][:, order[0]].argmax()])
    found = Message(
        "where a new chunk takes over ({count} times) the action jumps more than in ordinary steps: {shown}{more} "
        "(median, 90th percentile; rad or opening); worst at step {worst_boundary}",
        count=len(boundaries),
        shown=joined(shown, ", "),
        more=Message(" and more") if len(order) > 3 else "",
        worst_boundary=worst_boundary,
    )
    remedy = Message("average the chunks (--temporal_agg), or fade one into the next (--chunk_boundary blend)")
    expected = Message(
        "less than {boundary_ratio:g} times an ordinary step's change", boundary_ratio=limits.boundary_ratio
    )
    yield Cause(
        Finding(grade, "chunk boundaries", names[order[0]], found, expected, remedy),
        tuple((int(s), int(s) + 1) for s in boundaries),
    )


def boundary_changes(evidence: Evidence) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Steps at which a new chunk took over, and (T, A) by how much each step's movement differs from the one before.

    The second difference: a chunk boundary in the middle of a fast movement is none if the movement goes on.
    """
    change = np.zeros(evidence.action.shape)
    change[2:] = np.abs(np.diff(evidence.action.astype(np.float64), 2, axis=0))
    boundaries = [step.step for step in evidence.log or () if step.boundary and 2 <= step.step < evidence.steps]
    return np.array(boundaries, np.int64), change
