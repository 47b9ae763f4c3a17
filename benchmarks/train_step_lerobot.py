"""LeRobot's side of `train_step.py`; runs in LeRobot's environment and imports nothing of ours."""

from __future__ import annotations

import argparse
import json

import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from stopwatch import timed

parser = argparse.ArgumentParser()
parser.add_argument("height", type=int)
parser.add_argument("width", type=int)
parser.add_argument("cameras", type=int)
parser.add_argument("batch", type=int)
parser.add_argument("steps", type=int)
parser.add_argument("device")
parser.add_argument("--amp", action="store_true")
args = parser.parse_args()

torch.manual_seed(0)
if args.device == "cuda":  # as its training script does
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = True
images = [f"observation.images.cam_{i}" for i in range(args.cameras)]
policy = ACTPolicy(
    ACTConfig(
        input_features={
            "observation.state": PolicyFeature(FeatureType.STATE, (14,)),
            **{name: PolicyFeature(FeatureType.VISUAL, (3, args.height, args.width)) for name in images},
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (14,))},
        pretrained_backbone_weights=None,  # nothing to download; the arithmetic is the same
        device=args.device,
        use_amp=args.amp,
    )
).to(args.device)
batch = {
    "observation.state": torch.randn(args.batch, 14),
    **{name: torch.rand(args.batch, 3, args.height, args.width) for name in images},
    "action": torch.randn(args.batch, 100, 14),
    "action_is_pad": torch.zeros(args.batch, 100, dtype=torch.bool),
}
batch = {name: value.to(args.device) for name, value in batch.items()}
policy.train()
optimiser = torch.optim.AdamW(policy.get_optim_params(), lr=1e-5, weight_decay=1e-4)
half = torch.get_autocast_dtype(args.device)  # what its training script takes for use_amp
scaler = torch.amp.GradScaler(args.device, enabled=args.amp and half == torch.float16)


def step() -> None:
    with torch.autocast(args.device, half, enabled=args.amp):
        loss, _ = policy.forward(batch)
    scaler.scale(loss).backward()
    scaler.unscale_(optimiser)
    torch.nn.utils.clip_grad_norm_(policy.parameters(), 10.0)
    scaler.step(optimiser)
    scaler.update()
    optimiser.zero_grad()


result = timed(step, args.steps, args.device, warm_up=10 if args.device == "cuda" else 1)
print(json.dumps({**result, "parameters": sum(p.numel() for p in policy.parameters() if p.requires_grad)}))
