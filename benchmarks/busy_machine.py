"""Time of a training step alone and beside other work, by what OpenMP's threads do while they wait.

A training step is hundreds of short parallel pieces. After each, the threads of GNU OpenMP (which torch carries) wait
for the next one: they spin for a while, which answers soonest, and then sleep. Where other processes want the same
cores, a spinning thread takes them from the thread that it waits for.

Each setting has a process, and the processes take turns, a step each, so that whatever else the machine does meets all
settings alike: `--rounds` turns alone, then as many beside `--neighbours` processes that compute. On a machine that
others use too, steps at real-time priority (`--alone`) are those of an idle one.

    python benchmarks/busy_machine.py
    python benchmarks/busy_machine.py --alone
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, ExitStack
from functools import partial
from typing import IO

SETTINGS: dict[str, dict[str, str]] = {
    "default": {},
    "spin 100000 times": {"GOMP_SPINCOUNT": "100000"},
    "spin 10000 times": {"GOMP_SPINCOUNT": "10000"},
    "spin 1000 times": {"GOMP_SPINCOUNT": "1000"},
    "spin 100 times": {"GOMP_SPINCOUNT": "100"},
    "sleep at once (OMP_WAIT_POLICY=passive)": {"OMP_WAIT_POLICY": "passive"},
}
WORK = "while True: pass"

parser = argparse.ArgumentParser()
parser.add_argument("--rounds", type=int, default=10)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--neighbours", type=int, default=2, help="processes that compute beside the training")
parser.add_argument("--size", type=int, nargs=2, default=(96, 128), metavar=("H", "W"))
parser.add_argument("--batch", type=int, default=32)
parser.add_argument("--policy", default="act_cpu")
parser.add_argument("--settings", nargs="+", type=int, help="numbers of the settings to compare, 0 is the default")
parser.add_argument("--alone", action="store_true", help="steps alone at real-time priority (root), not beside others")
parser.add_argument("--turns", action="store_true", help=argparse.SUPPRESS)  # the process of one setting


def take_turns(args: argparse.Namespace) -> None:
    """A training step for each line of the standard input; writes its wall and CPU seconds."""
    import torch
    from act_of import act, batch_of
    from stopwatch import timed

    from aloha_kit.config.training import TrainConfig
    from aloha_kit.train.device import keep_freed_memory
    from aloha_kit.train.distributed import Distributed
    from aloha_kit.train.step import TrainingStep

    keep_freed_memory()  # as training does
    torch.manual_seed(0)
    cameras = {"top": tuple(args.size)}
    network = act(cameras, args.policy).train()
    batch = batch_of(cameras, args.batch, "cpu", network.chunk_size)
    step = TrainingStep(network, TrainConfig(lr=1e-5, batch_size=args.batch, augment=False, amp="no"), Distributed())
    for number, _ in enumerate(sys.stdin):
        with real_time(args.alone):
            done = timed(partial(step, batch, number, 1.0), 1, "cpu", warm_up=0)
        print(json.dumps([done["seconds"][0], done["cpu_seconds"][0]]), flush=True)


@contextmanager
def real_time(wanted: bool) -> Iterator[None]:
    """All threads of this process before those of any other."""
    threads = [int(name) for name in os.listdir("/proc/self/task")] if wanted else []
    try:
        for thread in threads:
            os.sched_setscheduler(thread, os.SCHED_RR, os.sched_param(1))
        yield
    finally:
        for thread in threads:
            os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))


class Turns:
    """The process of one setting."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._requests: IO[str] = process.stdin
        self._answers: IO[str] = process.stdout

    def step(self) -> tuple[float, float]:
        """Wall and CPU seconds of a step."""
        self._requests.write("\n")
        self._requests.flush()
        wall, cpu = json.loads(self._answers.readline())
        return wall, cpu


@contextmanager
def process_of(setting: dict[str, str]) -> Iterator[Turns]:
    """A process with these variables and no others of OpenMP's, its first step done."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    with subprocess.Popen(
        [sys.executable, __file__, "--turns", *sys.argv[1:]],
        env={**inherited, "OMP_NUM_THREADS": str(parser.parse_args().threads), **setting},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        turns = Turns(process)
        turns.step()  # which allocates and chooses kernels
        yield turns


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


def measured(processes: dict[str, Turns], rounds: int, label: str) -> dict[str, list[tuple[float, float]]]:
    """{setting: wall and CPU seconds of each of its steps}."""
    steps: dict[str, list[tuple[float, float]]] = {name: [] for name in processes}
    for number in range(rounds):
        for name, process in processes.items():
            steps[name].append(process.step())
        shown = ", ".join(f"{taken[-1][0]:.2f}" for taken in steps.values())
        print(f"{label}, round {number + 1} of {rounds}: {shown} s", file=sys.stderr)
    return steps


def main() -> None:
    args = parser.parse_args()
    if args.turns:
        take_turns(args)
        return
    chosen = [list(SETTINGS)[number] for number in args.settings or range(len(SETTINGS))]
    results: dict[str, dict[str, list[tuple[float, float]]]] = {}
    with ExitStack() as stack:
        processes = {name: stack.enter_context(process_of(SETTINGS[name])) for name in chosen}
        results["alone"] = measured(processes, args.rounds, "alone")
        if not args.alone:
            with neighbours(args.neighbours):
                results[f"beside {args.neighbours}"] = measured(processes, args.rounds, f"beside {args.neighbours}")
    size = f"{args.size[0]}x{args.size[1]}"
    print(f"{os.cpu_count()} cores, {args.threads} threads, {args.policy}, {size}, batch {args.batch}", end="")
    print(f", {args.rounds} rounds, load average at the end {os.getloadavg()[0]:.1f}\n")
    print("| | waiting threads | a step: median, s | shortest | longest | CPU seconds | times the first line's |")
    print("|---|---|---|---|---|---|---|")
    for where, steps in results.items():
        for name in chosen:
            walls, cpus = zip(*steps[name], strict=True)
            ratio = statistics.median(a / b for (a, _), (b, _) in zip(steps[name], steps[chosen[0]], strict=True))
            figures = [statistics.median(walls), min(walls), max(walls), statistics.median(cpus)]
            print(f"| {where} | {name} | {' | '.join(f'{figure:.3f}' for figure in figures)} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
