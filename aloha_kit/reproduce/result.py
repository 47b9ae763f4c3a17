"""Result of a reproduction: success rates with intervals, wall times, and the file reproduce.json that holds them.

The file also holds all that an interrupted reproduction needs to go on.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aloha_kit.config import from_mapping, to_mapping
from aloha_kit.core import ConfigError
from aloha_kit.loop import wilson_interval
from aloha_kit.reproduce.preset import Preset, Target

RESULT, TABLE = "reproduce.json", "reproduce.md"  # in the folder of a reproduction
PUBLISHED = {"transfer_cube": 0.9, "insertion": 0.5}
"""ACT's approximate success rate on scripted demonstrations (README of tonyzhaozh/act): 50 rollouts, at any time."""


@dataclass(frozen=True)
class Attempt:
    """One run of a stage's command. Without `seconds` it was killed, or is running."""

    stage: str
    command: str
    started: str  # ISO 8601
    surroundings: int  # index into the result's
    seed: int | None = None
    seconds: float | None = None
    status: int | None = None


@dataclass(frozen=True)
class Surroundings:
    """Machine and software that commands ran on."""

    versions: dict[str, str]
    cpu: str
    cores: int
    device: str
    gpu: str | None  # None where the networks ran on the CPU
    commit: str | None  # None outside a checkout


@dataclass(frozen=True)
class SuccessRate:
    """Successes of trials, with Wilson's 95 % interval."""

    successes: int
    trials: int
    rate: float
    wilson95: tuple[float, float]

    @classmethod
    def of(cls, successes: int, trials: int) -> SuccessRate:
        return cls(successes, trials, successes / trials, wilson_interval(successes, trials))

    @classmethod
    def pooled(cls, rates: Sequence[SuccessRate]) -> SuccessRate:
        """The rate of all trials together. Its interval covers the start states, not the training seeds."""
        return cls.of(sum(rate.successes for rate in rates), sum(rate.trials for rate in rates))


@dataclass(frozen=True)
class Coverage:
    """Mean of the rollouts' best rewards in Push-T, with their standard deviation."""

    mean: float
    deviation: float
    trials: int

    @classmethod
    def of(cls, rewards: Sequence[float]) -> Coverage:
        return cls(statistics.fmean(rewards), statistics.pstdev(rewards), len(rewards))

    @classmethod
    def pooled(cls, parts: Sequence[Coverage]) -> Coverage:
        """Coverage of all trials together."""
        trials = sum(part.trials for part in parts)
        mean = sum(part.mean * part.trials for part in parts) / trials
        squares = sum((part.deviation**2 + (part.mean - mean) ** 2) * part.trials for part in parts)
        return cls(mean, math.sqrt(squares / trials), trials)

    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean, of a normal distribution."""
        half = 1.96 * self.deviation / math.sqrt(self.trials)
        return self.mean - half, min(self.mean + half, 1.0)


@dataclass(frozen=True)
class WallTime:
    """Wall time of a stage, all attempts together; not `complete` where one was killed, which then counts for 0."""

    seconds: float
    complete: bool = True

    @classmethod
    def of(cls, attempts: Sequence[Attempt]) -> WallTime:
        known = [attempt.seconds for attempt in attempts if attempt.seconds is not None]
        return cls(round(sum(known), 1), len(known) == len(attempts))

    def __add__(self, other: WallTime) -> WallTime:
        return WallTime(round(self.seconds + other.seconds, 1), self.complete and other.complete)


@dataclass(frozen=True)
class SeedResult:
    """One training and its evaluation."""

    seed: int
    held: SuccessRate  # highest reward at the last step
    any_time: SuccessRate  # highest reward at some step, as the reference counts
    train: WallTime
    eval: WallTime
    coverage: Coverage | None = None  # Push-T alone


@dataclass(frozen=True)
class Summary:
    """All seeds together."""

    held: SuccessRate
    any_time: SuccessRate
    lowest: float  # rate of the worst seed
    highest: float
    deviation: float | None  # sample standard deviation of the seeds' rates; None for one seed
    record: WallTime  # validation included; of demonstrations recorded before, that alone
    one_seed: WallTime  # all stages with the slowest seed
    success_reached: bool
    time_kept: bool | None  # None without a limit, or where only recording's time, which is not known, could exceed it
    coverage: Coverage | None = None
    coverage_reached: bool | None = None


@dataclass(frozen=True)
class Result:
    """A reproduction so far.

    Attributes:
        values: the preset's.
        episodes: folder of demonstrations recorded before, whose time is in no stage; None where they are recorded.
    """

    task: str
    preset: str
    num_steps: int
    batch_size: int
    published: float | None
    values: dict[str, Any]
    surroundings: tuple[Surroundings, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    seeds: tuple[SeedResult, ...] = ()
    summary: Summary | None = None
    episodes: str | None = None

    def of_stage(self, stage: str, seed: int | None = None) -> list[Attempt]:
        return [attempt for attempt in self.attempts if (attempt.stage, attempt.seed) == (stage, seed)]


def new_result(task: str, name: str, preset: Preset, episodes: Path | None = None) -> Result:
    """A result of which no stage has run; `episodes` as in `Result`.

    Raises:
        ConfigError: the preset names an unknown policy or recipe.
    """
    training = preset.training
    values = to_mapping(preset)
    steps, batch, published = training.num_steps, training.batch_size, PUBLISHED.get(task)
    where = None if episodes is None else str(episodes)
    return Result(task, name, steps, batch, published, values, episodes=where)


def read(file: Path) -> Result:
    """Read a result from its file.

    Raises:
        ConfigError: the file is missing or damaged.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError("'{file}' is missing or damaged: {error}", file=file, error=error) from error
    if not isinstance(values, dict):
        raise ConfigError("'{file}' must hold an object, given: {name}", file=file, name=type(values).__name__)
    return from_mapping(Result, values, where=str(file))


