"""bf16 inference: half the bytes, and twice the products where the processor supports bf16.

Autocast alone prepares and converts 50 M weights at every inference. Here that is done once: normalisations that do not
change become part of the convolution before them, and weights are kept narrow.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import nn, Tensor
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.models.resnet import BasicBlock
from torchvision.ops.misc import FrozenBatchNorm2d

from aloha_kit.data.batch import Batch
from aloha_kit.policies.backbone import ResNetTrunk
from aloha_kit.policies.generator import BatchGenerator
from aloha_kit.policies.network import ChunkNetwork, Predict
from aloha_kit.policies.transformer import Attention


def in_bf16(network: ChunkNetwork) -> Predict:
    """`network.predict` in bf16, by a copy of the network; sums, normalisation and the last layer stay in fp32."""
    narrow = copy.deepcopy(network).eval()
    head = narrow.head
    for module in [*narrow.modules()]:
        if isinstance(module, (ResNetTrunk, BasicBlock)):
            _fold(module)
        for name, child in module.named_children():
            if child is head:
                setattr(module, name, _FullPrecision(head))
    for module in narrow.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear, Attention)) and module is not head:
            module.to(torch.bfloat16)
    kind = next(network.parameters()).device.type

    def predict(batch: Batch, generator: BatchGenerator | None = None) -> Tensor:
        with torch.autocast(kind, torch.bfloat16, cache_enabled=False):  # nothing is left to convert twice
            return narrow.predict(batch, generator)

    return predict


class _FullPrecision(nn.Module):
    """A layer that autocast leaves in fp32: the last one in bf16 would quantise actions to 1 % of a deviation."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            out: Tensor = self.layer(x.float())
        return out


def _fold(block: nn.Module) -> None:
    """Make batch normalisation, as it is outside training, part of the convolution that it follows."""
    pairs = [(block, "conv1", "bn1"), (block, "conv2", "bn2")]
    if isinstance(shortcut := getattr(block, "downsample", None), nn.Sequential):
        pairs.append((shortcut, "0", "1"))
    for owner, before, after in pairs:
        convolution, norm = getattr(owner, before, None), getattr(owner, after, None)
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, (FrozenBatchNorm2d, nn.BatchNorm2d)):
            mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
            convolution.weight, convolution.bias = fuse_conv_bn_weights(
                convolution.weight, convolution.bias, mean, variance, norm.eps, norm.weight, norm.bias
            )
            setattr(owner, after, nn.Identity())
