"""Optimiser (AdamW in two groups), learning rate schedule without state, averaged weights."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from aloha_kit.config.training import TrainConfig
from aloha_kit.policies.network import ChunkNetwork


def build_optimiser(network: ChunkNetwork, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW with the image backbones in a group of their own. Each group holds its full rate as `base_lr`."""
    backbone = list(network.backbone_parameters())
    known = {id(p) for p in backbone}
    rest = [p for p in network.parameters() if id(p) not in known]
    lr_backbone = config.lr if config.lr_backbone is None else config.lr_backbone
    groups = [
        {"params": [p for p in params if p.requires_grad], "lr": lr, "base_lr": lr}
        for params, lr in ((rest, config.lr), (backbone, lr_backbone))
    ]
    # one kernel for all tensors; on a CPU it saves a tenth of a small step
    fused = next(network.parameters()).device.type in {"cpu", "cuda"}
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=config.lr, weight_decay=config.weight_decay, fused=fused
    )


def lr_factor(config: TrainConfig, step: int, progress: float) -> float:
    """Share of the full learning rate at a step; `progress` in [0, 1] is how much of the run is over.

    Warm-up ends after `warmup_steps` or a tenth of the run, whichever is first. A function of its arguments, so a
    resumed run cannot be out of step with its schedule.
    """
    warm = max((step + 1) / config.warmup_steps if config.warmup_steps else 1.0, progress / 0.1)
    decay = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))) if config.schedule == "cosine" else 1.0
    return min(warm, 1.0) * decay


class AveragedWeights:
    """Exponential moving average of a network's weights.

    The decay of the n-th update is min(decay, (1 + n) / (10 + n)), or the random initial weights would stay in the
    average for a long time.
    """

    def __init__(self, network: ChunkNetwork, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the present weights; buffers are copied."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # on a GPU one kernel for all tensors
        average(list(self.network.parameters()), list(network.parameters()), self.updates)
        for buffer, newest in zip(self.network.buffers(), network.buffers(), strict=True):
            buffer.copy_(newest)
        self.updates += 1
