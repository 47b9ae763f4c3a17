"""torch.compile, and on a GPU a CUDA graph of the result: one launch an inference instead of hundreds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from aloha_kit.core import ConfigError
from aloha_kit.data.batch import Batch, mapped
from aloha_kit.policies.collate import disassembled
from aloha_kit.policies.generator import BatchGenerator, Draw, GivenDraws, sample_draws
from aloha_kit.policies.network import Predict

_OfTensors = Callable[[Batch, list[Tensor]], Tensor]


def compiled(predict: Predict, example: Batch, draws: Sequence[Draw] = (), *, backend: str = "inductor") -> Predict:
    """`predict` compiled for batches like the example; done when this returns.

    Args:
        draws: random numbers that it draws; they become inputs, so that each inference has its own.
        backend: of torch.compile.

    Raises:
        ConfigError: it cannot be compiled here; most often a compiler is missing.
    """
    device = example["qpos"].device
    on_gpu = device.type == "cuda"
    # freezing lays weights out once for the CPU's kernels; a GPU's gain little and would keep them twice
    options: dict[str, Any] | None = {"freezing": True} if backend == "inductor" and not on_gpu else None

    def of_tensors(batch: Batch, noise: list[Tensor]) -> Tensor:
        return predict(batch, GivenDraws(draws, noise) if draws else None)

    def noise_of(generator: BatchGenerator | None) -> list[Tensor]:
        return [] if generator is None else [noise.to(device) for noise in sample_draws(generator, draws)]

    made: _OfTensors = torch.compile(of_tensors, dynamic=False, backend=backend, options=options)
    first = noise_of(BatchGenerator([(0, row) for row in range(len(example["qpos"]))]))
    try:
        with torch.inference_mode():
            made(example, first)
        run = Graphed(made, example, first, device) if on_gpu else made
    except (RuntimeError, OSError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            "--engine compile does not work here: {reason}; torch.compile needs a C++ compiler (g++) on a CPU and "
            "triton on a GPU; use {engines}",
            reason=reason,
            engines="--engine eager" if on_gpu else "--engine eager or openvino",
        ) from error
    return lambda batch, generator: run(batch, noise_of(generator))


class Graphed:
    """A CUDA graph of one inference, from fixed inputs to a fixed output.

    Captured by hand, because torch.compile's own graphs belong to the thread that made them, and on a rig inference
    runs in another thread.
    """

    def __init__(self, run: _OfTensors, example: Batch, noise: list[Tensor], device: torch.device) -> None:
        self._device = device
        with torch.inference_mode(), torch.cuda.device(device):
            self._inputs, self._noise = mapped(example, Tensor.clone), [each.clone() for each in noise]
            beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                for _ in range(3):  # allocates and chooses kernels, which a capture cannot
                    run(self._inputs, self._noise)
            torch.cuda.current_stream().wait_stream(beside)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._output = run(self._inputs, self._noise)

    def __call__(self, batch: Batch, noise: list[Tensor]) -> Tensor:
        with torch.cuda.device(self._device):
            fixed = [*disassembled(self._inputs).values(), *self._noise]
            for ours, given in zip(fixed, [*disassembled(batch).values(), *noise], strict=True):
                ours.copy_(given, non_blocking=True)
            self._graph.replay()
            return self._output.clone()
