"""Training with its data, as each side's own command does it: steps a second here and in LeRobot: prints one table.

    python benchmarks/train_end_to_end.py
    python benchmarks/train_end_to_end.py --device cuda --batch 64 --sizes 480x640 --cameras top left_wrist right_wrist

The same simulated demonstrations, made once by `lerobot_dataset.py`; the same ACT as in `train_step.py`, all weights
random, no augmentation on either side. LeRobot: `lerobot_train` on its video data set, with as many loader workers as
here. Ours: `python -m aloha_kit.train` with the frame cache on the disk, on a GPU also with the cache in its memory;
the cache is built before the clock runs. Nothing is judged or saved in the steps that are timed. Time is from the end
of one step to the end of a later one, so waiting for data is in it. `--rebuilt`: where LeRobot cannot be installed, its
ACT rebuilt in plain PyTorch, with a `DataLoader` over the same episodes.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import peers
from lerobot_dataset import converted, recorded
from peers import Side

HERE = Path(__file__).parent
STEPS = {"cpu": (1, 5), "cuda": (50, 300)}  # before and while the clock runs
OURS, LEROBOT = "train_end_to_end_ours.py", "train_end_to_end_lerobot.py"


def sides(device: str, compile: bool, rebuilt: bool) -> list[Side]:
    """LeRobot in fp32 first: the others are compared with it."""
    here = sys.executable
    if rebuilt:
        name, python, script = "LeRobot's ACT rebuilt", here, "train_end_to_end_rebuilt.py"
    else:
        name, python, script = "LeRobot 0.6.1", str(peers.python_of("lerobot")), LEROBOT
    listed = [Side(name, python, script)]
    if device == "cuda":
        listed.append(Side(f"{name}, its AMP", python, script, ("--amp",)))
    bf16 = ("--amp", "bf16")
    listed += [Side("aloha_kit", here, OURS), Side("aloha_kit, bf16", here, OURS, bf16)]
    if device == "cuda":
        listed.append(Side("aloha_kit, bf16, cache on the GPU", here, OURS, (*bf16, "--cache", "device")))
    if compile:
        flags = (*bf16, "--compile", *(("--cache", "device") if device == "cuda" else ()))
        listed.append(Side("aloha_kit, bf16, compiled", here, OURS, flags))
    return listed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["240x320", "480x640"], metavar="HxW")
    parser.add_argument("--cameras", nargs="+", default=["top"])
    parser.add_argument("--episodes", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="also compiled, which takes minutes before the steps")
    parser.add_argument("--rebuilt", action="store_true", help="LeRobot's ACT rebuilt in plain PyTorch, for LeRobot")
    parser.add_argument("--dataset_dir", type=Path, help="episodes to train on in place of simulated ones of --sizes")
    parser.add_argument("--policy", default="act", help="ours, a name in configs/policies")
    parser.add_argument("--steps", nargs=2, type=int, metavar=("BEFORE", "TIMED"), help="in place of the device's")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 8))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    if args.dataset_dir is not None and not args.rebuilt:
        parser.error("--dataset_dir goes with --rebuilt: LeRobot's own data set is made of simulated episodes")
    warm_up, steps = args.steps or STEPS[args.device]
    print("| image | side | steps a second | samples a second | times LeRobot's |")
    print("|---|---|---|---|---|", flush=True)
    for size in [args.dataset_dir.name] if args.dataset_dir else args.sizes:
        if (ours := args.dataset_dir) is None:
            height, width = map(int, size.split("x"))
            ours = recorded(args.cameras, args.episodes, (height, width))
        base = 0.0
        for side in sides(args.device, args.compile, args.rebuilt):
            folder = converted(ours) if side.script == LEROBOT else ours
            given = [folder, args.batch, warm_up, steps, args.device, args.workers, *side.flags]
            given += ["--policy", args.policy] if side.script == OURS else []
            try:
                measured = peers.run_side(
                    side.python, str(HERE / side.script), given, args.threads, gpu=args.device == "cuda"
                )
            except peers.SideError as error:
                if not base:
                    raise
                print(f"| {size} | {side.name} | {error} | – | – |", flush=True)
                continue
            rate = steps / measured["seconds"]
            base = base or rate
            print(f"| {size} | {side.name} | {rate:.3g} | {rate * args.batch:.3g} | {rate / base:.2f} |", flush=True)
    print(f"\nBatch {args.batch}, {args.device}, {args.workers} loader workers, {args.threads} threads, "
          f"{steps} steps timed, load average {os.getloadavg()[0]:.1f} at the end.")  # fmt: skip


if __name__ == "__main__":
    main()
