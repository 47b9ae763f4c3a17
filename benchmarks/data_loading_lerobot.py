"""LeRobot's side of `data_loading.py`; runs in LeRobot's environment and imports nothing of ours."""

from __future__ import annotations

import argparse
import functools
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from pace import Pace

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("chunk", type=int)
parser.add_argument("batch", type=int)
parser.add_argument("seconds", type=float)
args = parser.parse_args()


def batches(backend: str, workers: int) -> Iterator[object]:
    """As its training script sets the loader up: shuffled, uint8 images, four batches ahead of each worker."""
    data = LeRobotDataset(
        f"local/{args.folder.name}",
        root=args.folder,
        delta_timestamps={"action": [i / 50 for i in range(args.chunk)]},
        video_backend=backend,
        return_uint8=True,
    )
    ahead = 4 if workers else None
    loader = torch.utils.data.DataLoader(
        data, args.batch, shuffle=True, num_workers=workers, drop_last=True, prefetch_factor=ahead
    )
    for _ in itertools.count():
        yield from loader


results = {}
# with workers first: its reader needs a main process that has decoded nothing before they start
for workers in (2, 0):
    for backend in ("torchcodec", "pyav"):
        pace = Pace()
        pace.measure(functools.partial(batches, backend, workers), args.batch, args.seconds, 2 + 4 * workers)
        results[f"{backend}, {workers} workers"] = pace.result()
print(json.dumps(results))
