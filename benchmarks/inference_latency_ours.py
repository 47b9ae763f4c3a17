"""Our side of `inference_latency.py`: the inference of deployment and evaluation, by the engine that the flags name."""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch
from act_of import act
from stopwatch import timed

from aloha_kit.config.inference import InferenceSettings
from aloha_kit.core import Observation
from aloha_kit.policies.chunk_policy import ChunkPolicy
from aloha_kit.policies.engine import blank, prepare
from aloha_kit.policies.engine_choice import choose

parser = argparse.ArgumentParser()
parser.add_argument("cameras", type=int)
parser.add_argument("inferences", type=int)
parser.add_argument("device")
parser.add_argument("--engine", choices=("default", "eager", "compile", "openvino"), default="eager")
parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
parser.add_argument("--size", nargs=2, type=int, default=(480, 640))
parser.add_argument("--policy", default="act")
args = parser.parse_args()

torch.manual_seed(0)
cameras = {f"cam_{i}": tuple(args.size) for i in range(args.cameras)}
network = act(cameras, args.policy).to(args.device)
began = time.perf_counter()
if args.engine == "default":
    engine = choose(network, InferenceSettings(), blank(network, 1))
else:
    engine = prepare(network, engine=args.engine, precision=args.precision, example=blank(network, 1))
made = time.perf_counter() - began
policy = ChunkPolicy(network, args.device, engine)
rng = np.random.default_rng(0)
observation: Observation = {
    "qpos": rng.standard_normal(14).astype(np.float32),
    "images": {name: rng.integers(0, 256, (*size, 3), dtype=np.uint8) for name, size in cameras.items()},
    "stamps": {},
}
warm_up = 20 if args.device == "cuda" else 3
result = timed(lambda: policy.predict_chunk(observation), args.inferences, args.device, warm_up)
result |= {"engine": f"{engine.kind} {engine.precision}"}
if engine.checked is not None:
    result |= {"off": engine.checked.of_std, "ready": made}
print(json.dumps(result))
