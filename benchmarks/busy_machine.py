"""Time of a training step alone and beside other work, by what OpenMP's threads do while they wait.

A training step is hundreds of short parallel pieces. After each, the threads of GNU OpenMP (which torch carries) wait
for the next one: they spin for a while, which answers soonest, and then sleep. Where other processes want the same
cores, a spinning thread takes them from the thread that it waits for.

Each setting is measured alone and beside `--neighbours` processes that compute, in turns, `--rounds` times; times are
compared within a round. Nothing else should run meanwhile; what the machine did is printed.

    python benchmarks/busy_machine.py
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SETTINGS: dict[str, dict[str, str]] = {
    "default": {},
    "sleep at once (OMP_WAIT_POLICY=passive)": {"OMP_WAIT_POLICY": "passive"},
    "spin 1000 times": {"GOMP_SPINCOUNT": "1000"},
    "spin 10000 times": {"GOMP_SPINCOUNT": "10000"},
    "spin 100000 times": {"GOMP_SPINCOUNT": "100000"},
}
WORK = "while True: pass"

parser = argparse.ArgumentParser()
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--steps", type=int, default=6, help="timed steps of each measurement")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--neighbours", type=int, default=2, help="processes that compute beside the training")
parser.add_argument("--size", type=int, nargs=2, default=(96, 128), metavar=("H", "W"))
parser.add_argument("--batch", type=int, default=32)


def step_s(args: argparse.Namespace, setting: dict[str, str]) -> float:
    """Median seconds of a step of `act_cpu` in a process of its own."""
    words = [*args.size, 1, args.batch, args.steps, "cpu", "--policy", "act_cpu"]
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("train_step_ours.py"), *map(str, words)],
        env={**inherited, "OMP_NUM_THREADS": str(args.threads), **setting},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return statistics.median(json.loads(done.stdout.splitlines()[-1])["seconds"])


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Processes that take a core each."""
    running = [subprocess.Popen([sys.executable, "-c", WORK]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def main() -> None:
    args = parser.parse_args()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in SETTINGS}
    for number in range(args.rounds):
        for name, setting in SETTINGS.items():
            alone = step_s(args, setting)
            with neighbours(args.neighbours):
                beside = step_s(args, setting)
            times[name].append((alone, beside))
            print(f"round {number + 1}, {name}: {alone:.3f} s, beside others {beside:.3f} s", file=sys.stderr)
    first = times["default"]
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{os.cpu_count()} cores, {args.threads} threads, {args.neighbours} neighbours, load at the end {load}\n")
    print("| waiting threads | step alone, s | beside others, s | alone / default alone | beside / default beside |")
    print("|---|---|---|---|---|")
    for name, pairs in times.items():
        alone, beside = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
        ratios = [
            statistics.median(mine[i] / theirs[i] for mine, theirs in zip(pairs, first, strict=True)) for i in (0, 1)
        ]
        print(f"| {name} | {alone:.3f} | {beside:.3f} | {ratios[0]:.2f} | {ratios[1]:.2f} |")


if __name__ == "__main__":
    main()
