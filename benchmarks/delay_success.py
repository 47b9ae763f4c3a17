"""Success and smoothness of a trained policy whose network answers late, by how chunks are joined: prints one table.

    python benchmarks/delay_success.py --ckpt RUN [--plot delay.png]

Every cell is `aloha_kit.eval --delay_steps N` from the same starts: chunks switched (`--chunk_boundary none`), faded
(`--chunk_boundary blend`), or averaged (`--temporal_agg`, inference as often as chunks come; every 5 steps where they
take less, since inference at every step costs five times as much here and does not suit a network that is slow). The
schedule is deployment's asynchronous inference in virtual time, so that nothing depends on the machine's speed.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

WAYS: dict[str, dict[str, Any]] = {
    "switch": {"chunk_boundary": "none"},
    "fade": {"chunk_boundary": "blend"},
    "average": {"temporal_agg": True, "n_action_steps": 5},
}


@dataclass(frozen=True)
class Options:
    """What to try."""

    ckpt: Path
    """A run or a checkpoint folder."""
    task: str = "sim_transfer_cube"
    num_rollouts: int = 100
    """Rollouts of each cell."""
    delays: Annotated[tuple[int, ...], arg(metavar="N ...")] = (0, 10, 20, 30)
    """Steps from an observation to its chunk; those of a chunk's length or more are left out."""
    seed: int = 100_000
    plot: Path | None = None
    """Write an image of the table."""


@dataclass(frozen=True)
class Cell:
    """One way at one delay, over all starts."""

    delay: int
    way: str
    verdicts: dict[int, bool]  # by seed
    largest: list[float]  # the largest step at a chunk boundary, in what the guard lets pass
    usual: list[float]  # the median step
    slowed: float  # entries of commands that the guard slowed down, a rollout
    held: float  # steps held for want of a chunk, a rollout

    @property
    def successes(self) -> int:
        return sum(self.verdicts.values())


def measure(options: Options) -> list[Cell]:
    """Every cell that the policy's chunks allow."""
    from aloha_kit.config import load, RigConfig, TaskConfig
    from aloha_kit.core import ConfigError
    from aloha_kit.eval.args import EvalArgs
    from aloha_kit.eval.checkpoint_evaluator import CheckpointEvaluator, EvaluationSettings
    from aloha_kit.eval.evaluation_report import CheckpointResult
    from aloha_kit.policies.find import find_checkpoint

    source = find_checkpoint(options.ckpt)
    task = load(TaskConfig, "tasks", options.task)
    rig = load(RigConfig, "rigs", task.rig)
    cells = []
    for delay in options.delays:
        for way, flags in WAYS.items():
            args = EvalArgs(
                ckpt=(source,), task=(options.task,), num_rollouts=options.num_rollouts, seed=options.seed,
                delay_steps=delay, **flags,
            )  # fmt: skip
            settings = EvaluationSettings(
                task, rig, range(args.seed, args.seed + args.rollouts), args.execution, args.inference_settings,
                args.at_a_time, args.processes,
            )  # fmt: skip
            try:
                evaluator = CheckpointEvaluator(source, settings)
            except ConfigError as error:  # no chunk reaches that far
                print(f"left out: {error}", file=sys.stderr)
                continue
            result = CheckpointResult(f"{way} at {delay}", evaluator.about())
            evaluator.evaluate(result, lambda: None)
            cells.append(cell(delay, way, result))
    return cells


def cell(delay: int, way: str, result: Any) -> Cell:
    """An evaluation's entries of the table."""
    rollouts = result.rollouts
    return Cell(
        delay,
        way,
        result.verdicts(),
        [rollout.chunk_boundaries["largest"] for rollout in rollouts],
        [rollout.chunk_boundaries["median_step"] for rollout in rollouts],
        sum(sum(rollout.guard["limited_by"]["speed"].values()) for rollout in rollouts) / len(rollouts),
        sum(rollout.guard["held"] for rollout in rollouts) / len(rollouts),
    )


def against(mine: Cell, other: Cell | None) -> str:
    """The difference in points and the p-value of the exact McNemar test."""
    from aloha_kit.eval.compare import CheckpointComparison

    if other is None or other is mine:
        return "–"
    found = CheckpointComparison.of(other.verdicts, mine.verdicts)
    return f"{100 * found.difference:+.0f} (p = {found.p_value():.2g})"


def table(cells: Sequence[Cell]) -> str:
    """Markdown."""
    from aloha_kit.loop import wilson_interval

    by = {(each.delay, each.way): each for each in cells}
    lines = [
        "| delay, steps | chunks are | success | 95 % | against switching, points | against no delay, points | "
        "largest step at a chunk boundary | in usual steps | slowed by the guard | held |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for each in cells:
        low, high = wilson_interval(each.successes, len(each.verdicts))
        largest, usual = statistics.median(each.largest), statistics.median(each.usual)
        words = {"switch": "switched", "fade": "faded", "average": "averaged"}[each.way]
        lines.append(
            f"| {each.delay} | {words} | {each.successes}/{len(each.verdicts)} | {low:.0%} to {high:.0%} "
            f"| {against(each, by.get((each.delay, 'switch')))} | {against(each, by.get((0, each.way)))} "
            f"| {largest:.2f} (worst {max(each.largest):.2f}) | {largest / usual:.0f} "
            f"| {each.slowed:.1f} | {each.held:.0f} |"
        )
    return "\n".join(lines)


def plot(cells: Sequence[Cell], path: Path) -> None:
    """Success and the largest step, each over the delay."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from aloha_kit.loop import wilson_interval

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for beside, way in zip((-0.3, 0.0, 0.3), WAYS, strict=True):  # so that equal points can be distinguished
        mine = [each for each in cells if each.way == way]
        delays = [each.delay + beside for each in mine]
        rates = [each.successes / len(each.verdicts) for each in mine]
        bounds = [wilson_interval(each.successes, len(each.verdicts)) for each in mine]
        below = [max(0.0, rate - low) for rate, (low, _) in zip(rates, bounds, strict=True)]
        above = [max(0.0, high - rate) for rate, (_, high) in zip(rates, bounds, strict=True)]
        left.errorbar(delays, rates, [below, above], marker="o", capsize=3, label=way)
        right.plot(delays, [statistics.median(each.largest) for each in mine], marker="o", label=way)
    left.set(xlabel="delay, steps", ylabel="success", ylim=(-0.02, 1.05))
    right.set(
        xlabel="delay, steps", ylabel="largest step at a chunk boundary,\nin what the guard lets pass", ylim=(0, None)
    )
    right.axhline(1.0, color="grey", linewidth=0.8)
    left.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    import tyro

    from aloha_kit.startup import limit_spinning

    options = tyro.cli(Options, use_underscores=True)
    limit_spinning()  # as in aloha_kit.eval
    cells = measure(options)
    print(f"\n{options.task}, {options.num_rollouts} rollouts each, seeds from {options.seed}\n\n{table(cells)}")
    if options.plot:
        plot(cells, options.plot)
        print(f"\n{options.plot}")


if __name__ == "__main__":
    main()
