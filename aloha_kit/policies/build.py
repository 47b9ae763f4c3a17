"""Construction of a policy network from its configuration."""

from __future__ import annotations

import torch

from aloha_kit.config.policies import PolicyConfig
from aloha_kit.core import ConfigError, Contract
from aloha_kit.core.plugins import resolve
from aloha_kit.data.instructions import Instructions
from aloha_kit.data.stats import Statistics
from aloha_kit.policies.instruction_embedding import InstructionEmbedding
from aloha_kit.policies.network import ChunkNetwork


def build(
    config: PolicyConfig,
    contract: Contract,
    stats: Statistics,
    *,
    pretrained: bool = True,
    instructions: Instructions | None = None,
) -> ChunkNetwork:
    """Build a new network, in training mode on the CPU.

    Args:
        config: which family and how large.
        contract: sizes and cameras; inputs that the network does not read are dropped from its own copy.
        stats: of the training data, with the contract's sizes.
        pretrained: False leaves out the pretrained backbone weights set in `config`, where
            all weights are about to be loaded anyway.
        instructions: of the training data, for a network that reads them (`text_encoder`).

    Raises:
        ContractError: contract, statistics and configuration do not fit together.
        ConfigError: the family's network does not exist, pretrained weights are required and not available, or the
            network reads instructions and there are none.
    """
    family: type[ChunkNetwork] = resolve("networks", config.network, {}, base=ChunkNetwork)
    network = family(config, contract, stats)
    if config.reads_instruction:
        if instructions is None:
            raise ConfigError(
                "text_encoder {text_encoder}: the network reads instructions, and none are given",
                text_encoder=config.text_encoder,
            )
        network.language = InstructionEmbedding(instructions, config.instruction_dim)
    if network.vision is not None:
        if pretrained and config.pretrained_backbone:
            network.vision.load_pretrained(config.backbone)
        network.vision.to(memory_format=torch.channels_last)
    return network
