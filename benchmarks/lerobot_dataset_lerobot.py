"""LeRobot's side of `lerobot_dataset.py`; runs in LeRobot's environment and imports nothing of ours."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

import cv2
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

parser = argparse.ArgumentParser()
parser.add_argument("exchange", type=Path)
parser.add_argument("folder", type=Path)
parser.add_argument("rate_hz", type=int)
parser.add_argument("--png", action="store_true", help="LeRobot's default way: a PNG for each image, then the video")
args = parser.parse_args()

shutil.rmtree(args.folder, ignore_errors=True)  # what an interrupted run left
episodes = sorted(args.exchange.iterdir())
cameras = {file.stem.removeprefix("images_"): file for file in sorted(episodes[0].glob("images_*.npy"))}
shapes = {name: np.asarray(cv2.imdecode(np.load(file)[0], cv2.IMREAD_COLOR)).shape for name, file in cameras.items()}
joints = {"dtype": "float32", "shape": (np.load(episodes[0] / "action.npy").shape[1],), "names": None}
data = LeRobotDataset.create(
    f"local/{args.folder.name}",
    args.rate_hz,
    {
        "observation.state": joints,
        "action": joints,
        **{
            f"observation.images.{name}": {"dtype": "video", "shape": shape, "names": ["height", "width", "channels"]}
            for name, shape in shapes.items()
        },
    },
    root=args.folder,
    # the same encoder and settings as the default way, without a PNG for every image
    streaming_encoding=not args.png,
    encoder_queue_maxsize=0,  # unbounded: a full queue drops images, and ours come as fast as they decode
)
began, cpu = time.monotonic(), time.process_time()
for episode in episodes:
    qpos, action = np.load(episode / "qpos.npy"), np.load(episode / "action.npy")
    frames = {name: np.load(episode / file.name) for name, file in cameras.items()}
    for t in range(len(action)):
        # the episodes' JPEG holds red first, so that decoding gives RGB
        images = {
            f"observation.images.{name}": cv2.imdecode(rows[t], cv2.IMREAD_COLOR) for name, rows in frames.items()
        }
        data.add_frame({"observation.state": qpos[t], "action": action[t], "task": "transfer the cube", **images})
    data.save_episode()
    print(f"{episode.name}: {len(action)} steps, {time.monotonic() - began:.0f} s", file=sys.stderr)
data.finalize()
seconds, cpu_seconds = time.monotonic() - began, time.process_time() - cpu
print(json.dumps({"episodes": len(episodes), "seconds": seconds, "cpu_seconds": cpu_seconds}))
