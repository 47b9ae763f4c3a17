"""LeRobot's side of `act_speed.py`; runs in LeRobot's environment and knows nothing of ours."""

from __future__ import annotations

import argparse
import json
import time

import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy

parser = argparse.ArgumentParser()
parser.add_argument("what", choices=("train", "infer"))
parser.add_argument("height", type=int)
parser.add_argument("width", type=int)
parser.add_argument("cameras", type=int)
parser.add_argument("batch", type=int)
parser.add_argument("steps", type=int)
args = parser.parse_args()

torch.manual_seed(0)
pictures = [f"observation.images.cam_{i}" for i in range(args.cameras)]
policy = ACTPolicy(
    ACTConfig(
        input_features={
            "observation.state": PolicyFeature(FeatureType.STATE, (14,)),
            **{name: PolicyFeature(FeatureType.VISUAL, (3, args.height, args.width)) for name in pictures},
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (14,))},
        pretrained_backbone_weights=None,  # nothing to download; the arithmetic is the same
        device="cpu",
    )
)
batch = {
    "observation.state": torch.randn(args.batch, 14),
    **{name: torch.rand(args.batch, 3, args.height, args.width) for name in pictures},
}
times = []
if args.what == "train":
    batch |= {
        "action": torch.randn(args.batch, 100, 14),
        "action_is_pad": torch.zeros(args.batch, 100, dtype=torch.bool),
    }
    policy.train()
    optimiser = torch.optim.AdamW(policy.get_optim_params(), lr=1e-5, weight_decay=1e-4)
    for _ in range(args.steps + 1):
        began = time.perf_counter()
        loss, _ = policy.forward(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 10.0)
        optimiser.step()
        optimiser.zero_grad()
        times.append(time.perf_counter() - began)
else:
    policy.eval()
    for _ in range(args.steps + 2):
        began = time.perf_counter()
        with torch.inference_mode():
            policy.predict_action_chunk(batch)
        times.append(time.perf_counter() - began)
learnt = sum(p.numel() for p in policy.parameters() if p.requires_grad)
print(json.dumps({"times": times[1:], "parameters": learnt, "torch": torch.__version__}))
