"""Engines of policies that read several steps of observation predict what eager fp32 predicts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from aloha_kit.config.policies import PolicyConfig
from aloha_kit.core import Observation
from aloha_kit.core.inputs import read
from aloha_kit.data.batch import Batch
from aloha_kit.policies.collate import Collator
from aloha_kit.policies.engine import blank, check, Engine, prepare
from aloha_kit.policies.network import ChunkNetwork
from tests import tiny

STEPS = 2
CONTRACT = tiny.contract(24, 32)
POLICIES = {"deterministic": replace(tiny.ACT, n_obs_steps=STEPS), "sampling": replace(tiny.FLOW, n_obs_steps=STEPS)}
TOLERANCE = {"compile": 1e-3, "bf16": 0.2, "openvino": 1e-2}
"""Of the actions' standard deviations; a weight of eager fp32 off by one row is far beyond each."""


def observation(seed: int) -> Observation:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return Observation(qpos=rng.normal(size=14).astype(np.float32), images={"top": image}, stamps={})


def window(network: ChunkNetwork, earlier: int, present: int) -> Batch:
    """The batch of an observation and the one before it."""
    steps = read({**observation(present), "history": [observation(earlier)]}, network.contract, STEPS)
    return Collator("cpu")({name: rows[None] for name, rows in steps.items()})


def engine_of(kind: str, network: ChunkNetwork) -> Engine:
    example = blank(network, 1)
    if kind == "compile":
        return tiny.by_compiler(network)
    if kind == "bf16":
        return prepare(network, precision="bf16", example=example)
    return prepare(network, engine="openvino", example=example)


@pytest.mark.parametrize("kind", TOLERANCE)
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_an_engine_reads_every_step_of_observation(policy: PolicyConfig, kind: str) -> None:
    network = tiny.network(CONTRACT, policy).eval()
    engine, std = engine_of(kind, network), torch.from_numpy(network.stats["action"].std)

    def off(chunk: Tensor, other: Tensor) -> float:
        return float(((chunk - other).abs() / std).max())

    assert check(engine, network, blank(network, 1)).of_std < TOLERANCE[kind]
    chunks = {}
    with torch.inference_mode():
        for earlier, present in ((1, 2), (3, 2), (1, 4)):
            batch = window(network, earlier, present)
            chunk, eager = (predict(batch, network.generator([(7, 0)])) for predict in (engine, network.predict))
            assert off(chunk, eager) < TOLERANCE[kind]
            chunks[earlier, present] = chunk
    assert off(chunks[1, 2], chunks[3, 2]) > 1e-4, "the earlier observation is read"
    assert off(chunks[1, 2], chunks[1, 4]) > 1e-4, "the present observation is read"
