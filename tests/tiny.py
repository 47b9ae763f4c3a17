"""Tiny policies and checkpoints, for all tests: too small to be any good, with everything that a real one has."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from aloha_kit.config import to_mapping
from aloha_kit.config.bc import BcConfig
from aloha_kit.config.denoising import FlowConfig
from aloha_kit.config.ibc import IbcConfig
from aloha_kit.config.policies import ActConfig, CnnMlpConfig, PolicyConfig
from aloha_kit.core import Contract, joint_names, START_ARM_POSE
from aloha_kit.data.stats import Statistics
from aloha_kit.policies import checkpoint
from aloha_kit.policies.build import build
from aloha_kit.policies.engine import blank, draws_of, Engine
from aloha_kit.policies.engine_compile import compiled
from aloha_kit.policies.network import ChunkNetwork

BACKBONE: dict[str, Any] = {"backbone_layers": 1, "backbone_width": 16}
"""The smallest ResNet."""
ACT = ActConfig(
    chunk_size=6,
    hidden_dim=16,
    dim_feedforward=32,
    nheads=2,
    enc_layers=1,
    latent_dim=4,
    kl_weight=0.1,
    **BACKBONE,
    backbone_norm="group",
    pretrained_backbone=False,
)
"""With dropout and a sampled latent, as real ones have."""
CNNMLP = CnnMlpConfig(
    chunk_size=4,
    hidden_dim=16,
    keypoints=4,
    **BACKBONE,
    backbone_norm="group",
    pretrained_backbone=False,
)
FLOW = FlowConfig(
    chunk_size=4,
    keypoints=4,
    down_dims=(16, 32),
    kernel_size=3,
    n_groups=4,
    time_embedding=16,
    inference_steps=2,
    **BACKBONE,
)
"""Samples, and reads two steps of observation."""
BC_RNN = BcConfig(
    n_obs_steps=2,
    keypoints=4,
    actor="lstm",
    lstm_units=16,
    layer_dims=(),
    output="gmm",
    image_crop=0.9,
    **BACKBONE,
)
"""An LSTM whose output is a mixture of Gaussians."""
IBC = IbcConfig(
    n_obs_steps=1,
    keypoints=4,
    layer_dims=(16, 16),
    negatives=8,
    candidates=16,
    image_crop=0.9,
    **BACKBONE,
)


def contract(height: int = 32, width: int = 48) -> Contract:
    """Two ViperX arms and one camera, at 50 Hz."""
    return Contract.of(joint_names(), joint_names(), {"top": (height, width)}, rate_hz=50.0)


def statistics() -> Statistics:
    """Of arms that hover at the start pose."""
    start = np.tile([*START_ARM_POSE, 0.5], 2)
    rows = start + np.random.default_rng(0).normal(0, 0.05, (200, 14))
    return Statistics.of(qpos=rows, action=rows)


def network(of: Contract, policy: PolicyConfig = ACT) -> ChunkNetwork:
    """An untrained network, the same at every call."""
    torch.manual_seed(0)
    return build(policy, of, statistics())


def by_compiler(network: ChunkNetwork) -> Engine:
    """Engine `compile` of a network, for one observation, by a backend that needs no C++ compiler."""
    example = blank(network, 1)
    torch._dynamo.reset()
    predict = compiled(network.predict, example, draws_of(network, example), backend="aot_eager")
    return Engine("compile", "fp32", predict)


def save_checkpoint(folder: Path, of: Contract, policy: PolicyConfig = ACT, task: str = "") -> Path:
    """A checkpoint as training leaves it; returns its folder."""
    training = {"task": task} if task else {"step": 0}
    checkpoint.save(folder, network(of, policy), policy, statistics(), of, training)
    return folder


def write_policy(file: Path, policy: PolicyConfig = ACT, **changes: object) -> Path:
    """A policy's YAML file, for `--policy`."""
    values = to_mapping(dataclasses.replace(policy, **changes))  # type: ignore[arg-type]
    file.write_text(yaml.safe_dump({"kind": policy.kind, **values}), encoding="utf-8")
    return file
