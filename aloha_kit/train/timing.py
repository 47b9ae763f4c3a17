"""Where a run's time and memory go."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

MATTERS = 0.2  # share of the time from which on something other than the step is worth a word


@dataclass(frozen=True)
class Lap:
    """Seconds that some steps took: waiting for data, in the step, and between steps."""

    steps: int
    data: float
    step: float
    other: float

    def bottleneck(self, overall: Lap) -> str:
        """What to make faster, with advice where it is not the step; `overall` are all laps so far, since what lies
        between steps comes rarely and is long."""
        if overall.other > MATTERS * (overall.data + overall.step + overall.other):
            return "validation, rollouts and checkpoints (try a larger --val_every or --eval_every)"
        if self.data > MATTERS * (self.data + self.step):
            return "data (try --cache disk or device, or more --workers)"
        return "step"

    def __add__(self, more: Lap) -> Lap:
        return Lap(self.steps + more.steps, self.data + more.data, self.step + more.step, self.other + more.other)


class Timing:
    """Measures laps without making the host wait for a GPU: there, steps are timed by events in its own queue."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._device = torch.device("cpu")
        self._began: float | None = None
        self._asked = self._came = 0.0
        self._start: torch.cuda.Event | None = None
        self._reset()

    def ask(self) -> None:
        """The loop wants the next batch."""
        self._asked = self._clock()
        if self._began is None:
            self._began = self._asked

    def come(self) -> None:
        """The batch is there."""
        self._came = self._clock()
        self._waited += self._came - self._asked
        self._start = self._event()

    def done(self, device: torch.device) -> None:
        """The step on it is done, or on a GPU queued."""
        self._steps += 1
        end = self._event()
        if self._start is None or end is None:  # also the very first on a GPU: where it would run was not known
            self._spent += self._clock() - self._came
        else:
            self._events.append((self._start, end))
        self._device = device

    def lap(self) -> Lap:
        """What the steps since the last time took; a GPU has to be through with them."""
        now = self._clock()
        step = self._spent + sum(start.elapsed_time(end) for start, end in self._events) / 1e3
        rest = max(now - (now if self._began is None else self._began) - step, 0.0)
        data = min(self._waited, rest)  # a GPU that is busy meanwhile does not wait
        lap = Lap(self._steps, data, step, rest - data)
        self._began = now
        self._reset()
        return lap

    def _reset(self) -> None:
        self._steps, self._waited, self._spent = 0, 0.0, 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def _event(self) -> torch.cuda.Event | None:
        if self._device.type != "cuda":
            return None
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event


def memory_of(device: torch.device) -> float:
    """Bytes: the most that tensors have taken on a GPU; elsewhere what this process holds now, without the mapped
    frame cache, which the system takes back when it likes."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    try:
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
        return 1024.0 * sum(int(status[name].split()[0]) for name in ("RssAnon", "RssShmem"))
    except (OSError, KeyError):  # not Linux: the most it ever held
        unit = 1 if sys.platform == "darwin" else 1024
        return float(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
