"""torch.compile of a network's losses, tried before it is relied on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from aloha_kit.data.batch import Batch
from aloha_kit.policies.network import ChunkNetwork

BACKEND = "inductor"


def compiled(
    network: ChunkNetwork, example: Batch, autocast: torch.autocast
) -> tuple[Callable[[Batch], dict[str, Tensor]], str]:
    """The losses compiled and an empty text, or as they are and why: no C++ compiler, no Triton, an operation that the
    compiler does not know. Tried forward and backward on a batch, since either may fail; weights, gradients and
    statistics are as before.
    """
    fast = torch.compile(network.losses, backend=BACKEND, dynamic=False)
    kept = [buffer.clone() for buffer in network.buffers()]
    try:
        with autocast:
            loss = fast(example)["loss"]
        torch.autograd.grad(loss, [p for p in network.parameters() if p.requires_grad], allow_unused=True)
    except Exception as error:  # whatever a compiler may raise
        return network.losses, " ".join(str(error).partition("\n\n")[0].split())
    finally:
        for buffer, before in zip(network.buffers(), kept, strict=True):
            buffer.copy_(before)
    return fast, ""
