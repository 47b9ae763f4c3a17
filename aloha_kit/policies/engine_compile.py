"""torch.compile, and on a GPU a CUDA graph of what it made: one launch a query instead of hundreds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aloha_kit.core import ConfigError
from aloha_kit.data.batch import Batch, mapped
from aloha_kit.policies.generator import BatchGenerator
from aloha_kit.policies.inputs import disassembled
from aloha_kit.policies.network import Ask


def compiled(ask: Ask, example: Batch, *, backend: str = "inductor") -> Ask:
    """`ask` compiled for batches like the example; done when this returns.

    Args:
        backend: which of torch.compile's.

    Raises:
        ConfigError: it cannot be compiled here; most often a compiler is missing.
    """
    device = example["qpos"].device
    on_gpu = device.type == "cuda"
    # freezing lays weights out once for the CPU's kernels; a GPU's gain little and would keep them twice
    options: dict[str, Any] | None = {"freezing": True} if backend == "inductor" and not on_gpu else None
    made = torch.compile(ask, dynamic=False, backend=backend, options=options)
    try:
        with torch.inference_mode():
            made(example, None)
        return Graphed(made, example, device) if on_gpu else made
    except (RuntimeError, OSError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"--engine compile does not work here: {reason} torch.compile needs a C++ compiler (g++) on a CPU and "
            "triton on a GPU; use --engine eager" + ("" if on_gpu else " or openvino")
        ) from error


class Graphed:
    """A CUDA graph of one query, from fixed inputs to a fixed output.

    Captured by hand, because torch.compile's own graphs belong to the thread that made them, and on a rig another
    thread asks.
    """

    def __init__(self, ask: Ask, example: Batch, device: torch.device) -> None:
        self._device = device
        with torch.inference_mode(), torch.cuda.device(device):
            self._inputs = mapped(example, Tensor.clone)
            beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                for _ in range(3):  # allocates and chooses kernels, which a capture cannot
                    ask(self._inputs, None)
            torch.cuda.current_stream().wait_stream(beside)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._output = ask(self._inputs, None)

    def __call__(self, batch: Batch, generator: BatchGenerator | None = None) -> Tensor:
        with torch.cuda.device(self._device):
            for fixed, given in zip(disassembled(self._inputs).values(), disassembled(batch).values(), strict=True):
                fixed.copy_(given, non_blocking=True)
            self._graph.replay()
            return self._output.clone()
