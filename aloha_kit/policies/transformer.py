"""Transformer layers that add positions to queries and keys, never to values (DETR, Carion et al., 2020).

Parameters are named as in `torch.nn.TransformerDecoderLayer`, so that published weights map by prefix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn, Tensor

from aloha_kit.policies.primitives import Dropout, dropout, Linear, linear


class Attention(nn.Module):
    """Multi-head attention with `nn.MultiheadAttention`'s parameters, through the fused kernel where there is one."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, Q, D), (B, N, D), (B, N, D) to (B, Q, D); `mask`, (B, N) or (B, Q, N), is True at attended keys."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            rearrange(linear(x, weight, bias), "b n (h d) -> b h n d", h=self.heads)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        seen = mask if mask is None else mask[:, None, None] if mask.ndim == 2 else mask[:, None]
        p = self.dropout if self.training else 0.0
        # the CPU's kernel does not support dropout
        attend = attention_with_dropout if p and q.device.type == "cpu" else F.scaled_dot_product_attention
        out = attend(q, k, v, seen, p)
        projected: Tensor = self.out_proj(rearrange(out, "b h n d -> b n (h d)"))
        return projected


def attention_with_dropout(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, p: float) -> Tensor:
    """`F.scaled_dot_product_attention` written out; every row of `mask` has a True entry."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights = scores.softmax(-1, torch.promote_types(scores.dtype, torch.float32))  # under autocast too
    return dropout(weights, p).to(v.dtype) @ v


class _Layer(nn.Module):
    """Shared part of both layers: the feed-forward block, and a residual step normalised before or after."""

    def __init__(self, dim: int, feedforward: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.linear1, self.linear2 = Linear(dim, feedforward), Linear(feedforward, dim)
        self.dropout = Dropout(dropout)
        self.pre_norm = pre_norm

    def residual(self, norm: nn.Module, x: Tensor, block: Callable[[Tensor], Tensor]) -> Tensor:
        """(B, N, D) to as many leading rows as `block` returns."""
        out = self.dropout(block(norm(x) if self.pre_norm else x))
        out = x[:, : out.shape[1]] + out
        return out if self.pre_norm else cast(Tensor, norm(out))

    def feedforward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear2(self.dropout(F.relu(self.linear1(x))))
        return out


class EncoderLayer(_Layer):
    """Self-attention, then feed-forward."""

    def __init__(self, dim: int, heads: int, feedforward: int, dropout: float, pre_norm: bool) -> None:
        super().__init__(dim, feedforward, dropout, pre_norm)
        self.self_attn = Attention(dim, heads, dropout)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor, position: Tensor, mask: Tensor | None = None, rows: int | None = None) -> Tensor:
        """(B, N, D) with positions (N, D) to (B, N, D), or to the first `rows` of it, attending to all N."""

        def attend(y: Tensor) -> Tensor:
            key = y + position
            out: Tensor = self.self_attn(key[:, :rows], key, y, mask)
            return out

        x = self.residual(self.norm1, x, attend)
        return self.residual(self.norm2, x, self.feedforward)


class DecoderLayer(_Layer):
    """Self-attention among the queries (can be left out), attention to the memory, feed-forward."""

    def __init__(
        self, dim: int, heads: int, feedforward: int, dropout: float, pre_norm: bool, *, self_attention: bool
    ) -> None:
        super().__init__(dim, feedforward, dropout, pre_norm)
        self.has_self_attention = self_attention
        if self_attention:
            self.self_attn = Attention(dim, heads, dropout)
            self.norm1 = nn.LayerNorm(dim)
        self.multihead_attn = Attention(dim, heads, dropout)
        self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor, query_position: Tensor, memory: Tensor, memory_key: Tensor) -> Tensor:
        """(B, K, D) and a memory (B, N, D), whose keys already hold its positions, to (B, K, D)."""
        if self.has_self_attention:
            x = self.residual(self.norm1, x, lambda y: self.self_attn(key := y + query_position, key, y))
        x = self.residual(self.norm2, x, lambda y: self.multihead_attn(y + query_position, memory_key, memory))
        return self.residual(self.norm3, x, self.feedforward)


def xavier(module: nn.Module) -> None:
    """Xavier-uniform for every matrix, as DETR starts its transformer."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
