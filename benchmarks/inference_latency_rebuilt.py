"""The side of LeRobot's ACT in `inference_latency.py`, rebuilt where LeRobot is missing: tensors in, tensors out."""

from __future__ import annotations

import argparse
import json

import torch
from act_rebuilt import as_lerobot_sets, DECODERS, LATENT, RebuiltAct, samples
from stopwatch import timed

parser = argparse.ArgumentParser()
parser.add_argument("cameras", type=int)
parser.add_argument("inferences", type=int)
parser.add_argument("device")
parser.add_argument("--size", nargs=2, type=int, default=(480, 640))
args = parser.parse_args()

torch.manual_seed(0)
as_lerobot_sets(args.device)
network = RebuiltAct(DECODERS["lerobot"]).to(args.device).eval()
height, width = args.size
qpos, images, _, _ = samples(1, args.cameras, height, width, args.device)


@torch.inference_mode()
def infer() -> object:
    return network.predict(qpos, images, torch.zeros(1, LATENT).to(args.device))


print(json.dumps(timed(infer, args.inferences, args.device, warm_up=20 if args.device == "cuda" else 3)))
