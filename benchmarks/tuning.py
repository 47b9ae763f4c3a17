"""What matters when ACT is trained: one value changed at a time, and the success rate that comes of it.

    python benchmarks/tuning.py --output tuning            # records, trains and evaluates; hours on two cores
    python benchmarks/tuning.py --output tuning --plot     # the table, and the curves as train/tuning.svg

The base is `act_cpu` on images of 72x96, 50 scripted demonstrations of handing over the cube, 1500 steps of 16
in bf16. Each other row differs from it in one value. A row is trained once (the base three times, to show what a seed
alone does) and judged by 200 rollouts of the same starts, in whole chunks. The table is written row by row, and rows
that are there are not done again, so it can be stopped and started at will.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

TASK = "sim_transfer_cube"
BASE = {"num_steps": "1500", "batch_size": "16", "num_episodes": "50", "image_size": "72 96", "amp": ""}
COLUMNS = ("factor", "value", "seed", "successes", "trials", "low", "high", "any_time", "val_deployed", "train_s")


@dataclass(frozen=True)
class Row:
    """One training and its evaluation: how they differ from the base."""

    factor: str
    value: str
    train: dict[str, str] = field(default_factory=dict)  # flags of aloha_kit.train
    evaluate: tuple[str, ...] = ()  # flags of aloha_kit.eval
    seed: int = 0

    @property
    def run(self) -> str:
        """Name of its training; rows that differ in the evaluation alone share one."""
        changes = [f"{flag}_{value}".replace(" ", "x") for flag, value in self.train.items()]
        return "_".join([*(changes or ["base"]), f"seed_{self.seed}"])


def rows() -> list[Row]:
    """In the order of what is most worth knowing."""
    swept = {
        "steps": ("num_steps", ("750", "3000", "375", "6000")),
        "demonstrations": ("num_episodes", ("25", "100", "12", "200")),
        "chunk": ("chunk_size", ("25", "100", "10")),
        "KL weight": ("kl_weight", ("1", "100", "0.1")),
        "image": ("image_size", ("48 64", "96 128", "36 48")),
        "normalisation": ("normalisation", ("min_max_11", "min_max_01")),
    }
    executions = {
        "every 5": ("--n_action_steps", "5"),
        "every 10": ("--n_action_steps", "10"),
        "every 25": ("--n_action_steps", "25"),
        "ensembled, every 5": ("--temporal_agg", "--n_action_steps", "5"),
        "ensembled, every step": ("--temporal_agg",),
    }
    switched = {
        "no latent": {"no_use_vae": ""},
        "augmentation": {"augment": ""},
        "no averaged weights": {"ema": "0"},
        "learning rate 1e-4": {"lr": "1e-4"},
        "dropout 0.1": {"dropout": "0.1"},
        "fp32": {"no_amp": ""},
    }
    # a value of each, then the next of each: an unfinished table already shows something of all
    curves = [[Row(factor, v, {flag: v}) for v in values] for factor, (flag, values) in swept.items()]
    curves.append([Row("execution", name, evaluate=flags) for name, flags in executions.items()])
    curves.append([Row("switch", name, flags) for name, flags in switched.items()])
    base = [Row("base", "", seed=seed) for seed in range(3)]
    return base + [row for turn in zip_longest(*curves) for row in turn if row is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--num_rollouts", type=int, default=200)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--plot", action="store_true")
    args = parser.parse_args()
    table = args.output / "tuning.csv"
    if args.plot:
        print(markdown(read(table)))
        plot(read(table), Path(__file__).parents[1] / "train" / "tuning.svg")
        return
    args.output.mkdir(parents=True, exist_ok=True)
    record(args.output / "episodes")
    done = {(row["factor"], row["value"], row["seed"]) for row in read(table)}
    for row in rows():
        if (row.factor, row.value, str(row.seed)) not in done:
            run = args.output / row.run
            train(row, args.output / "episodes", run, args.threads)
            add(table, row, run, evaluate(row, run, args))


def record(episodes: Path) -> None:
    """As many demonstrations as the longest row wants, at the largest size; smaller ones are made from them."""
    wanted = max(int(row.train.get("num_episodes", 0)) for row in rows())
    call("record", "--task", TASK, "--num_episodes", wanted, "--image_size", 96, 128, "--dataset_dir", episodes)


def train(row: Row, episodes: Path, run: Path, threads: int) -> None:
    """Train, unless it was done; what was interrupted begins anew."""
    if (run / "loss.png").exists():
        return
    shutil.rmtree(run, ignore_errors=True)
    flags = [word for flag, value in {**BASE, **row.train}.items() for word in (f"--{flag}", *value.split())]
    where = ("--dataset_dir", episodes, "--ckpt_dir", run, "--no_preflight", "--seed", row.seed, "--threads", threads)
    call("train", "--task", TASK, "--policy", "act_cpu", *where, *flags)


def evaluate(row: Row, run: Path, args: argparse.Namespace) -> Path:
    """Roll out; returns the report."""
    output = run / "_".join(["eval", *(flag.strip("-") for flag in row.evaluate)])
    shutil.rmtree(output, ignore_errors=True)
    workers = ("--workers", args.threads, "--threads", args.threads, "--num_rollouts", args.num_rollouts)
    call("eval", "--task", TASK, "--ckpt", run, "--output", output, *workers, *row.evaluate)
    return output / "eval.json"


def call(application: str, *words: object) -> None:
    command = [sys.executable, "-m", f"aloha_kit.{application}", *map(str, words)]
    print("$", *command[1:], flush=True)
    subprocess.run(command, check=True)


def add(table: Path, row: Row, run: Path, report: Path) -> None:
    """One more line of the table."""
    result = json.loads(report.read_text(encoding="utf-8"))["checkpoints"][0]
    success = result["success"]
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        metrics = list(csv.DictReader(file))
    deployed = [float(m["val_deployed"]) for m in metrics if m["val_deployed"]]
    values = (
        row.factor, row.value, row.seed, success["successes"], success["trials"], *success["wilson95"],
        result["success_any_time"]["successes"], min(deployed), max(float(m["seconds"] or 0) for m in metrics),
    )  # fmt: skip
    fresh = not table.exists()
    with table.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([COLUMNS, values] if fresh else [values])


def read(table: Path) -> list[dict[str, str]]:
    """The lines of the table so far."""
    if not table.exists():
        return []
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def markdown(table: Sequence[dict[str, str]]) -> str:
    """The table for people; success with its 95 % Wilson interval."""
    lines = ["| changed | to | success | 95 % interval | validation |", "|---|---|---|---|---|"]
    for row in table:
        rate, low, high = int(row["successes"]) / int(row["trials"]), float(row["low"]), float(row["high"])
        what = f"nothing (seed {row['seed']})" if row["factor"] == "base" else row["factor"]
        lines.append(
            f"| {what} | {row['value']} | {row['successes']}/{row['trials']} = {rate:.0%} | {low:.0%} to {high:.0%}"
            f" | {float(row['val_deployed']):.4f} |"
        )
    return "\n".join(lines)


BASE_OF = {
    "steps": "1500",
    "demonstrations": "50",
    "chunk": "50",
    "KL weight": "10",
    "image": "72 96",
    "normalisation": "mean_std",
    "execution": "whole chunk",
}


def plot(table: Sequence[dict[str, str]], file: Path) -> None:
    """A curve a factor, success over its values, the base filled; the band is what three seeds of the base span."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    base = [row for row in table if row["factor"] == "base"]
    rates = [100 * int(row["successes"]) / int(row["trials"]) for row in base]
    with mpl.rc_context({"axes.spines.top": False, "axes.spines.right": False, "font.size": 8, "svg.hashsalt": "0"}):
        figure = Figure(figsize=(10, 5), layout="constrained")
        FigureCanvasSVG(figure)
        for axis, (factor, at_base) in zip(
            figure.subplots(2, 4).flat, [*BASE_OF.items(), ("switch", "base")], strict=True
        ):
            points = [row for row in table if row["factor"] == factor] + [{**base[0], "value": at_base}]
            points.sort(key=lambda row: _order(row["value"]))
            heights = [100 * int(row["successes"]) / int(row["trials"]) for row in points]
            ends = [
                [height - 100 * float(row["low"]) for row, height in zip(points, heights, strict=True)],
                [100 * float(row["high"]) - height for row, height in zip(points, heights, strict=True)],
            ]
            axis.axhspan(min(rates), max(rates), color="C7", alpha=0.25, lw=0)
            style = "-" if factor not in {"normalisation", "execution", "switch"} else ""
            axis.errorbar(range(len(points)), heights, ends, fmt=f"o{style}", ms=4, capsize=2, lw=1)
            here = [row["value"] for row in points].index(at_base)
            axis.plot(here, heights[here], "o", color="C3", ms=5, zorder=3)
            turn = {"rotation": 30, "ha": "right"} if not style else {}
            axis.set_xticks(
                range(len(points)),
                [row["value"].replace(" ", "x") if style else row["value"] for row in points],
                **turn,
            )
            axis.set(title="other" if factor == "switch" else factor, ylim=(-3, 103), ylabel="success, %")
        figure.savefig(file, metadata={"Date": None})


def _order(value: str) -> tuple[float, str]:
    """Numbers by size, images by height, words by the alphabet."""
    first = value.split(" ")[0]
    try:
        return float(first), value
    except ValueError:
        return 0.0, value


if __name__ == "__main__":
    main()
