"""Time of repeated steps on a CPU or a GPU; needs only torch, so that both sides of a comparison can use it."""

from __future__ import annotations

import platform
import resource
import time
from collections.abc import Callable
from typing import Any

import torch


def timed(step: Callable[[], object], steps: int, device: str, warm_up: int) -> dict[str, Any]:
    """Seconds and CPU seconds of each step after the first few, the device waited for, and the most memory taken: on a
    GPU by tensors there, on a CPU by the process."""
    seconds, cpu_seconds = [], []
    for number in range(warm_up + steps):
        if number == warm_up and device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        began, cpu = time.perf_counter(), time.process_time()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        if number >= warm_up:
            seconds.append(time.perf_counter() - began)
            cpu_seconds.append(time.process_time() - cpu)
    on_gpu = device == "cuda"
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else resident,
        "machine": torch.cuda.get_device_name() if on_gpu else processor(),
        "torch": torch.__version__,
    }


def processor() -> str:
    """Name of the CPU, as Linux tells it."""
    try:
        with open("/proc/cpuinfo", encoding="ascii") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()
