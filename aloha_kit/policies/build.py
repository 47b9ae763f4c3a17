"""Construction of a policy network from its configuration."""

from __future__ import annotations

import torch

from aloha_kit.config.policies import PolicyConfig
from aloha_kit.core import Contract
from aloha_kit.core.plugins import resolve
from aloha_kit.data.stats import Statistics
from aloha_kit.policies.network import ChunkNetwork


def build(config: PolicyConfig, contract: Contract, stats: Statistics, *, pretrained: bool = True) -> ChunkNetwork:
    """Build a new network, in training mode on the CPU.

    Args:
        config: which family and how large.
        contract: sizes and cameras; inputs that the network does not read are dropped from its own copy.
        stats: of the training data, with the contract's sizes.
        pretrained: False leaves out the pretrained backbone weights set in `config`, where
            all weights are about to be loaded anyway.

    Raises:
        ContractError: contract, statistics and configuration do not fit together.
        ConfigError: the family's network does not exist, or pretrained weights are required and not available.
    """
    family: type[ChunkNetwork] = resolve("networks", config.network, {}, base=ChunkNetwork)
    network = family(config, contract, stats)
    if network.vision is not None:
        if pretrained and config.pretrained_backbone:
            network.vision.load_pretrained(config.backbone)
        network.vision.to(memory_format=torch.channels_last)
    return network
