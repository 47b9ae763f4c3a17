"""Checks of the actions: limited by the guard, constant, stalled, a gripper that never closes; and of the ending."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from aloha_kit.core.findings import Finding
from aloha_kit.core.lang import joined, Message
from aloha_kit.data.stats import END
from aloha_kit.diagnose.causes import Cause, Flags, level, Limits
from aloha_kit.diagnose.evidence import Evidence
from aloha_kit.storage.vectors import longest_run, runs


def check_limited(evidence: Evidence, limits: Limits) -> Iterator[Cause]:
    """Commands that the guard limited."""
    log = evidence.log or ()
    if not log:
        return
    for rule, remedy in (
        (
            "range",
            Message("the policy commands what the arm cannot do: joint order, units and gripper scale as in training?"),
        ),
        ("speed", Message("the policy jumps: check chunk boundaries and images; demonstrations were not as fast")),
    ):
        counts = Counter(entry for step in log for entry, why in step.limited if why == rule and matters(entry, why))
        if not counts:
            continue
        entry, most = counts.most_common(1)[0]
        if (grade := level(most / len(log), limits.limited)) == "ok":
            continue
        flags: Flags = np.array([(entry, rule) in step.limited for step in log], bool)
        found = Message(
            "the guard limited the {rule} of {names}",
            rule=Message(rule),
            names=joined([Message("{name} in {n} steps", name=n, n=k) for n, k in counts.most_common(4)], ", "),
        )
        yield Cause(
            Finding(grade, "limited", entry, found, Message("commands within the arm's limits"), remedy),
            tuple(runs(flags)),
        )
    ramping: Flags = np.array([any(why == "ramp" for _, why in step.limited) for step in log], bool)
    seconds = (np.flatnonzero(ramping).max(initial=-1) + 1) / evidence.rate_hz
    if (grade := level(seconds, limits.ramp_s)) != "ok":
        entry = Counter(entry for step in log for entry, why in step.limited if why == "ramp").most_common(1)[0][0]
        found = Message(
            "it took {seconds:.1f} s until the arms had caught up with the policy's first commands, {entry} longest",
            seconds=seconds,
            entry=entry,
        )
        remedy = Message("start where training started: the first command is far from the present pose")
        yield Cause(Finding(grade, "ramp", entry, found, Message("caught up at once"), remedy), tuple(runs(ramping)))


def matters(entry: str, rule: str) -> bool:
    """Whether a limited command is relevant: a gripper is pressed past its stop in demonstrations too, to
    hold firmly, and every rollout begins with a ramp."""
    return rule != "ramp" and not (rule == "range" and entry.endswith("gripper"))


def check_motion(evidence: Evidence, limits: Limits) -> Iterator[Cause]:
    """A policy whose actions hardly change."""
    if evidence.training is None or evidence.training["action"].size != evidence.action.shape[1]:
        return
    seen = evidence.training["action"]
    usual = seen.max - seen.min if np.isfinite(seen.min).all() else 4 * seen.std
    moved = float((np.ptp(evidence.action, axis=0) / np.maximum(usual, 0.02))[usual > 0.02].max(initial=0.0))
    if (grade := level(-moved, (-limits.motion[0], -limits.motion[1]))) == "ok" or evidence.steps < evidence.rate_hz:
        return
    found = Message("the action hardly changes: at most {moved:.1%} of what it moves through in training", moved=moved)
    remedy = Message("trained too little, or images unlike the demonstrations': check its loss, then the images")
    yield Cause(
        Finding(
            grade, "motion", Message("action"), found, Message("at least {motion:.0%}", motion=limits.motion[0]), remedy
        ),
        ((0, evidence.steps),),
    )


def check_stalled(evidence: Evidence, limits: Limits) -> Iterator[Cause]:
    """Arms that stop and do not go on. Failed rollouts only: those that succeed rest at the end, too.

    A policy reads one instant. Where demonstrations rest, resting is a valid prediction, and when only a few steps of
    it are executed before the next inference, the arms may rest forever; a whole chunk continues past the rest.
    """
    window = round(limits.stalled_s[0] * evidence.rate_hz)
    if evidence.success is not False or evidence.steps <= window:
        return
    # (T - window + 1,) how far any joint moves within each window: where chunks end early, commands twitch
    moved = np.ptp(np.lib.stride_tricks.sliding_window_view(evidence.qpos, window, axis=0), axis=-1).max(axis=1)
    still: Flags = np.zeros(evidence.steps, bool)
    for first in np.flatnonzero(moved < limits.stalled):
        still[first : first + window] = True
    if evidence.log:
        still &= [not step.held for step in evidence.log] + [True] * (evidence.steps - len(evidence.log))
    length, begin = longest_run(still)
    if length == evidence.steps or (grade := level(length / evidence.rate_hz, limits.stalled_s)) == "ok":
        return
    to_the_end = begin + length == evidence.steps
    known = evidence.training is not None and END in evidence.training
    if to_the_end and known and _ends_as_training(evidence, limits.start[0]):
        return
    until = Message("the end") if to_the_end else Message("step {begin}", begin=begin + length - 1)
    found = Message(
        "stands still for {seconds:.1f} s, from step {begin} to {until}: no joint moves by {stalled:g} (rad or "
        "opening) in {stalled_s:g} s",
        seconds=length / evidence.rate_hz,
        begin=begin,
        until=until,
        stalled=limits.stalled,
        stalled_s=limits.stalled_s[0],
    )
    boundaries = np.array([step.step for step in evidence.log or () if step.boundary])
    if len(boundaries) > 1:
        every = Message("an inference every {steps:g} steps", steps=np.median(np.diff(boundaries)))
        found = joined([found, every])
    if to_the_end and not known:
        grade = "warning"
        found = joined(
            [
                found,
                Message(
                    "or the policy has ended its motion: training's statistics do not record where demonstrations end"
                ),
            ]
        )
    remedy = Message(
        "play chunks out or average them (--temporal_agg) instead of a short --n_action_steps; then train longer"
    )
    yield Cause(
        Finding(grade, "stalled", Message("arms"), found, Message("goes on until it is done"), remedy),
        tuple(runs(still)),
    )


def _ends_as_training(evidence: Evidence, tolerance: float) -> bool:
    """Whether the arms rest where demonstrations end: then the policy has finished the task as it was trained."""
    assert evidence.training is not None
    seen, last = evidence.training[END], evidence.qpos[-1]
    return seen.size == len(last) and bool(((seen.min - tolerance <= last) & (last <= seen.max + tolerance)).all())


def check_grippers(evidence: Evidence, limits: Limits) -> Iterator[Cause]:
    """A gripper that opens and never closes again, or never opens, where training has both. Failed rollouts only."""
    training = evidence.training
    if training is None or evidence.success is not False or training["action"].size != evidence.action.shape[1]:
        return
    seen = training["action"]
    for i, name in enumerate(evidence.contract.action_names):
        low, high = float(seen.min[i]), float(seen.max[i])
        if not name.endswith("gripper") or not high - low > 0.3:
            continue
        opening = evidence.action[:, i]
        opened = np.flatnonzero(opening > low + 0.65 * (high - low))
        after = opening[opened[0] :] if len(opened) else opening[:0]
        if len(opened) and after.min() < low + 0.35 * (high - low):
            continue
        begin = int(opened[0]) if len(opened) else 0
        if len(opened):
            least = float(after[after.argmax() :].min())
            found = Message(
                "opens at step {begin} and never closes again: {least:.2f} at least", begin=begin, least=least
            )
        else:
            found = Message("never opens: {most:.2f} at most", most=opening.max())
        expected = Message(
            "closed and open; in training its command covers {low:.2f} to {high:.2f}", low=low, high=high
        )
        remedy = Message("the policy never came to the grasp: look at images and joints before it, and train longer")
        yield Cause(Finding("warning", "gripper", name, found, expected, remedy), ((begin, evidence.steps),))


def check_ending(evidence: Evidence, limits: Limits) -> Iterator[Cause]:
    """A rollout that an error ended."""
    if evidence.error:
        remedy = Message("read 'When something is wrong' in deploy/README.md")
        found = Message("ended after step {steps}: {reason}", steps=evidence.steps - 1, reason=evidence.reason)
        yield Cause(
            Finding("error", "ending", Message("rollout"), found, Message("the whole task"), remedy),
            ((evidence.steps - 1, evidence.steps),),
        )
