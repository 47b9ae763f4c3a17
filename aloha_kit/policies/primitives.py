"""Linear layers and dropout, each by the kernel that a CPU is quickest at; elsewhere PyTorch's own.

On x86 PyTorch multiplies fp32 matrices through MKL, which leaves half of an AMD processor's vector units idle; the
oneDNN beside it, which does the convolutions, does not. `benchmarks/train_floor.py` measures both.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn, Tensor
from torch.autograd.function import once_differentiable


class Linear(nn.Linear):
    """`nn.Linear` through `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class Dropout(nn.Dropout):
    """`nn.Dropout` through `dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training else x


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(…, D) to (…, E) with a weight (E, D), as `F.linear`; in fp32 on a CPU through oneDNN, same rounding aside."""
    if _onednn_takes(x, weight):
        # rows that lie far apart, as those of one token, send its product for the weight's gradient into a loop
        out: Tensor = _OneDnnLinear.apply(x.flatten(0, -2).contiguous(), weight, bias)
        return out.view(*x.shape[:-1], len(weight))
    return F.linear(x, weight, bias)


def dropout(x: Tensor, p: float) -> Tensor:
    """`F.dropout`; on a CPU four elements share a random number, each by 16 of its bits (p to within 1e-5)."""
    if p == 0 or x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, p)
    draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    lowest = round(p * 2**16) - 2**15
    kept = torch.ge(draws.view(torch.int16)[: x.numel()].view(x.shape), lowest, out=x.new_empty(x.shape))  # as 0 and 1
    return x * kept.div_(1 - p)


class _OneDnnLinear(torch.autograd.Function):
    """The three products of a linear layer on rows (N, D): its output, its input's gradient, its weight's gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        return (
            _product(gradient, weight.t()) if wanted[0] else None,
            _product(gradient.t(), x.t()) if wanted[1] else None,
            gradient.sum(0) if wanted[2] else None,
        )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


def _onednn_takes(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's fp32 product is to be had; compilers and exporters are shown PyTorch's own operation."""
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > 0  # which it refuses
        and not torch.is_autocast_enabled("cpu")  # bf16 goes through oneDNN already
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and bool(torch.backends.mkldnn.enabled)
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # private to PyTorch, which may drop it
    )
