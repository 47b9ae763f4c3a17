"""A GPU that is not there: PyTorch's fake tensors have a device, a shape and a type, and no values.

They cannot show that an answer is right. They show where it is computed: an operation on tensors of two devices raises,
and `Crossings` lists every copy between host and device, which a CUDA graph cannot hold and for which a training step
should not wait.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import torch
from torch import nn, Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU = "cuda:0"
PACKAGE = Path(__file__).parents[1] / "aloha_kit"


def moved(network: nn.Module, mode: FakeTensorMode) -> None:
    """Put every parameter and buffer on the GPU; what a network keeps elsewhere stays behind, and is found out."""
    with mode:
        for module in network.modules():
            for name, value in module.named_parameters(recurse=False):
                module._parameters[name] = nn.Parameter(_like(value), value.requires_grad)
            for name, value in module.named_buffers(recurse=False):
                module._buffers[name] = _like(value)


def _like(value: Tensor) -> Tensor:
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=GPU)


class Crossings(TorchDispatchMode):
    """Collects the operations inside.

    Attributes:
        operations: names of all.
        copies: (file of ours, shape, whether the host goes on meanwhile) of those between host and GPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: set[str] = set()
        self.copies: list[tuple[str, tuple[int, ...], bool]] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        self.operations.add(operation.overloadpacket.__name__)
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        made = [value for value in tree_leaves(result) if isinstance(value, Tensor)]
        if given and made and given[0].device.type != made[0].device.type:
            ours = [Path(f.filename) for f in traceback.extract_stack() if PACKAGE in Path(f.filename).parents]
            meanwhile = bool((kwargs or {}).get("non_blocking"))
            self.copies.append((str(ours[-1].relative_to(PACKAGE)), tuple(given[0].shape), meanwhile))
        return result
