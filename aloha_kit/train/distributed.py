"""Distributed training: one batch shared by several processes, which all stop at the same step.

Gradients are averaged by PyTorch's DistributedDataParallel. Everything else (requests to stop, the first process's
clock) is a few numbers a step through a gloo group on the host, which never waits for a GPU.
"""

from __future__ import annotations

import inspect
import logging
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

from aloha_kit.core import AlohaKitError
from aloha_kit.core.interrupt import status_of
from aloha_kit.core.own_code import described, own_code_error
from aloha_kit.train.launch import ALONE, Rank

HOST_TIMEOUT = timedelta(days=1)  # the first process decodes or runs rollouts meanwhile; a dead one is noticed at once

T = TypeVar("T")


class Distributed:
    """The processes of a training, from one of them. Alone, nothing is exchanged."""

    def __init__(self, rank: Rank = ALONE, host_group: dist.ProcessGroup | None = None) -> None:
        """`host_group` carries numbers on the host; the default group carries the gradients."""
        self.rank, self.size, self.first = rank.rank, rank.size, rank.first
        self.host_group = host_group

    def share(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Contiguous part of a batch's (B,) rows for this process; B is a multiple of `size`."""
        size = len(rows) // self.size
        return rows[self.rank * size : (self.rank + 1) * size]

    def total(self, *values: float) -> list[float]:
        """The sum of each value over all processes, the same bits on each."""
        if self.host_group is None:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums, group=self.host_group)
        return sums.tolist()

    def from_first(self, make: Callable[[], T]) -> T:
        """The result of `make` in the first process; the others wait for it."""
        if self.host_group is None:
            return make()
        box = [make() if self.first else None]
        dist.broadcast_object_list(box, 0, group=self.host_group)
        return box[0]  # type: ignore[return-value]

    def mean(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The means of scalars over all processes, on their device."""
        if self.host_group is None:
            return dict(values)
        means = torch.stack([value.float() for value in values.values()])
        dist.all_reduce(means)
        return dict(zip(values, means / self.size, strict=True))

    def wrap_ddp(self, module: nn.Module, device: torch.device, *, find_unused_parameters: bool) -> nn.Module:
        """Wrap a module in DistributedDataParallel; all processes start from the first one's weights.

        `find_unused_parameters`: some parameters are in no loss, and are searched for at every step.
        """
        if self.host_group is None:
            return module
        # every buffer here is a constant; the switch that leaves them alone has had two names
        known = inspect.signature(DistributedDataParallel).parameters
        buffers = {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}
        # the layout of a 1x1 convolution is ambiguous, of which DDP warns
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        return DistributedDataParallel(
            module,
            device_ids=[device.index] if device.type == "cuda" else None,
            find_unused_parameters=find_unused_parameters,
            **buffers,  # type: ignore[arg-type]
        )


@contextmanager
def processes(rank: Rank, device: torch.device) -> Iterator[Distributed]:
    """Join the processes of a launch; only the first one reports. Alone, nothing happens.

    The first error in any process is reported once and ends all of them with status 1: each waits for the others so
    often that none goes on by itself. An interruption ends them with its status.
    """
    if rank.size == 1:
        yield Distributed()
        return
    store, _, _ = next(rendezvous("env://"))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank.rank, world_size=rank.size)
    try:
        host_group: Any = dist.new_group(backend="gloo", timeout=HOST_TIMEOUT)
        with nullcontext() if rank.first else _silence():
            yield Distributed(rank, host_group)
        dist.barrier(host_group)  # none leaves while the first one may still fail at its last file
    except BaseException as error:
        sys.exit(_report(error, rank, store))
    dist.destroy_process_group()


@contextmanager
def _silence() -> Iterator[None]:
    """Neither results nor log lines below an error."""
    log = logging.getLogger("aloha_kit")
    level = log.level
    log.setLevel(logging.ERROR)
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        try:
            yield
        finally:
            log.setLevel(level)


def _report(error: BaseException, rank: Rank, store: Any) -> int:
    """Print an error if it is the first one of all processes, since the others follow from it; return the exit status.

    `store` holds the keys and values that all processes share.
    """
    with suppress(RuntimeError):  # the process that keeps the store has ended, after its message
        if store.add("aloha_kit/failed", 1) == 1:
            which = f"process {rank.rank} of {rank.size}"
            if isinstance(error, AlohaKitError) or own_code_error(error):
                print(f"error in {which}: {described(error)}", file=sys.stderr, flush=True)
            elif isinstance(error, KeyboardInterrupt):
                print("interrupted", file=sys.stderr, flush=True)
            else:
                traceback.print_exception(error)
                print(f"error in {which}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            store.set("aloha_kit/reported", "")
        else:
            # else the launcher might end the reporting process before its message
            store.wait(["aloha_kit/reported"], timedelta(seconds=10))
    return status_of(error) if isinstance(error, KeyboardInterrupt) else 1
