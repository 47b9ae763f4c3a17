"""How fast a training step of ACT could be here, from its operations and bytes, and how fast it is: prints two tables.

    python benchmarks/train_floor.py
    python benchmarks/train_floor.py --device cuda --batch 64 --sizes 480x640

Operations (a multiplication and an addition are two) are those of the convolutions and matrix products that a step
runs, counted by PyTorch as it runs them. Bytes are what has to pass through memory even if all that lies between two
products were merged into them: every weight read by the forward and the backward pass and its gradient written; what
the forward pass keeps for the backward pass written once and read once; in the optimiser the gradient read twice (its
norm is needed before it is used), weight and both moments read and written. Rates are measured first: the best of a
square matrix product and of the backbone's 3x3 convolution, and a sum of two arrays. On a CPU with `--threads 1` rates
and steps are in CPU time, which other work on the machine disturbs less.

The floor is the longer of products and their bytes, as if one hid the other wholly, and after it the optimiser.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from act_of import act, batch_of
from stopwatch import processor, timed
from torch.utils.flop_counter import FlopCounterMode

from aloha_kit.config.training import TrainConfig
from aloha_kit.data.batch import Batch
from aloha_kit.policies.network import ChunkNetwork
from aloha_kit.policies.primitives import linear
from aloha_kit.train.device import keep_freed_memory
from aloha_kit.train.distributed import Distributed
from aloha_kit.train.step import TrainingStep

Clock = Callable[[], float]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
OPTIMISER_PASSES = 8  # reads of gradient (twice), weight, two moments; writes of weight, two moments
WEIGHT_PASSES = 3  # reads by the forward and the backward pass, write of the gradient


@dataclass(frozen=True)
class Rates:
    """What the machine can do."""

    products: float  # operations a second in large matrix products, as the step does them
    stock: float  # the same through `F.linear`
    convolutions: float
    bandwidth: float  # bytes a second, reads and writes together

    @property
    def best(self) -> float:
        return max(self.products, self.stock, self.convolutions)


@dataclass(frozen=True)
class Needs:
    """The computations of a step."""

    convolutions: int  # operations
    products: int
    kept: int  # bytes that the forward pass keeps for the backward pass
    weights: int  # number of them

    def floor(self, rates: Rates) -> float:
        """Seconds."""
        passed = 2 * self.kept + 4 * WEIGHT_PASSES * self.weights
        arithmetic = (self.convolutions + self.products) / rates.best
        return max(arithmetic, passed / rates.bandwidth) + 4 * OPTIMISER_PASSES * self.weights / rates.bandwidth


def measured(device: str, dtype: torch.dtype, clock: Clock) -> Rates:
    """A few seconds of measurement."""
    size = 8192 if device == "cuda" else 2048
    x, weight = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    image = torch.randn(8, 128, 60, 80, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    kernel = torch.randn(128, 128, 3, 3, device=device, dtype=dtype)
    addends = torch.randn(3, 2**28 if device == "cuda" else 2**25, device=device)  # 128 MB each: no cache holds them
    return Rates(
        2 * size**3 / _best(lambda: linear(x, weight, None), device, clock),
        2 * size**3 / _best(lambda: F.linear(x, weight), device, clock),
        2 * image.numel() * kernel.numel() / 128 / _best(lambda: F.conv2d(image, kernel, padding=1), device, clock),
        addends.nbytes / _best(lambda: torch.add(addends[0], addends[1], out=addends[2]), device, clock),
    )


def _best(work: Callable[[], object], device: str, clock: Clock, repeats: int = 8) -> float:
    seconds = []
    with torch.no_grad():
        for _ in range(repeats):
            began = clock()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(clock() - began)
    return min(seconds)


def plural(network: ChunkNetwork, batch: Batch, device: str, precision: str) -> Needs:
    """Run a forward and a backward pass, and count."""
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no place is given out twice

    def keep(value: torch.Tensor) -> torch.Tensor:
        kept[value.untyped_storage().data_ptr()] = value.untyped_storage()
        return value

    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.mkldnn._linear_pointwise: _operations})
    with counter:
        narrow = torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value), narrow:
            loss = network.losses(batch)["loss"]
        torch.autograd.backward(loss)
    network.zero_grad()
    by_kind = {str(kind): number for kind, number in counter.get_flop_counts()["Global"].items()}
    convolutions = sum(number for kind, number in by_kind.items() if "convolution" in kind)
    return Needs(
        convolutions,
        sum(by_kind.values()) - convolutions,
        sum(storage.nbytes() for place, storage in kept.items() if place not in own),
        sum(parameter.numel() for parameter in network.parameters()),
    )


def stepping(network: ChunkNetwork, batch: Batch, device: str, precision: str, clock: Clock) -> float:
    """Seconds of a training step by the clock."""
    once = TrainingStep(network, TrainConfig(augment=False, amp="bf16" if precision == "bf16" else "no"), Distributed())
    steps = 20 if device == "cuda" else 3
    taken = timed(lambda: once(batch, 0, 1.0), steps, device, warm_up=2)
    return float(median(taken["cpu_seconds" if clock is time.process_time else "seconds"]))


def _operations(x: torch.Size, weight: torch.Size, *_: Any, **__: Any) -> int:
    return 2 * prod(x) * weight[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["120x160", "240x320", "480x640"], metavar="HxW")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--cameras", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.device == "cpu":
        keep_freed_memory()  # as training does
    torch.manual_seed(0)
    alone = args.device == "cpu" and args.threads == 1
    clock = time.process_time if alone else time.perf_counter
    rates = {name: measured(args.device, dtype, clock) for name, dtype in DTYPES.items()}
    print("| measured | products, as the step does them | through `F.linear` | 3x3 convolution | memory |")
    print("|---|---|---|---|---|")
    for name, rate in rates.items():
        arithmetic = " | ".join(f"{n / 1e9:,.0f} GFLOP/s" for n in (rate.products, rate.stock, rate.convolutions))
        print(f"| {name} | {arithmetic} | {rate.bandwidth / 1e9:.1f} GB/s |")
    print("\n| image | precision | convolutions, GFLOP | products, GFLOP | kept, MB | floor, ms | step, ms | of it |")
    print("|---|---|---|---|---|---|---|---|")
    for size in args.sizes:
        height, width = map(int, size.split("x"))
        cameras = {f"cam_{i}": (height, width) for i in range(args.cameras)}
        network = act(cameras).to(args.device).train()
        batch = batch_of(cameras, args.batch, args.device)
        for name, rate in rates.items():
            needs = plural(network, batch, args.device, name)
            took = stepping(network, batch, args.device, name, clock)
            floor = needs.floor(rate)
            counts = f"{needs.convolutions / 1e9:,.0f} | {needs.products / 1e9:,.0f} | {needs.kept / 1e6:,.0f}"
            times = f"{1e3 * floor:.0f} | {1e3 * took:.0f} | {took / floor:.2f} times"
            print(f"| {size} | {name} | {counts} | {times} |", flush=True)
    machine = torch.cuda.get_device_name() if args.device == "cuda" else processor()
    weights = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    print(f"\nACT with {weights:.1f} M weights, batch {args.batch}, {args.cameras} camera(s), {machine}, ", end="")
    print(f"{args.threads} threads, torch {torch.__version__}, load average {os.getloadavg()[0]:.1f} at the end.")


if __name__ == "__main__":
    main()
