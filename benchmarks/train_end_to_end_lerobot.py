"""LeRobot's side of `train_end_to_end.py`: its training script, its steps timed from outside."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from lerobot.scripts import lerobot_train
from stopwatch import Laps


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("batch", type=int)
    parser.add_argument("warm_up", type=int)
    parser.add_argument("steps", type=int)
    parser.add_argument("device")
    parser.add_argument("workers", type=int)
    parser.add_argument("--amp", action="store_true")
    args = parser.parse_args()

    laps = Laps(args.device, args.warm_up, args.steps)
    lerobot_train.update_policy = laps.after(lerobot_train.update_policy)
    with tempfile.TemporaryDirectory() as folder:
        values = {
            "dataset.repo_id": f"local/{args.folder.name}",
            "dataset.root": args.folder,
            "policy.type": "act",
            "policy.device": args.device,
            "policy.use_amp": str(args.amp).lower(),
            "policy.pretrained_backbone_weights": "null",  # nothing to download; the arithmetic is the same
            "policy.push_to_hub": "false",
            "output_dir": Path(folder) / "run",
            "batch_size": args.batch,
            "steps": args.warm_up + args.steps + 1,
            "num_workers": args.workers,
            "save_checkpoint": "false",
            "wandb.enable": "false",
            "log_freq": 10**6,
        }
        sys.argv = ["lerobot-train", *(f"--{name}={value}" for name, value in values.items())]
        lerobot_train.main()
    print(json.dumps({"seconds": laps.seconds}))


if __name__ == "__main__":  # its loader's workers import this file
    main()
