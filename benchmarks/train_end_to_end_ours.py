"""Our side of `train_end_to_end.py`: `python -m aloha_kit.train`, its steps timed from outside."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from stopwatch import Laps

from aloha_kit.policies.backbone import ImageEncoder
from aloha_kit.train import __main__ as train
from aloha_kit.train.step import TrainingStep

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("batch", type=int)
parser.add_argument("warm_up", type=int)
parser.add_argument("steps", type=int)
parser.add_argument("device")
parser.add_argument("workers", type=int)
parser.add_argument("--amp", default="no")
parser.add_argument("--cache", default="disk")
parser.add_argument("--policy", default="act")
parser.add_argument("--compile", action="store_true")
args = parser.parse_args()

laps = Laps(args.device, args.warm_up, args.steps)
TrainingStep.__call__ = laps.after(TrainingStep.__call__)  # type: ignore[method-assign]
ImageEncoder.load_pretrained = lambda *_: None  # type: ignore[method-assign]  # nothing to download; the arithmetic is the same
with tempfile.TemporaryDirectory() as folder:
    values: dict[str, object] = {
        "policy": args.policy,
        "dataset_dir": args.folder,
        "ckpt_dir": Path(folder) / "run",
        "batch_size": args.batch,
        "num_steps": args.warm_up + args.steps + 1,  # after the last one comes validation
        "val_fraction": 0,
        "device": args.device,
        "workers": args.workers,
        "amp": args.amp,
        "cache": args.cache,
    }
    flags = [text for name, value in values.items() for text in (f"--{name}", str(value))]
    train.main([*flags, "--no_augment", "--no_preflight", *(["--compile"] if args.compile else [])])
print(json.dumps({"seconds": laps.seconds}))
