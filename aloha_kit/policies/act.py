"""ACT: Action Chunking with Transformers (Zhao et al., RSS 2023), a conditional VAE over chunks of actions.

Images become tokens of a transformer encoder beside the state and a latent; a decoder with one
learned query an action reads K actions from them in parallel. In training the latent encodes the
demonstrated chunk, deployed it is zero.
"""

from __future__ import annotations

import copy

import torch
from einops import rearrange
from torch import nn, Tensor

from aloha_kit.config.policies import ActConfig
from aloha_kit.core import Contract
from aloha_kit.data.batch import Batch
from aloha_kit.data.stats import Statistics
from aloha_kit.policies.generator import BatchGenerator
from aloha_kit.policies.metrics import Mean
from aloha_kit.policies.network import ChunkNetwork, masked_mean
from aloha_kit.policies.positions import picture_positions, sequence_positions
from aloha_kit.policies.primitives import Linear, linear
from aloha_kit.policies.transformer import DecoderLayer, EncoderLayer, xavier


def _encoder_layers(config: ActConfig) -> nn.ModuleList:
    return nn.ModuleList(
        EncoderLayer(config.hidden_dim, config.nheads, config.dim_feedforward, config.dropout, config.pre_norm)
        for _ in range(config.enc_layers)
    )


