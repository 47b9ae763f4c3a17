"""The side of LeRobot's ACT in `train_end_to_end.py`, rebuilt where LeRobot is not installed.

The step is `train_step_rebuilt.py --like lerobot`; the data come from the same episodes through PyTorch's `DataLoader`,
shuffled, with as many worker processes. They decode JPEG with OpenCV, which costs less than the video that LeRobot
decodes: the comparison is kind to LeRobot.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import torch
from act_rebuilt import CHUNK, LerobotStep
from stopwatch import Laps
from torch.utils.data import DataLoader

from aloha_kit.data.dataset import ChunkDataset, TrainingSample
from aloha_kit.data.index import read_table
from aloha_kit.formats import open_source


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    for name in ("batch", "warm_up", "steps"):
        parser.add_argument(name, type=int)
    parser.add_argument("device")
    parser.add_argument("workers", type=int)
    parser.add_argument("--amp", action="store_true")
    args = parser.parse_args()
    step = LerobotStep(args.device, args.amp)
    dataset = ChunkDataset(read_table(open_source(args.folder)), CHUNK, normalise=True)
    loader = DataLoader(
        dataset,
        args.batch,
        shuffle=True,
        drop_last=True,
        num_workers=args.workers,
        prefetch_factor=4,
        pin_memory=args.device == "cuda",
        persistent_workers=True,
    )

    def train_on(sample: TrainingSample) -> None:
        images = torch.stack(list(sample["image"].values()), dim=1)
        tensors = (sample["state"], images, sample["action"], sample["is_pad"])
        step(*(values.to(args.device, non_blocking=True) for values in tensors))

    laps = Laps(args.device, args.warm_up, args.steps)
    timed_step = laps.after(train_on)
    epochs = itertools.chain.from_iterable(loader for _ in itertools.count())
    for sample in itertools.islice(epochs, args.warm_up + args.steps):
        timed_step(sample)
    print(json.dumps({"seconds": laps.seconds}))


if __name__ == "__main__":  # the loader's workers may import this file
    main()
