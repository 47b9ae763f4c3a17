"""Checks of the control loop's timing: late steps, old observations."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from aloha_kit.core.findings import Finding
from aloha_kit.core.lang import joined, Message
from aloha_kit.diagnose.causes import Cause, Flags, level, Limits, words, worst
from aloha_kit.diagnose.evidence import Evidence
from aloha_kit.storage.step_log import RecordedStep
from aloha_kit.storage.vectors import longest_run, runs

REMEDIES = {
    "network": Message(
        "run inference beside the loop (--inference async), or make it faster: another --engine, a GPU, a smaller "
        "network, fewer inferences (--n_action_steps)"
    ),
    "preprocessing": Message("smaller images, or cameras that send the size that the network reads"),
    "observation": Message(
        "run python -m aloha_kit.doctor: cameras or drivers that are late; a simulation draws too slowly"
    ),
    "command": Message(
        "where chunks are waited for, make the network faster; end other programs that use the processor"
    ),
    "recording": Message("another disk, fewer or smaller images, end other programs that use the processor"),
    "": Message("deploy again with this version, whose log records the stage"),
}


def check_overruns(evidence: Evidence, limits: Limits) -> Iterator[Cause]:
    """Steps that took longer than their period. The first one is left out: nothing moves before it."""
    if evidence.simulated_time or evidence.steps < 2:
        return
    period_ms = 1000 / evidence.rate_hz
    log = evidence.log
    if log is not None and len(log) > 1:
        total_ms = np.array([0.0] + [step.ms["total"] for step in log[1:]])
        stage, blame = _blame(log)
    elif (deadline := evidence.stamps.get("deadline")) is not None:
        # a step that is late moves the deadlines behind it
        total_ms = np.append(np.diff(deadline) / 1e6, 0.0)
        total_ms[total_ms < 1.2 * period_ms] = 0.0
        stage, blame = "", ""
    else:
        return
    late: Flags = total_ms > period_ms
    if not late.any():
        return
    share, stall_s = float(late.mean()), float(total_ms.max() - period_ms) / 1e3
    length, first = longest_run(late)
    found = Message(
        "{late} of {count} steps ({share:.1%}) took longer than the period of {period_ms:g} ms, up to {longest:.0f} "
        "ms{blame}",
        late=late.sum(),
        count=len(late),
        share=share,
        period_ms=period_ms,
        longest=total_ms.max(),
        blame=blame,
    )
    if length > 1:
        found = joined([found, Message("{length} in a row from step {first}", length=length, first=first)])
    grade = worst(level(share, limits.late), level(stall_s, limits.stall_s))
    if grade != "ok":
        remedy = REMEDIES.get(stage, Message("make {stage} faster", stage=stage))
        finding = Finding(
            grade, "late", stage or Message("loop"), found, Message("every step within its period"), remedy
        )
        yield Cause(finding, tuple(runs(late)))


def check_streams(evidence: Evidence, limits: Limits) -> Iterator[Cause]:
    """Samples that were old when they were observed, and samples that were observed repeatedly."""
    if not evidence.streams:
        return
    # not the command's: it is sent after the observation, and how much later is the loop's doing
    newest = np.stack([stamps for name, stamps in evidence.stamps.items() if name != "command"]).max(axis=0)
    remedy = Message("cable, USB bandwidth, exposure time or driver of that stream: python -m aloha_kit.doctor")
    for name, stamps in evidence.streams.items():
        age_s = (newest - stamps) / 1e9
        old = float(np.percentile(age_s, 95))
        if (grade := level(old, limits.age_s)) != "ok":
            where = tuple(runs(age_s >= limits.age_s[0]))
            found = Message(
                "{old:.0f} ms old (95th percentile), up to {longest:.0f} ms; {steps}",
                old=old * 1e3,
                longest=age_s.max() * 1e3,
                steps=words(where),
            )
            expected = Message("below {ms:.0f} ms", ms=limits.age_s[0] * 1e3)
            yield Cause(Finding(grade, "stale", name, found, expected, remedy), where)
        again: Flags = np.append(False, np.diff(stamps) == 0)
        length, first = longest_run(again)
        share, still_s = float(again.mean()), length / evidence.rate_hz
        grade = worst(level(still_s, limits.still_s), level(share, limits.repeated))
        if grade != "ok":
            found = Message(
                "{share:.0%} of the steps have the sample of the step before, up to {length} in a row ({still_s:.2f} "
                "s) from step {first}",
                share=share,
                length=length,
                still_s=still_s,
                first=first,
            )
            expected = Message("a new sample within {still_s:g} s", still_s=limits.still_s[0])
            yield Cause(Finding(grade, "repeated", name, found, expected, remedy), tuple(runs(again)))


def _blame(log: tuple[RecordedStep, ...]) -> tuple[str, str]:
    """The stage that took most of the late steps, and its description."""
    late = [step.ms for step in log[1:] if step.missed]
    if not late:
        return "", ""
    stages = {stage for ms in late for stage in ms} - {"total"}
    means = {stage: float(np.mean([ms.get(stage, 0.0) for ms in late])) for stage in sorted(stages)}
    stage = max(means, key=means.__getitem__)
    return stage, Message(", of which {stage} took {ms:.0f} ms on average", stage=stage, ms=means[stage])
