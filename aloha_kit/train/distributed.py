"""Several processes as one training: what they share, what only the first one does, and how they end together.

Gradients travel through PyTorch's own DistributedDataParallel. All the rest (has anybody been asked to stop, what does
the first one's clock say) is a few numbers a step through a gloo group on the host, which never waits for a GPU.
"""

from __future__ import annotations

import inspect
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import nn, Tensor
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from aloha_kit.core import AlohaKitError, ConfigError
from aloha_kit.core.interrupt import status_of
from aloha_kit.train.launch import ALONE, Rank

PATIENCE = timedelta(days=1)  # others decode or roll out meanwhile; that a process has died is noticed at once

T = TypeVar("T")


class Distributed:
    """The processes of a training, as one of them sees it. Alone, it asks nobody."""

    def __init__(self, launch: Rank = ALONE, patient: dist.ProcessGroup | None = None) -> None:
        """`patient` is the group on the host; the default group is the gradients'."""
        self.rank, self.size, self.first = launch.rank, launch.size, launch.first
        self.patient = patient

    def share(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """This process's contiguous part of a batch's (B,) rows; B is a multiple of `size`."""
        size = len(rows) // self.size
        return rows[self.rank * size : (self.rank + 1) * size]

    def total(self, *values: float) -> list[float]:
        """The sums of each value over all processes, the same bits on each."""
        if self.patient is None:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums, group=self.patient)
        return sums.tolist()

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` gives in the first process; the others wait for it."""
        if self.patient is None:
            return make()
        box = [make() if self.first else None]
        dist.broadcast_object_list(box, 0, group=self.patient)
        return box[0]  # type: ignore[return-value]

    def mean(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The means of scalars over all processes, on their device."""
        if self.patient is None:
            return dict(values)
        means = torch.stack([value.float() for value in values.values()])
        dist.all_reduce(means)
        return dict(zip(values, means / self.size, strict=True))

    def wrap_ddp(self, module: nn.Module, device: torch.device, *, idle_parameters: bool) -> nn.Module:
        """The module with its gradients averaged over all processes; they start from the first one's weights.

        `idle_parameters` says that some are in no loss, which costs a look for them at every step.
        """
        if self.patient is None:
            return module
        # every buffer here is a constant; the switch that leaves them alone has had two names
        known = inspect.signature(DistributedDataParallel).parameters
        buffers = {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}
        # the layout of a 1x1 convolution is ambiguous, which DDP takes for a mistake
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        return DistributedDataParallel(
            module,
            device_ids=[device.index] if device.type == "cuda" else None,
            find_unused_parameters=idle_parameters,
            **buffers,  # type: ignore[arg-type]
        )


def own_device(device: str, launch: Rank) -> str:
    """Where one process of a launch works: on the CPU, or on the GPU of its number on the machine.

    Raises:
        ConfigError: another device was asked for, or there is no GPU of that number.
    """
    if launch.size == 1 or device == "cpu":
        return device
    if device != "cuda":
        raise ConfigError(f"--device {device} cannot be shared by {launch.size} processes; give cuda, cpu or auto")
    if launch.local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"process {launch.local_rank} of this machine would be the one for cuda:{launch.local_rank}, and there are "
            f"{torch.cuda.device_count()} GPUs; start at most one process a GPU (--nproc_per_node gpu), or --device cpu"
        )
    return f"cuda:{launch.local_rank}"


@contextmanager
def processes(launch: Rank, device: torch.device) -> Iterator[Distributed]:
    """Inside, the processes of a launch are joined; only the first one prints. Alone, nothing happens.

    The first error anywhere is said once, and ends all of them with status 1: each waits for the others so often that
    none goes on by itself. An interruption ends them with its status.
    """
    if launch.size == 1:
        yield Distributed()
        return
    store, _, _ = next(rendezvous("env://"))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=launch.rank, world_size=launch.size)
    try:
        patient: Any = dist.new_group(backend="gloo", timeout=PATIENCE)
        with nullcontext() if launch.first else _silence():
            yield Distributed(launch, patient)
        dist.barrier(patient)  # none leaves while the first one may still fail at its last file
    except BaseException as error:
        sys.exit(_said(error, launch, store))
    dist.destroy_process_group()


@contextmanager
def _silence() -> Iterator[None]:
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield


def _said(error: BaseException, launch: Rank, board: Any) -> int:
    """Say an error if it is the first one anywhere, since the others are its echoes; gives the exit status. `board` is
    the store (keys and values) that all processes met at."""
    with suppress(RuntimeError):  # who keeps the board is gone, and has spoken
        if board.add("aloha_kit/failed", 1) == 1:
            which = f"process {launch.rank} of {launch.size}"
            if isinstance(error, AlohaKitError):
                print(f"error in {which}: {error}", file=sys.stderr, flush=True)
            elif isinstance(error, KeyboardInterrupt):
                print("interrupted", file=sys.stderr, flush=True)
            else:
                traceback.print_exception(error)
                print(f"error in {which}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            board.set("aloha_kit/said", "")
        else:
            board.wait(
                ["aloha_kit/said"], timedelta(seconds=10)
            )  # else the launcher might end the speaker before it has spoken
    return status_of(error) if isinstance(error, KeyboardInterrupt) else 1
