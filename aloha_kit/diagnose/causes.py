"""Causes of failed rollouts, each a finding with the steps that show it, and the limits of the checks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.core.findings import Finding, Level
from aloha_kit.core.lang import joined, marked, Message

Flags = npt.NDArray[np.bool_]
Runs = tuple[tuple[int, int], ...]
"""[begin, end) of some stretches of steps."""


@dataclass(frozen=True)
class Limits:
    """Limits of the checks of rollouts; pairs are (warning, error)."""

    late: tuple[float, float] = (0.01, 0.1)
    """Share of the steps that took longer than the period."""
    stall_s: tuple[float, float] = (0.2, 1.0)
    """The longest that one step was late."""
    age_s: tuple[float, float] = (0.1, 0.25)
    """95th percentile of a stream's age."""
    repeated: tuple[float, float] = (0.7, 0.9)
    """Share of the steps that repeated a stream's old sample: 0.7 is a 15 Hz camera at 50 Hz."""
    still_s: tuple[float, float] = (0.12, 0.25)
    """The longest that a stream's sample stayed the same."""
    held: tuple[float, float] = (0.01, 0.1)
    """Share of the steps held still."""
    held_s: tuple[float, float] = (0.1, 0.5)
    """The longest hold."""
    delay_s: tuple[float, float] = (0.2, 0.5)
    """Median time from an observation to the first action of its chunk."""
    boundary_ratio: float = 3.0
    """A jump where chunks meet counts from so many times an ordinary step's change (its 90th percentile)."""
    boundary_jump: tuple[float, float] = (0.03, 0.1)
    """That jump, median over the chunk boundaries (rad, or share of a gripper's opening)."""
    beyond: tuple[float, float] = (0.1, 0.3)
    """A joint beyond the range of training, in shares of that range (which counts as 0.5 rad at least)."""
    start: tuple[float, float] = (0.05, 0.15)
    """A joint's start beyond training's starts (rad, or share of a gripper's opening)."""
    deviations: tuple[float, float] = (5.0, 8.0)
    """Standard deviations from training's mean, where its range is not known."""
    cell: float = 0.02
    """A cell's colour beyond training's range counts from this much (of full brightness)."""
    cells: tuple[float, float] = (0.03, 0.2)
    """Mean share of a camera's cells that are beyond training's range."""
    limited: tuple[float, float] = (0.05, 0.3)
    """Share of the steps in which the guard limited an entry's range or speed."""
    ramp_s: tuple[float, float] = (3.0, 6.0)
    """How long the way to the policy's first command took."""
    stalled: float = 0.05
    """Joints that all stay within so much (rad, or share of a gripper's opening) stand still."""
    stalled_s: tuple[float, float] = (2.5, 4.0)
    """The longest standstill; what is done early and then rests to the end of its time stays below."""
    motion: tuple[float, float] = (0.1, 0.02)
    """The most that an entry of the action moved, in shares of its range in training: too little, not too much."""


@dataclass(frozen=True)
class Cause:
    """One reason why a rollout may have failed, and the steps that show it."""

    finding: Finding
    steps: Runs

    @property
    def begins(self) -> int:
        """The first step that shows it."""
        return self.steps[0][0] if self.steps else 0

    def to_mapping(self) -> dict[str, Any]:
        """Mapping for JSON; steps as [first, last]."""
        return {**dataclasses.asdict(self.finding), "steps": [[begin, end - 1] for begin, end in self.steps]}


CHECKS = (
    *(marked("ending"), marked("late"), marked("stale"), marked("repeated"), marked("held"), marked("delay")),
    *(marked("chunk boundaries"), marked("start"), marked("joint"), marked("image"), marked("limited")),
    *(marked("ramp"), marked("motion"), marked("stalled"), marked("gripper")),
)
"""Names of the checks, as findings have them."""

_LEVELS: tuple[Level, ...] = ("ok", "warning", "error")


def level(value: float, limits: tuple[float, float]) -> Level:
    """A warning from the first limit on, an error from the second."""
    return _LEVELS[int(value >= limits[0]) + int(value >= limits[1])]


def worst(*levels: Level) -> Level:
    """The worst of some levels; ok of none."""
    return max(levels, key=_LEVELS.index, default="ok")


def ranked(causes: Sequence[Cause]) -> tuple[Cause, ...]:
    """Errors before warnings, and what began earlier before what may have come of it."""
    return tuple(sorted(causes, key=lambda cause: (cause.finding.level != "error", cause.begins)))


def words(steps: Runs, shown: int = 3) -> str:
    """`step 7`, `steps 12 to 40, 88 and 3 more stretches`: the longest ones."""
    longest = sorted(sorted(steps, key=lambda run: run[0] - run[1])[:shown])
    named = joined(
        [
            str(begin) if end - begin == 1 else Message("{first} to {last}", first=begin, last=end - 1)
            for begin, end in longest
        ],
        ", ",
    )
    more = len(steps) - len(longest)
    if more:
        ending = Message(" and 1 more stretch") if more == 1 else Message(" and {more} more stretches", more=more)
        return Message("steps {named}{more}", named=named, more=ending)
    if len(longest) > 1 or any(end - begin > 1 for begin, end in longest):
        return Message("steps {named}", named=named)
    return Message("step {named}", named=named)
