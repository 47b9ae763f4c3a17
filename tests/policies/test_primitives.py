"""What is computed another way on a CPU is the same."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn, Tensor

from aloha_kit.policies.primitives import Dropout, dropout, Linear, linear
from aloha_kit.policies.transformer import attention_with_dropout, EncoderLayer


@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 5), (0, 5), (1, 1, 1, 5)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_a_linear_layer_and_its_gradients_are_those_of_double_precision(
    shape: tuple[int, ...], with_bias: bool
) -> None:
    torch.manual_seed(0)
    given = [torch.randn(shape), torch.randn(4, 5), *([torch.randn(4)] if with_bias else [])]
    ours, exact = ([t.to(kind, copy=True).requires_grad_() for t in given] for kind in (torch.float32, torch.float64))
    y, wanted = linear(ours[0], ours[1], ours[2] if with_bias else None), F.linear(*exact)
    assert y.shape == wanted.shape
    weights = torch.randn(wanted.shape, dtype=torch.float64)
    (y * weights).sum().backward()
    (wanted * weights).sum().backward()
    torch.testing.assert_close(y.double(), wanted, rtol=1e-5, atol=1e-5)
    for one, other in zip(ours, exact, strict=True):
        torch.testing.assert_close(one.grad, other.grad, check_dtype=False, rtol=1e-5, atol=1e-5)


def test_a_linear_layer_takes_views() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(6, 4, 8)[:, ::2, 1:6], torch.randn(5, 9).t()[::3], torch.randn(3)
    y = linear(x, weight, bias)
    torch.testing.assert_close(y, (x[..., None, :] * weight).sum(-1) + bias)


def test_rows_that_lie_far_apart_are_put_together() -> None:
    """Of rows with 52224 numbers between them oneDNN takes 45 ms for a gradient that takes 0.05 ms of neighbours."""
    saved: list[Tensor] = []

    def save(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    tokens = torch.randn(4, 6, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        linear(tokens[:, :1], torch.randn(5, 8, requires_grad=True), None)
    (rows,) = (tensor for tensor in saved if len(tensor) == 4)
    assert rows.stride() == (8, 1)
    assert torch.equal(rows, tokens[:, 0])


def test_only_what_is_requested_gets_a_gradient() -> None:
    layer = Linear(5, 4)
    layer.weight.requires_grad_(False)
    x = torch.randn(3, 5)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is not None
    assert layer.bias.grad.tolist() == [3.0] * 4


def test_whoever_reads_the_network_from_outside_gets_a_plain_linear_layer() -> None:
    program = torch.export.export(Linear(5, 4), (torch.randn(3, 5),))
    called = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert called == [torch.ops.aten.linear.default]


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_dropout_keeps_the_share_it_should_and_the_mean(kind: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.ones(3, 333_335, dtype=kind, requires_grad=True)
    y = dropout(x, 0.1)
    kept = y != 0
    n = kept.numel()
    assert abs(int(kept.sum()) - 0.9 * n) < 5 * (0.9 * 0.1 * n) ** 0.5
    assert torch.equal(y[kept], torch.full_like(y[kept], 1 / 0.9))
    y.backward(torch.ones_like(y))
    assert torch.equal(x.grad, y.detach())  # type: ignore[arg-type]
    # neighbours come from one random number, and know nothing of each other
    bits = kept.flatten().double() - 0.9
    for apart in (1, 2, 3, 4):
        assert abs(float((bits[apart:] * bits[:-apart]).mean())) < 5 * 0.09 / n**0.5


def test_dropout_is_a_function_of_the_seed_and_off_outside_training() -> None:
    layer, x = Dropout(0.3), torch.randn(100)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(layer(x))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert layer.eval()(x) is x
    assert torch.equal(dropout(x, 0.0), x)


def test_attention_written_out_is_attention() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 8, requires_grad=True) for n in (4, 6, 6))
    mask = torch.ones(2, 1, 1, 6, dtype=torch.bool)
    mask[0, ..., 4:] = False
    for seen in (None, mask):
        ours, wanted = attention_with_dropout(q, k, v, seen, 0.0), F.scaled_dot_product_attention(q, k, v, seen)
        torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-6)
        weights = torch.randn_like(wanted)
        for one, other in zip(gradients(ours, weights, q, k, v), gradients(wanted, weights, q, k, v), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def gradients(out: Tensor, weights: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(out, of, weights)


def test_attention_drops_and_makes_up_for_it() -> None:
    torch.manual_seed(0)
    q, v = torch.zeros(4, 2, 50, 8), torch.ones(4, 2, 400, 8)
    out = attention_with_dropout(q, v, v, None, 0.5)  # 400 equal weights, half of them doubled
    assert out.std() > 0.01
    assert out.mean().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("pre_norm", [True, False])
def test_a_layer_with_a_number_of_rows_gives_those(pre_norm: bool) -> None:
    torch.manual_seed(0)
    layer = EncoderLayer(16, 2, 24, 0.1, pre_norm).eval()
    nn.init.normal_(layer.self_attn.in_proj_bias)
    x, positions, mask = torch.randn(3, 7, 16), torch.randn(7, 16), torch.arange(7) < torch.tensor([[7], [5], [3]])
    with torch.inference_mode():
        whole, first = layer(x, positions, mask), layer(x, positions, mask, rows=2)
    assert first.shape == (3, 2, 16)
    torch.testing.assert_close(first, whole[:, :2])
