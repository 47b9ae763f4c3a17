"""A training step of the same ACT here, in LeRobot and in the published ACT on this machine: prints one table.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --device cuda --batch 64 --sizes 480x640

Both sides: ResNet-18, 512 wide, 3200 feed-forward, 4 encoder layers, 1 decoder layer that is used, chunks of 100;
forward, backward, clipping, AdamW. Data are random and ready in the device's memory, so only the step counts; ours
takes uint8 images and normalises them, LeRobot's are floats that its pipeline has normalised. Sides take turns, each
in a process of its own, and the median step of all turns is shown: in time, and in CPU time, which other work on the
machine disturbs less (with --threads 1: threads that wait for each other spin). LeRobot runs as its training script
does, in fp32 and on a GPU also with its own AMP; the published ACT is rebuilt (`train_step_rebuilt.py`), with seven
decoder layers of which one is read; ours in fp32 and with `--amp`, with `--compile` where that is given, and with the
reference's layers. `--rebuilt` takes LeRobot's ACT rebuilt in plain PyTorch where LeRobot cannot be installed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys

import peers
from peers import Measured, Side

OURS, REBUILT, PUBLISHED = "train_step_ours.py", "train_step_rebuilt.py", "the published ACT"
STEPS = {"120x160": 6, "240x320": 4}  # a turn; of larger images fewer
FEWEST = 2


def sides(cuda: bool, compile: bool, rebuilt: bool, fewer: bool) -> list[Side]:
    """LeRobot in fp32 and the published ACT first: the others are compared with them."""
    here = sys.executable
    flags: tuple[str, ...]
    if rebuilt:
        name, python, script, flags = "LeRobot's ACT rebuilt", here, REBUILT, ("--like", "lerobot")
    else:
        name, python, script, flags = "LeRobot 0.6.1", str(peers.python_of("lerobot")), "train_step_lerobot.py", ()
    listed = [Side(name, python, script, flags)]
    if not fewer:
        listed.append(Side(PUBLISHED, here, REBUILT))
    if cuda:
        listed.append(Side(f"{name}, its AMP", python, script, (*flags, "--amp")))
    listed += [Side("aloha_kit", here, OURS), Side("aloha_kit, bf16", here, OURS, ("--amp", "bf16"))]
    if compile:
        listed.append(Side("aloha_kit, bf16, compiled", here, OURS, ("--compile", "--amp", "bf16")))
        listed.append(Side("aloha_kit, compiled", here, OURS, ("--compile",)))
    if not fewer:
        listed.append(Side("aloha_kit, the reference's layers", here, OURS, ("--policy", "act_reference")))
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
    parser.add_argument("--rebuilt", action="store_true", help="LeRobot's ACT rebuilt in plain PyTorch, for LeRobot")
    parser.add_argument("--policy", default="act", help="ours, a name in configs/policies")
    parser.add_argument("--fewer", action="store_true", help="without the published ACT and the reference's layers")
    parser.add_argument("--steps", type=int, help="a turn; by default 2 to 6 on a CPU, 30 on a GPU")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--turns", type=int, default=2)
    args = parser.parse_args()
    cuda = args.device == "cuda"
    listed = sides(cuda, args.compile, args.rebuilt, args.fewer)
    about: dict[str, Measured] = {}
    print("| image | side | ms a step | CPU ms | times LeRobot's steps | times the published ACT's | MB at most |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for size in args.sizes:
        steps = args.steps or (30 if cuda else STEPS.get(size, FEWEST))

        def arguments(side: Side, size: str = size, steps: int = steps) -> list[object]:
            given: list[object] = [*size.split("x"), args.cameras, args.batch, steps, args.device]
            return given + (["--policy", args.policy] if side.script == OURS else []) + list(side.flags)

        medians: dict[str, float] = {}
        for side, measured in peers.in_turns(listed, args.turns, arguments, args.threads, gpu=cuda):
            if measured.error:
                print(f"| {size} | {side.name} | {measured.error} |" + " – |" * 4, flush=True)
                continue
            about[side.name] = measured
            medians[side.name] = mine = statistics.median(measured.seconds)
            bases = (medians.get(name) for name in (listed[0].name, PUBLISHED))
            ratios = " | ".join("–" if base is None else f"{base / mine:.2f}" for base in bases)
            cpu_ms, megabytes = 1e3 * statistics.median(measured.cpu_seconds), measured.about["peak_bytes"] / 1e6
            print(
                f"| {size} | {side.name} | {1e3 * mine:.0f} | {cpu_ms:.0f} | {ratios} | {megabytes:.0f} |", flush=True
            )
    print(f"\nBatch {args.batch}, {args.cameras} camera(s), {about[listed[0].name].about['machine']}, "
          f"{args.threads} threads, load average {os.getloadavg()[0]:.1f} at the end.")  # fmt: skip
    sizes = (
        f"{name}: {each.about['parameters'] / 1e6:.1f} M, torch {each.about['torch']}" for name, each in about.items()
    )
    print("; ".join(sizes))


if __name__ == "__main__":
    main()
