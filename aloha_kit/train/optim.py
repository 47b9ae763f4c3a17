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
        [group for group in groups if group["params"]],
        lr=config.lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=fused,
    )


def lr_factor(config: TrainConfig, step: int, progress: float, epochs: int = 0) -> float:
    """Share of the full learning rate at a step; `progress` in [0, 1] is how much of the run is over, `epochs` how many
    passes over the data are done.

    Warm-up ends after `warmup_steps` or a tenth of the run, whichever is first. A function of its arguments, so a
    resumed run cannot be out of step with its schedule.
    """
    warm = max((step + 1) / config.warmup_steps if config.warmup_steps else 1.0, progress / 0.1)
    decay = 1.0
    if config.schedule == "cosine":
        decay = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    elif config.schedule == "step":
        decay = config.decay_factor ** (epochs // config.decay_epochs)
    return min(warm, 1.0) * decay


class AveragedWeights:
    """Exponential moving average of a network's weights.

    The decay of update n, from 0, is at most (1 + n) / (10 + n), or 1 - (1 + n)^-power as in Diffusion Policy, or the
    random initial weights would stay in the average for a long time.
    """

    def __init__(self, network: ChunkNetwork, decay: float, power: float | None = None) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay, self.power = decay, power
        self.updates = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the present weights; buffers are copied."""
        n = self.updates
        grown = (1 + n) / (10 + n) if self.power is None else 1 - (1 + n) ** -self.power
        decay = min(self.decay, grown)
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # on a GPU one kernel for all tensors
        average(list(self.network.parameters()), list(network.parameters()), self.updates)
        for buffer, newest in zip(self.network.buffers(), network.buffers(), strict=True):
            buffer.copy_(newest)
        self.updates += 1
