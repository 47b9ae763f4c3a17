"""Time of repeated steps on a CPU or a GPU; needs only torch, so that both sides of a comparison can use it."""

from __future__ import annotations

import functools
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


class Laps:
    """Seconds from the end of one call of a function to the end of a later one: all that a loop does in so many steps.

    The device is waited for at these two calls only.
    """

    def __init__(self, device: str, warm_up: int, steps: int) -> None:
        self._device, self._marks = device, {warm_up: 0.0, warm_up + steps: 0.0}
        self._calls = 0

    def after(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, its calls counted."""

        @functools.wraps(function)
        def noted(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            self._calls += 1
            if self._calls in self._marks:
                if self._device == "cuda":
                    torch.cuda.synchronize()
                self._marks[self._calls] = time.perf_counter()
            return result

        return noted

    @property
    def seconds(self) -> float:
        began, ended = self._marks.values()
        return ended - began


def processor() -> str:
    """Name of the CPU, as Linux reports it."""
    try:
        with open("/proc/cpuinfo", encoding="ascii") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()
