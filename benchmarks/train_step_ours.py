"""Our side of `train_step.py`: the same ACT, the same shapes, the step that training does."""

from __future__ import annotations

import argparse
import json

import torch
from act_of import act, batch_of
from stopwatch import timed

from aloha_kit.config.training import TrainConfig
from aloha_kit.train.device import keep_freed_memory, set_gpu_arithmetic
from aloha_kit.train.distributed import Distributed
from aloha_kit.train.step import TrainingStep

parser = argparse.ArgumentParser()
parser.add_argument("height", type=int)
parser.add_argument("width", type=int)
parser.add_argument("cameras", type=int)
parser.add_argument("batch", type=int)
parser.add_argument("steps", type=int)
parser.add_argument("device")
parser.add_argument("--policy", default="act")
parser.add_argument("--amp", default="no", choices=("no", "bf16", "fp16"))
parser.add_argument("--compile", action="store_true")
args = parser.parse_args()

if args.device == "cpu":
    keep_freed_memory()  # as training does
else:
    set_gpu_arithmetic(tf32=True)
torch.manual_seed(0)
cameras = {f"cam_{i}": (args.height, args.width) for i in range(args.cameras)}
network = act(cameras, args.policy).to(args.device).train()
batch = batch_of(cameras, args.batch, args.device)
config = TrainConfig(lr=1e-5, batch_size=args.batch, augment=False, amp=args.amp, compile=args.compile)
once = TrainingStep(network, config, Distributed())
number = iter(range(10**9))

result = timed(
    lambda: once(batch, next(number), 1.0), args.steps, args.device, warm_up=10 if args.device == "cuda" else 1
)
print(json.dumps({**result, "parameters": sum(p.numel() for p in network.parameters() if p.requires_grad)}))
