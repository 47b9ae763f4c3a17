"""What a reproduction comes to: reproduce.json, which is also the memory of one that was interrupted."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aloha_kit.config import to_mapping
from aloha_kit.loop import wilson_interval
from aloha_kit.reproduce.preset import Preset

PUBLISHED = {"transfer_cube": 0.9, "insertion": 0.5}
"""ACT's success on scripted demonstrations, about, by the README of tonyzhaozh/act: 50 rollouts, at any time."""


@dataclass(frozen=True)
class Attempt:
    """One run of a stage's command. Without `seconds` it was killed, or is under way."""

    stage: str
    command: str
    started: str  # ISO 8601
    surroundings: int  # index into the result's
    seed: int | None = None
    seconds: float | None = None
    status: int | None = None


@dataclass(frozen=True)
class Surroundings:
    """Where commands ran."""

    versions: dict[str, str]
    cpu: str
    cores: int
    device: str
    gpu: str | None  # None where the networks ran on the CPU
    commit: str | None  # None outside a checkout


@dataclass(frozen=True)
class Rate:
    """Successes of trials, with Wilson's 95 % interval."""

    successes: int
    trials: int
    rate: float
    wilson95: tuple[float, float]

    @classmethod
    def of(cls, successes: int, trials: int) -> Rate:
        return cls(successes, trials, successes / trials, wilson_interval(successes, trials))

    @classmethod
    def together(cls, rates: Sequence[Rate]) -> Rate:
        """All trials counted as one: right for starts that differ, blind to what the trainings have in common."""
        return cls.of(sum(rate.successes for rate in rates), sum(rate.trials for rate in rates))


@dataclass(frozen=True)
class Wall:
    """Wall time of a stage, all attempts together; not `complete` where one was killed, which then counts for 0."""

    seconds: float
    complete: bool = True

    @classmethod
    def of(cls, attempts: Sequence[Attempt]) -> Wall:
        known = [attempt.seconds for attempt in attempts if attempt.seconds is not None]
        return cls(round(sum(known), 1), len(known) == len(attempts))

    def __add__(self, other: Wall) -> Wall:
        return Wall(round(self.seconds + other.seconds, 1), self.complete and other.complete)


@dataclass(frozen=True)
class SeedResult:
    """One training and its evaluation."""

    seed: int
    held: Rate  # top reward at the last step
    any_time: Rate  # top reward at some step, what the reference counts
    train: Wall
    eval: Wall


@dataclass(frozen=True)
class Summary:
    """All seeds together."""

    held: Rate
    any_time: Rate
    lowest: float  # rate of the worst seed
    highest: float
    deviation: float | None  # sample standard deviation of the seeds' rates; None for one seed
    record: Wall  # validation included
    one_seed: Wall  # from nothing to the result of the slowest seed
    success_reached: bool
    time_kept: bool | None  # None where time is no matter


@dataclass(frozen=True)
class Result:
    """A reproduction so far; `values` are the preset's."""

    task: str
    preset: str
    num_steps: int
    batch_size: int
    published: float
    values: dict[str, Any]
    surroundings: tuple[Surroundings, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    seeds: tuple[SeedResult, ...] = ()
    summary: Summary | None = None

    def of_stage(self, stage: str, seed: int | None = None) -> list[Attempt]:
        return [attempt for attempt in self.attempts if (attempt.stage, attempt.seed) == (stage, seed)]


def fresh(task: str, name: str, preset: Preset) -> Result:
    """One of which nothing has been done yet.

    Raises:
        ConfigError: the preset names an unknown policy or recipe.
    """
    training = preset.training
    values = to_mapping(preset)
    return Result(task, name, training.num_steps, training.batch_size, PUBLISHED[task], values)


def seed_result(result: Result, seed: int, report: dict[str, Any]) -> SeedResult:
    """One seed's part, from what `aloha_kit.eval` wrote."""
    (checkpoint,) = report["checkpoints"]
    held, any_time = (
        Rate.of(checkpoint[key]["successes"], checkpoint[key]["trials"]) for key in ("success", "success_any_time")
    )
    train, evaluation = (Wall.of(result.of_stage(stage, seed)) for stage in ("train", "eval"))
    return SeedResult(seed, held, any_time, train, evaluation)


def summarise(result: Result, success: float, minutes: float | None) -> Summary | None:
    """The seeds together, beside what was to be reached; None before the first of them is evaluated."""
    if not result.seeds:
        return None
    rates = [seed.held.rate for seed in result.seeds]
    held = Rate.together([seed.held for seed in result.seeds])
    record = Wall.of(result.of_stage("record")) + Wall.of(result.of_stage("validate"))
    one_seed = record + max((seed.train + seed.eval for seed in result.seeds), key=lambda wall: wall.seconds)
    return Summary(
        held=held,
        any_time=Rate.together([seed.any_time for seed in result.seeds]),
        lowest=min(rates),
        highest=max(rates),
        deviation=statistics.stdev(rates) if len(rates) > 1 else None,
        record=record,
        one_seed=one_seed,
        success_reached=held.rate >= success,
        time_kept=None if minutes is None else one_seed.complete and one_seed.seconds <= 60 * minutes,
    )
