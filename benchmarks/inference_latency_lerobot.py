"""LeRobot's side of `inference_latency.py`; runs in LeRobot's environment and imports nothing of ours."""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.policies.act.processor_act import make_act_pre_post_processors
from lerobot.policies.utils import prepare_observation_for_inference
from stopwatch import timed

parser = argparse.ArgumentParser()
parser.add_argument("cameras", type=int)
parser.add_argument("inferences", type=int)
parser.add_argument("device")
parser.add_argument("--whole", action="store_true")
args = parser.parse_args()

torch.manual_seed(0)
if args.device == "cuda":  # as its evaluation script does
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = True
images = [f"observation.images.cam_{i}" for i in range(args.cameras)]
config = ACTConfig(
    input_features={
        "observation.state": PolicyFeature(FeatureType.STATE, (14,)),
        **{name: PolicyFeature(FeatureType.VISUAL, (3, 480, 640)) for name in images},
    },
    output_features={"action": PolicyFeature(FeatureType.ACTION, (14,))},
    pretrained_backbone_weights=None,  # nothing to download; the arithmetic is the same
    device=args.device,
)
policy = ACTPolicy(config).to(args.device).eval()


def moments(*shape: int) -> dict[str, torch.Tensor]:
    return {"mean": torch.zeros(shape), "std": torch.ones(shape)}


stats = {"observation.state": moments(14), "action": moments(14), **{name: moments(3, 1, 1) for name in images}}
before, after = make_act_pre_post_processors(config, stats)
rng = np.random.default_rng(0)
observation = {
    "observation.state": rng.standard_normal(14).astype(np.float32),
    **{name: rng.integers(0, 256, (480, 640, 3), dtype=np.uint8) for name in images},
}


def ready() -> dict[str, torch.Tensor]:
    batch: dict[str, torch.Tensor] = before(
        prepare_observation_for_inference(dict(observation), torch.device(args.device))
    )
    return batch


tensors = ready()


@torch.inference_mode()
def infer() -> object:
    if args.whole:
        return after(policy.predict_action_chunk(ready())).cpu().numpy()
    return policy.predict_action_chunk(tensors)


print(json.dumps(timed(infer, args.inferences, args.device, warm_up=20 if args.device == "cuda" else 3)))
