"""The same ACT here and in LeRobot on this machine's CPU: a training step, and one query for a chunk.

    python benchmarks/act_speed.py train
    python benchmarks/act_speed.py infer

Both sides: ResNet-18, 512 wide, 3200 feed-forward, 4 encoder layers, 1 decoder layer that is used, chunks of 100, one
camera; training at batch 8 with AdamW and clipping, a query at batch 1. Data are random and ready in memory, so only
the network counts. Sides take turns, each in a process of its own, twice; the median step of both turns is shown.
LeRobot runs as its training script does on a CPU, in fp32; ours so too, and in bf16 (`--amp`), which processors with
AVX512-BF16 or AMX are fast at.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import peers

HERE = Path(__file__).parent
SIZES = {"train": ((120, 160, 4), (240, 320, 3), (480, 640, 2)), "infer": ((480, 640, 10),)}  # height, width, steps
BATCH = {"train": 8, "infer": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=sorted(SIZES))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    sides: dict[str, tuple[Any, str, list[str]]] = {
        "LeRobot": (peers.python_of("lerobot"), "act_speed_lerobot.py", []),
        "aloha_kit": (sys.executable, "act_speed_ours.py", []),
        "aloha_kit, bf16": (sys.executable, "act_speed_ours.py", ["--amp"]),
    }
    print("| picture | " + " | ".join(f"{name}, ms" for name in sides) + " | ratio | ratio, bf16 |")
    print("|---|" + "---|" * (len(sides) + 2))
    about: dict[str, Any] = {}
    for height, width, steps in SIZES[args.what]:
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(args.rounds):
            for name, (python, script, flags) in sides.items():
                given = [args.what, height, width, 1, BATCH[args.what], steps, *flags]
                about[name] = peers.ask(python, str(HERE / script), given, args.threads)
                times[name] += about[name]["times"]
        theirs, ours, half = (1e3 * statistics.median(times[name]) for name in sides)
        print(
            f"| {height}x{width} | {theirs:.0f} | {ours:.0f} | {half:.0f} | {theirs / ours:.2f} | {theirs / half:.2f} |"
        )
    print(
        "\n" + ", ".join(f"{n}: {a['parameters'] / 1e6:.1f} M parameters, torch {a['torch']}" for n, a in about.items())
    )
    print(f"{args.threads} threads, load average {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
