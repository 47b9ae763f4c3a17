"""ACT: Action Chunking with Transformers (Zhao et al., RSS 2023), a conditional VAE over chunks of actions.

Images become tokens of a transformer encoder beside the state and a latent; a decoder with one
learned query an action reads K actions from them in parallel. In training the latent encodes the
demonstrated chunk, deployed it is zero.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn, Tensor

from aloha_kit.config.policies import ActConfig
from aloha_kit.core import Contract
from aloha_kit.data.batch import Batch
from aloha_kit.data.stats import Statistics
from aloha_kit.policies.action_errors import Mean
from aloha_kit.policies.generator import BatchGenerator
from aloha_kit.policies.network import ChunkNetwork, masked_mean
from aloha_kit.policies.positions import image_positions, LearnedPositions, sequence_positions
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

    selects = "val_deployed"
    config: ActConfig
    image_positions: Tensor
    camera_of: Tensor

    def __init__(self, config: ActConfig, contract: Contract, stats: Statistics) -> None:
        super().__init__(config, contract, stats)
        dim = config.hidden_dim
        details = ("kl_mean", *(f"kl_{i}" for i in range(config.latent_dim))) if config.kl_details else ()
        latent = ("kl", *details) if config.use_vae else ()
        self.loss_columns = (config.loss_function, *latent, *(("is_pad",) if config.is_pad_weight else ()))
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
            # the name is a key of checkpoints
            self.picture = nn.Conv2d(self.vision.channels, dim, kernel_size=1)
            sizes = self.vision.map_sizes
            if config.position_embedding == "learned":
                self.learned_positions = LearnedPositions(sizes, dim)
            else:
                tables = [image_positions(height, width, dim) for height, width in sizes]
                self.register_buffer("image_positions", torch.cat(tables), persistent=False)
            self.cameras = None
            if config.camera_embedding and len(sizes) > 1:
                self.cameras = nn.Parameter(0.02 * torch.randn(len(sizes), dim))
                camera_of = torch.repeat_interleave(torch.tensor([height * width for height, width in sizes]))
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
        """`loss` = error + kl_weight · `kl` + is_pad_weight · `is_pad`; the error has its loss function's name."""
        config = self.config
        actions, is_pad = self.targets(batch)
        qpos, environment = self.states(batch)
        latent = None
        parts: dict[str, Tensor] = {}
        if config.use_vae:
            mean, log_variance = self.posterior(qpos, actions, is_pad)
            latent = mean + (log_variance / 2).exp() * torch.randn_like(mean)
            divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
            parts["kl"] = divergence.sum(dim=-1).mean()
            if config.kl_details:
                by_dimension = divergence.mean(0)
                parts |= {"kl_mean": by_dimension.mean()}
                parts |= {f"kl_{i}": value for i, value in enumerate(by_dimension.unbind())}
        outputs = self._decode(qpos, environment, self.feature_maps(batch), latent)
        errors = [self._error(self.action_head(output), batch) for output in outputs]
        loss = torch.stack(errors).mean() if len(errors) > 1 else errors[0]
        parts = {config.loss_function: errors[-1], **parts}
        if config.use_vae:
            loss = loss + config.kl_weight * parts["kl"]
        if config.is_pad_weight:
            logits = self.is_pad_head(outputs[-1]).squeeze(-1).float()
            parts["is_pad"] = F.binary_cross_entropy_with_logits(logits, is_pad.float())
            loss = loss + config.is_pad_weight * parts["is_pad"]
        return {"loss": loss, **{name: value.detach() for name, value in parts.items()}}

    def validation(self, batch: Batch, generator: BatchGenerator | None = None) -> dict[str, Mean]:
        """Adds `val_deployed`, the error at the zero latent of deployment; `val_loss` has the posterior's."""
        count, loss = len(batch["qpos"]), self.losses(batch)["loss"]
        predicted = self._deployed(batch)
        return {
            "val_loss": Mean(loss, count),
            **self.errors(self.normaliser.undo("action", predicted), batch),
            self.selects: Mean(self._error(predicted, batch), count),
        }

    def predict(self, batch: Batch, generator: BatchGenerator | None = None) -> Tensor:
        return self.normaliser.undo("action", self._deployed(batch))

    def _error(self, predicted: Tensor, batch: Batch) -> Tensor:
        """Mean error of normalised (B, K, A) by the loss function."""
        actions, is_pad = self.targets(batch)
        difference = predicted - actions
        error = difference.square() if self.config.loss_function == "l2" else difference.abs()
        if self.config.loss_function == "l1+l2":
            error = error + difference.square()
        return masked_mean(error, is_pad, over=self.config.loss_over, valid_rows=batch.get("valid_rows"))

    def _deployed(self, batch: Batch) -> Tensor:
        """Normalised (B, K, A) at the zero latent."""
        qpos, environment = self.states(batch)
        actions: Tensor = self.action_head(self._decode(qpos, environment, self.feature_maps(batch), None)[-1])
        return actions

    def _decode(
        self, qpos: Tensor, environment: Tensor | None, maps: list[Tensor], latent: Tensor | None
    ) -> list[Tensor]:
        """Inputs of the heads, (B, K, D) of each decoder layer that is trained, the deployed one last.

        A latent of None is the zero of deployment.
        """
        tokens, positions = self._tokens(qpos, environment, maps, latent)
        for layer in self.encoder:
            tokens = layer(tokens, positions)
        memory = self.encoder_norm(tokens)
        key = memory + positions
        start = self.queries if self.config.decoder_input == "queries" else torch.zeros_like(self.queries)
        x = start.expand(qpos.shape[0], -1, -1)
        layers = self.decoder[:1] if self.config.decoder_output == "first" else self.decoder
        outputs: list[Tensor] = []
        for layer in layers:
            x = layer(x, self.queries, memory, key)
            outputs.append(x)
        trained = outputs if self.config.decoder_output == "all" else outputs[-1:]
        return [self.decoder_norm(output) for output in trained]

    def _tokens(
        self, qpos: Tensor, environment: Tensor | None, maps: list[Tensor], latent: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(B, N, D) tokens and their (N, D) positions: latent, state, object poses, then each camera's patches."""
        vectors = [self.state(qpos)]
        if self.config.use_vae:
            z = qpos.new_zeros(qpos.shape[0], self.config.latent_dim) if latent is None else latent
            vectors.insert(0, self.latent(z))
        if environment is not None:
            vectors.append(self.environment(environment))
        tokens = [torch.stack(vectors, dim=1)]
        positions: list[Tensor] = [self.vector_positions]
        if maps:
            weight, bias = self.picture.weight.flatten(1), self.picture.bias
            tokens += [linear(rearrange(features, "b c h w -> b (h w) c"), weight, bias) for features in maps]
            learned = self.config.position_embedding == "learned"
            table = self.learned_positions() if learned else self.image_positions
            positions.append(table if self.cameras is None else table + self.cameras[self.camera_of])
        return torch.cat(tokens, dim=1), torch.cat(positions)