class VAEEncoder(nn.Module):
    """VAE encoder q(z | state, actions): the latent of a demonstration, used in training only."""

    positions: Tensor

    def __init__(self, config: ActConfig, state_dim: int, action_dim: int) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.summary = nn.Parameter(torch.randn(1, dim))  # the token whose output becomes the latent
        self.state = Linear(state_dim, dim)
        self.action = Linear(action_dim, dim)
        self.layers = _encoder_layers(config)
        if not config.distinct_init:
            for layer in self.layers[1:]:
                layer.load_state_dict(copy.deepcopy(self.layers[0].state_dict()))
        self.norm = nn.LayerNorm(dim) if config.pre_norm else nn.Identity()
        self.latent = Linear(dim, 2 * config.latent_dim)
        self.register_buffer("positions", sequence_positions(2 + config.chunk_size, dim), persistent=False)

    def forward(self, qpos: Tensor, actions: Tensor, is_pad: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised (B, S), (B, K, A) and (B, K) to mean and log-variance, (B, Z) each."""
        batch = len(qpos)
        summary = self.summary.expand(batch, 1, -1)
        x = torch.cat([summary, self.state(qpos).unsqueeze(1), self.action(actions)], dim=1)
        mask = torch.cat([is_pad.new_ones(batch, 2), ~is_pad], dim=1)
        for layer in self.layers[:-1]:
            x = layer(x, self.positions, mask)
        x = self.layers[-1](x, self.positions, mask, rows=1)  # the others are never read
        # fp32 under autocast too: the divergence is a small difference of near equals, and bf16 makes it negative
        mean, log_variance = self.latent(self.norm(x.squeeze(1))).float().chunk(2, dim=-1)
        return mean, log_variance


class ActNetwork(ChunkNetwork):
    """ACT network as described in the module; its settings are in `ActConfig`."""

    loss_columns = ("l1", "kl")
    selects = "val_deployed"
    config: ActConfig
    picture_positions: Tensor
    camera_of: Tensor

    def __init__(self, config: ActConfig, contract: Contract, stats: Statistics) -> None:
        super().__init__(config, contract, stats)
        dim = config.hidden_dim
        self.encoder = _encoder_layers(config)
        self.encoder_norm = nn.LayerNorm(dim) if config.pre_norm else nn.Identity()
        self.decoder = nn.ModuleList(
            DecoderLayer(
                dim,
                config.nheads,
                config.dim_feedforward,
                config.dropout,
                config.pre_norm,
                self_attention=index > 0 or config.first_self_attention,
            )
            for index in range(config.dec_layers)
        )
        xavier(self.encoder)
        xavier(self.decoder)
        self.decoder_norm = nn.LayerNorm(dim)
        self.queries = nn.Parameter(torch.randn(config.chunk_size, dim))
        self.state = Linear(self.state_dim, dim)
        vectors = 1
        if config.use_vae:
            self.posterior = VAEEncoder(config, self.state_dim, self.action_dim)
            self.latent = Linear(config.latent_dim, dim)
            vectors += 1
        if self.environment_dim:
            self.environment = Linear(self.environment_dim, dim)
            vectors += 1
        self.vector_positions = nn.Parameter(torch.randn(vectors, dim))
        if self.vision is not None:
            self.picture = nn.Conv2d(self.vision.channels, dim, kernel_size=1)
            tables = [picture_positions(height, width, dim) for height, width in self.vision.map_sizes]
            self.register_buffer("picture_positions", torch.cat(tables), persistent=False)
            self.cameras = None
            if config.camera_embedding and len(tables) > 1:
                self.cameras = nn.Parameter(0.02 * torch.randn(len(tables), dim))
                camera_of = torch.repeat_interleave(torch.tensor([len(table) for table in tables]))
                self.register_buffer("camera_of", camera_of, persistent=False)
        self.action_head = Linear(dim, self.action_dim)
        if config.is_pad_head:
            self.is_pad_head = Linear(dim, 1)

    @property
    def head(self) -> nn.Module:
        return self.action_head

    @property
    def validation_columns(self) -> tuple[str, ...]:
        loss, *errors = super().validation_columns
        return loss, self.selects, *errors

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`l1`, `kl` and `loss` = l1 + kl_weight · kl; without a VAE `l1` and `loss` = l1."""
        actions, is_pad = self.targets(batch)
        qpos, environment = self.states(batch)
        latent = kl = None
        if self.config.use_vae:
            mean, log_variance = self.posterior(qpos, actions, is_pad)
            latent = mean + (log_variance / 2).exp() * torch.randn_like(mean)
            kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=-1).mean()
        l1 = self._l1(self._decode(qpos, environment, self.feature_maps(batch), latent), batch)
        if kl is None:
            return {"loss": l1, "l1": l1.detach()}
        return {"loss": l1 + self.config.kl_weight * kl, "l1": l1.detach(), "kl": kl.detach()}

    def validation(self, batch: Batch, generator: BatchGenerator | None = None) -> dict[str, Mean]:
        """Adds `val_deployed`, the l1 at the zero latent of deployment; `val_loss` has the posterior's."""
        count, loss = len(batch["qpos"]), self.losses(batch)["loss"]
        predicted = self._deployed(batch)
        return {
            "val_loss": Mean(loss, count),
            **self.errors(self.normaliser.undo("action", predicted), batch),
            self.selects: Mean(self._l1(predicted, batch), count),
        }

    def predict(self, batch: Batch, generator: BatchGenerator | None = None) -> Tensor:
        return self.normaliser.undo("action", self._deployed(batch))

    def _l1(self, predicted: Tensor, batch: Batch) -> Tensor:
        """Mean absolute error of normalised (B, K, A)."""
        actions, is_pad = self.targets(batch)
        error = (predicted - actions).abs()
        return masked_mean(error, is_pad, over=self.config.loss_over, valid_rows=batch.get("valid_rows"))

    def _deployed(self, batch: Batch) -> Tensor:
        """Normalised (B, K, A) at the zero latent."""
        qpos, environment = self.states(batch)
        return self._decode(qpos, environment, self.feature_maps(batch), None)

    def _decode(self, qpos: Tensor, environment: Tensor | None, maps: list[Tensor], latent: Tensor | None) -> Tensor:
        """p(actions | z, observation): normalised (B, K, A); a latent of None is the zero of deployment."""
        tokens, positions = self._tokens(qpos, environment, maps, latent)
        for layer in self.encoder:
            tokens = layer(tokens, positions)
        memory = self.encoder_norm(tokens)
        key = memory + positions
        start = self.queries if self.config.decoder_input == "queries" else torch.zeros_like(self.queries)
        x = start.expand(len(qpos), -1, -1)
        layers = self.decoder[:1] if self.config.decoder_output == "first" else self.decoder
        for layer in layers:
            x = layer(x, self.queries, memory, key)
        actions: Tensor = self.action_head(self.decoder_norm(x))
        return actions

    def _tokens(
        self, qpos: Tensor, environment: Tensor | None, maps: list[Tensor], latent: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(B, N, D) tokens and their (N, D) positions: latent, state, object poses, then each camera's patches."""
        vectors = [self.state(qpos)]
        if self.config.use_vae:
            z = qpos.new_zeros(len(qpos), self.config.latent_dim) if latent is None else latent
            vectors.insert(0, self.latent(z))
        if environment is not None:
            vectors.append(self.environment(environment))
        tokens = [torch.stack(vectors, dim=1)]
        positions: list[Tensor] = [self.vector_positions]
        if maps:
            weight, bias = self.picture.weight.flatten(1), self.picture.bias
            tokens += [linear(rearrange(features, "b c h w -> b (h w) c"), weight, bias) for features in maps]
            table = self.picture_positions
            positions.append(table if self.cameras is None else table + self.cameras[self.camera_of])
        return torch.cat(tokens, dim=1), torch.cat(positions)
