"""A rebuilt ACT's side of `train_step.py`: the published one, or LeRobot's where LeRobot itself is not installed.

As published: images normalised in the network, PyTorch's default AdamW, gradients not clipped.
"""

from __future__ import annotations

import argparse
import json

import torch
from act_rebuilt import DECODERS, LerobotStep, RebuiltAct, samples
from stopwatch import timed

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("height", "width", "cameras", "batch", "steps"):
        parser.add_argument(name, type=int)
    parser.add_argument("device")
    parser.add_argument("--like", choices=tuple(DECODERS), default="published")
    parser.add_argument("--amp", action="store_true", help="LeRobot's")
    args = parser.parse_args()
    torch.manual_seed(0)
    qpos, images, actions, is_pad = samples(args.batch, args.cameras, args.height, args.width, args.device)
    if args.like == "lerobot":
        lerobot = LerobotStep(args.device, args.amp)
        network, step = lerobot.network, lambda: lerobot(qpos, images, actions, is_pad)
    else:
        network = RebuiltAct(DECODERS["published"]).to(args.device).train()
        mean, std = (values.to(args.device)[:, None, None] for values in (MEAN, STD))
        optimiser = torch.optim.AdamW(network.parameters(), lr=1e-5, weight_decay=1e-4)

        def step() -> None:
            network(qpos, (images - mean) / std, actions, is_pad).backward()
            optimiser.step()
            optimiser.zero_grad()

    result = timed(step, args.steps, args.device, warm_up=10 if args.device == "cuda" else 1)
    print(json.dumps({**result, "parameters": sum(p.numel() for p in network.parameters())}))


if __name__ == "__main__":
    main()
