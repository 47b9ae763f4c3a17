"""How fast batches come: samples a second, and CPU time a sample. Independent of the loader, for any environment."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Pace:
    """What was counted so far; several turns add up."""

    samples: int = 0
    seconds: float = 0.0
    cpu: float = 0.0

    def measure(self, batches: Callable[[], Iterator[object]], size: int, seconds: float, warm_up: int) -> None:
        """Take batches of `size` for so many seconds, after `warm_up` ones that do not count."""
        running = batches()
        for _ in range(warm_up):
            next(running)
        began, cpu, count = time.perf_counter(), cpu_seconds(), 0
        while time.perf_counter() - began < seconds:
            next(running)
            count += size
        self.seconds += time.perf_counter() - began
        self.cpu += cpu_seconds() - cpu
        self.samples += count

    def result(self) -> dict[str, float]:
        """Samples a second, and CPU milliseconds a sample."""
        return {"rate": self.samples / self.seconds, "cpu_ms": 1e3 * self.cpu / self.samples}


def cpu_seconds() -> float:
    """CPU time of this process, all its threads, and its children that are alive."""
    me = os.getpid()
    children = Path(f"/proc/{me}/task/{me}/children").read_text().split()
    ticks = 0
    for child in children:
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # user and system
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")
