"""A training step of the same ACT here, in LeRobot and in the published ACT on this machine: prints one table.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --device cuda --batch 64 --sizes 480x640

Both sides: ResNet-18, 512 wide, 3200 feed-forward, 4 encoder layers, 1 decoder layer that is used, chunks of 100;
forward, backward, clipping, AdamW. Data are random and ready in the device's memory, so only the step counts; ours
takes uint8 images and normalises them, LeRobot's are floats that its pipeline has normalised. Sides take turns, each
in a process of its own, and the median step of all turns is shown: in time, and in CPU time, which other work on the
machine disturbs less (with --threads 1: threads that wait for each other spin). LeRobot runs as its training script
does, in fp32 and on a GPU also with its own AMP; the published ACT is rebuilt (`train_step_reference.py`), with seven
decoder layers of which one is read; ours in fp32 and with `--amp`, with `--compile` where asked for, and with the
reference's layers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import peers
from peers import Side

HERE = Path(__file__).parent
STEPS = {"120x160": 6, "240x320": 4}  # a turn; of larger images fewer
FEWEST = 2


def sides(cuda: bool, compile: bool) -> list[Side]:
    """LeRobot and the reference in fp32 first: the others are compared with them."""
    lerobot, here = str(peers.python_of("lerobot")), sys.executable
    ours, theirs = "train_step_ours.py", "train_step_lerobot.py"
    listed = [Side("LeRobot 0.6.1", lerobot, theirs), Side("the published ACT", here, "train_step_reference.py")]
    if cuda:
        listed.append(Side("LeRobot 0.6.1, its AMP", lerobot, theirs, ("--amp",)))
    listed += [Side("aloha_kit", here, ours), Side("aloha_kit, bf16", here, ours, ("--amp", "bf16"))]
    if compile:
        listed.append(Side("aloha_kit, compiled", here, ours, ("--compile",)))
        listed.append(Side("aloha_kit, bf16, compiled", here, ours, ("--compile", "--amp", "bf16")))
    listed.append(Side("aloha_kit, the reference's layers", here, ours, ("--policy", "act_reference")))
    return listed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["120x160", "240x320", "480x640"], metavar="HxW")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--cameras", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--compile", action="store_true", help="also compiled; that takes minutes before the first step"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--turns", type=int, default=2)
    args = parser.parse_args()
    listed = sides(args.device == "cuda", args.compile)
    about: dict[str, dict[str, Any]] = {}
    print("| image | side | ms a step | CPU ms | times LeRobot's steps | times the published ACT's | MB at most |")
    print("|---|---|---|---|---|---|---|")
    for size in args.sizes:
        steps = 30 if args.device == "cuda" else STEPS.get(size, FEWEST)
        wall: dict[str, list[float]] = {side.name: [] for side in listed}
        cpu: dict[str, list[float]] = {side.name: [] for side in listed}
        for _ in range(args.turns):
            for side in listed:
                given = [*size.split("x"), args.cameras, args.batch, steps, args.device, *side.flags]
                script = str(HERE / side.script)
                told = peers.ask(side.python, script, given, args.threads, gpu=args.device == "cuda")
                about[side.name] = told
                wall[side.name] += told["seconds"]
                cpu[side.name] += told["cpu_seconds"]
        lerobot, published = (statistics.median(wall[side.name]) for side in listed[:2])
        for side in listed:
            ms, cpu_ms = 1e3 * statistics.median(wall[side.name]), 1e3 * statistics.median(cpu[side.name])
            ratios = f"{1e3 * lerobot / ms:.2f} | {1e3 * published / ms:.2f}"
            megabytes = about[side.name]["peak_bytes"] / 1e6
            print(f"| {size} | {side.name} | {ms:.0f} | {cpu_ms:.0f} | {ratios} | {megabytes:.0f} |", flush=True)
    print(
        f"\nBatch {args.batch}, {args.cameras} camera(s), {about[listed[0].name]['machine']}, {args.threads} threads."
    )
    print("; ".join(f"{name}: {told['parameters'] / 1e6:.1f} M, torch {told['torch']}" for name, told in about.items()))
    print(f"Load average {os.getloadavg()[0]:.1f} at the end.")


if __name__ == "__main__":
    main()
