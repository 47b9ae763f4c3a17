"""Training with its data, as each side's own command does it: steps a second here and in LeRobot: prints one table.

    python benchmarks/train_end_to_end.py
    python benchmarks/train_end_to_end.py --device cuda --batch 64 --sizes 480x640 --cameras top left_wrist right_wrist

The same simulated demonstrations, made once by `lerobot_dataset.py`; the same ACT as in `train_step.py`, all weights
random, no augmentation on either side. LeRobot: `lerobot_train` on its video data set, with as many loader workers as
here. Ours: `python -m aloha_kit.train` with the frame cache on the disk, on a GPU also with the cache in its memory;
the cache is built before the clock runs. Nothing is judged or saved in the steps that are timed. Time is from the end
of one step to the end of a later one, so waiting for data is in it.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import peers
from lerobot_dataset import converted, recorded

HERE = Path(__file__).parent
STEPS = {"cpu": (1, 5), "cuda": (50, 300)}  # before and while the clock runs
Side = tuple[str, str, str, list[str]]  # name, interpreter, script, flags


def sides(device: str) -> list[Side]:
    """LeRobot in fp32 first: the others are compared with it."""
    lerobot, theirs = str(peers.python_of("lerobot")), "train_end_to_end_lerobot.py"
    here, ours = sys.executable, "train_end_to_end_ours.py"
    listed = [("LeRobot 0.6.1", lerobot, theirs, [])]
    if device == "cuda":
        listed.append(("LeRobot 0.6.1, its AMP", lerobot, theirs, ["--amp"]))
    listed += [("aloha_kit", here, ours, []), ("aloha_kit, bf16", here, ours, ["--amp", "bf16"])]
    if device == "cuda":
        listed.append(("aloha_kit, bf16, cache on the GPU", here, ours, ["--amp", "bf16", "--cache", "device"]))
    return listed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["240x320", "480x640"], metavar="HxW")
    parser.add_argument("--cameras", nargs="+", default=["top"])
    parser.add_argument("--episodes", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 8))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    warm_up, steps = STEPS[args.device]
    print("| image | side | steps a second | samples a second | times LeRobot's |")
    print("|---|---|---|---|---|")
    for size in args.sizes:
        height, width = map(int, size.split("x"))
        ours = recorded(args.cameras, args.episodes, (height, width))
        folders = {"train_end_to_end_ours.py": ours, "train_end_to_end_lerobot.py": converted(ours)}
        base = 0.0
        for name, python, script, flags in sides(args.device):
            given = [folders[script], args.batch, warm_up, steps, args.device, args.workers, *flags]
            told = peers.ask(python, str(HERE / script), given, args.threads, gpu=args.device == "cuda")
            rate = steps / told["seconds"]
            base = base or rate
            print(f"| {size} | {name} | {rate:.3g} | {rate * args.batch:.3g} | {rate / base:.2f} |", flush=True)
    print(
        f"\nBatch {args.batch}, {len(args.cameras)} camera(s), {args.device}, {args.workers} loader workers, ", end=""
    )
    print(f"{args.threads} threads, {steps} steps timed, load average {os.getloadavg()[0]:.1f} at the end.")


if __name__ == "__main__":
    main()
