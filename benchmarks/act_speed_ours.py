"""Our side of `act_speed.py`: the same ACT, the same shapes."""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch

from aloha_kit.config.policies import load_policy
from aloha_kit.config.training import TrainConfig
from aloha_kit.core import Contract, joint_names
from aloha_kit.data.batch import Batch
from aloha_kit.data.stats import Statistics
from aloha_kit.policies.build import build
from aloha_kit.train.optim import build_optimiser

parser = argparse.ArgumentParser()
parser.add_argument("what", choices=("train", "infer"))
parser.add_argument("height", type=int)
parser.add_argument("width", type=int)
parser.add_argument("cameras", type=int)
parser.add_argument("batch", type=int)
parser.add_argument("steps", type=int)
parser.add_argument("--policy", default="act")
parser.add_argument("--amp", action="store_true")
args = parser.parse_args()

torch.manual_seed(0)
cameras = {f"cam_{i}": (args.height, args.width) for i in range(args.cameras)}
contract = Contract(joint_names(), joint_names(), cameras, 50.0)
config = load_policy(args.policy)
rng = np.random.default_rng(0)
table = rng.standard_normal((1000, 14)).astype(np.float32)
network = build(config, contract, Statistics.of(qpos=table, action=table), pretrained=False)
batch = Batch(
    qpos=torch.randn(args.batch, 14),
    images={name: torch.randint(0, 256, (args.batch, 3, *size), dtype=torch.uint8) for name, size in cameras.items()},
    actions=torch.randn(args.batch, 100, 14),
    is_pad=torch.zeros(args.batch, 100, dtype=torch.bool),
)
times = []
if args.what == "train":
    network.train()
    optimiser = build_optimiser(network, TrainConfig(lr=1e-5))
    for _ in range(args.steps + 1):
        began = time.perf_counter()
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=args.amp):
            loss = network.losses(batch)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimiser.step()
        times.append(time.perf_counter() - began)
else:
    network.eval()
    for _ in range(args.steps + 2):
        began = time.perf_counter()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=args.amp):
            network.predict(batch)
        times.append(time.perf_counter() - began)
learnt = sum(p.numel() for p in network.parameters() if p.requires_grad)
print(json.dumps({"times": times[1:], "parameters": learnt, "torch": torch.__version__}))
