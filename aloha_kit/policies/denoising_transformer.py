"""Conditional transformer over an action chunk, the second network of Diffusion Policy (Chi et al., 2023)."""

from __future__ import annotations

import torch
from torch import nn, Tensor

from aloha_kit.policies.primitives import Dropout, Linear
from aloha_kit.policies.transformer import Attention
from aloha_kit.policies.unet1d import SinusoidalEmbedding


class ConditionalTransformer(nn.Module):
    """(B, K, A) and a condition (B, T, C) to (B, K, A): a causal decoder whose memory are time and observations.

    Args:
        action_dim: A.
        condition_dim: C, of one step of observation.
        chunk_size: K.
        steps: T, the steps of observation.
        layers, heads, size, dropout: of the decoder.
    """

    past: Tensor

    def __init__(
        self,
        action_dim: int,
        condition_dim: int,
        *,
        chunk_size: int,
        steps: int,
        layers: int,
        heads: int,
        size: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.action = nn.Linear(action_dim, size)
        self.action_positions = nn.Parameter(torch.empty(chunk_size, size))
        self.time = SinusoidalEmbedding(size)
        self.observation = nn.Linear(condition_dim, size)
        self.condition_positions = nn.Parameter(torch.empty(1 + steps, size))
        self.memory = nn.Sequential(nn.Linear(size, 4 * size), nn.Mish(), nn.Linear(4 * size, size))
        self.layers = nn.ModuleList(CausalDecoderLayer(size, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(size)
        self.head = nn.Linear(size, action_dim)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        # an action attends to itself and to those before it
        self.register_buffer("past", torch.ones(1, chunk_size, chunk_size, dtype=torch.bool).tril(), persistent=False)

    def forward(self, chunk: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """Args: noisy chunk (B, K, A), denoising time (B,) in [0, 100], condition (B, T, C)."""
        observed = torch.cat([self.time(time).unsqueeze(1), self.observation(condition)], dim=1)
        memory = self.memory(observed + self.condition_positions)
        x = self.action(chunk) + self.action_positions
        for layer in self.layers:
            x = layer(x, memory, self.past)
        out: Tensor = self.head(self.norm(x))
        return out


class CausalDecoderLayer(nn.Module):
    """Self-attention, attention to a memory and a feed-forward block, each normalised before; positions are in x."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = Attention(dim, heads, dropout)
        self.memory_attention = Attention(dim, heads, dropout)
        self.feedforward = nn.Sequential(Linear(dim, 4 * dim), nn.GELU(), Dropout(dropout), Linear(4 * dim, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """(B, K, D), a memory (B, N, D) and a mask (1, K, K), True where attended to, to (B, K, D)."""
        y = self.norms[0](x)
        x = x + self.dropout(self.self_attention(y, y, y, mask))
        x = x + self.dropout(self.memory_attention(self.norms[1](x), memory, memory))
        out: Tensor = x + self.dropout(self.feedforward(self.norms[2](x)))
        return out