def read_or_new(folder: Path, new: Result) -> Result:
    """The result in a folder, of the same reproduction as `new`; `new` where the folder is empty.

    Raises:
        ConfigError: the folder holds something else, or a reproduction with other values; names them.
    """
    if not (folder / RESULT).is_file():
        there = sorted(path.name for path in folder.glob("[!.]*"))  # hidden: the lock, an unfinished file
        if there:
            raise ConfigError(
                "'{folder}' is not a reproduction: it lacks {result} and holds {there}; choose another place "
                "with --output",
                folder=folder,
                result=RESULT,
                there=", ".join(there[:5]),
            )
        return new
    then = read(folder / RESULT)
    values = to_mapping(from_mapping(Preset, then.values, where=str(folder / RESULT)))  # under the names of today
    was, now = (
        {**_flat(v), "task": r.task, "num_steps": r.num_steps, "episodes": r.episodes}
        for r, v in ((then, values), (new, new.values))
    )
    differing = [
        f"{key} {was.get(key)} (now {now.get(key)})"
        for key in sorted(was.keys() | now.keys())
        if was.get(key) != now.get(key) and not key.startswith("target.")
    ]
    if differing:
        raise ConfigError(
            "'{folder}' was started with {differing}; choose another place with --output to start anew",
            folder=folder,
            differing=", ".join(differing),
        )
    return replace(then, preset=new.preset, values=new.values)


def seed_result(result: Result, seed: int, report: dict[str, Any]) -> SeedResult:
    """The result of one seed, from the report of `aloha_kit.eval`."""
    (checkpoint,) = report["checkpoints"]
    held, any_time = (
        SuccessRate.of(checkpoint[key]["successes"], checkpoint[key]["trials"])
        for key in ("success", "success_any_time")
    )
    train, evaluation = (WallTime.of(result.of_stage(stage, seed)) for stage in ("train", "eval"))
    coverage = None
    if result.task.startswith("pusht"):
        coverage = Coverage.of([rollout["max_reward"] for rollout in checkpoint["rollouts"]])
    return SeedResult(seed, held, any_time, train, evaluation, coverage)


def summarise(result: Result, target: Target) -> Summary | None:
    """All seeds together, compared with the target; None before the first of them is evaluated."""
    if not result.seeds:
        return None
    rates = [seed.held.rate for seed in result.seeds]
    held = SuccessRate.pooled([seed.held for seed in result.seeds])
    record = WallTime.of(result.of_stage("record")) + WallTime.of(result.of_stage("validate"))
    one_seed = record + max((seed.train + seed.eval for seed in result.seeds), key=lambda wall: wall.seconds)
    parts = [seed.coverage for seed in result.seeds if seed.coverage is not None]
    coverage = Coverage.pooled(parts) if parts else None
    wanted = target.coverage
    time_kept = None if target.minutes is None else one_seed.complete and one_seed.seconds <= 60 * target.minutes
    if time_kept and result.episodes is not None:
        time_kept = None
    return Summary(
        held=held,
        any_time=SuccessRate.pooled([seed.any_time for seed in result.seeds]),
        lowest=min(rates),
        highest=max(rates),
        deviation=statistics.stdev(rates) if len(rates) > 1 else None,
        record=record,
        one_seed=one_seed,
        success_reached=target.success is None or held.rate >= target.success,
        time_kept=time_kept,
        coverage=coverage,
        coverage_reached=None if wanted is None or coverage is None else coverage.mean >= wanted,
    )


def _flat(values: object, at: str = "") -> dict[str, object]:
    """{"train.lr": 1e-4, …}"""
    if not isinstance(values, dict):
        return {at: values}
    inner = (_flat(value, f"{at}.{key}" if at else str(key)) for key, value in values.items())
    return {key: value for flat in inner for key, value in flat.items()}
