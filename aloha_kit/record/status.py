"""How an episode is going, in numbers and in one line."""

from __future__ import annotations

import shutil
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dm_env

from aloha_kit.core import Action, Clock
from aloha_kit.loop import Outcome

_NOT_SEEN = ("deadline", "command")  # stamps of the loop, not of a sensor
_WINDOW = 50  # steps that the momentary rate is told from


@dataclass(frozen=True)
class Figures:
    """An episode so far. Times in ms; `skew` is how far a stream was from the median of its row."""

    steps: int = 0
    fps: float = 0.0  # over the last steps
    mean_fps: float = 0.0  # since the first observation
    skew: float = 0.0  # worst of any row
    skewed: str = ""  # the stream it was of
    ages: Mapping[str, float] = field(default_factory=dict)  # {stream: when the last row was complete}
    late: int = 0  # steps whose command was sent after their deadline, or whose deadline was put off
    dropped: int = 0  # periods without a step
    worst_gap: float = 0.0  # between two rows

    def notes(self) -> dict[str, Any]:
        """What an episode should remember; plain values for JSON."""
        return {
            "fps": round(self.mean_fps, 3),
            "worst_skew_ms": round(self.skew, 3),
            "most_skewed": self.skewed,
            "late": self.late,
            "dropped": self.dropped,
            "worst_gap_ms": round(self.worst_gap, 3),
        }


class Meter:
    """An observer that measures; cheap enough for every step.

    Args:
        rate_hz: the nominal rate.
        clock: the environment's.
    """

    def __init__(self, rate_hz: float, clock: Clock) -> None:
        self.period_ns = 1e9 / rate_hz
        self._clock = clock
        self._clear()

    def _clear(self) -> None:
        self._stamps: dict[str, int] = {}
        self._deadlines: deque[int] = deque(maxlen=_WINDOW + 1)
        self._rows: deque[int] = deque(maxlen=_WINDOW + 1)
        self._began_ns = self._steps = self._late = self._dropped = self._worst_gap_ns = 0
        self._skew_ns, self._skewed = 0.0, ""

    def on_reset(self, timestep: dm_env.TimeStep) -> None:
        self._clear()
        self._see(timestep)
        self._began_ns = self._rows[-1]

    def on_step(self, action: Action, timestep: dm_env.TimeStep) -> None:
        self._see(timestep)
        self._steps += 1
        gap = self._deadlines[-1] - self._deadlines[-2]
        command = self._stamps.get("command", 0)
        self._late += gap > 1.05 * self.period_ns or command > self._deadlines[-1]
        self._dropped += max(0, round(gap / self.period_ns) - 1)
        self._worst_gap_ns = max(self._worst_gap_ns, self._rows[-1] - self._rows[-2])

    def on_end(self, outcome: Outcome) -> None:
        """The figures stay until the next reset."""

    def _see(self, timestep: dm_env.TimeStep) -> None:
        self._stamps = dict(timestep.observation["stamps"])
        self._rows.append(self._clock.now_ns())
        self._deadlines.append(self._stamps["deadline"])
        # an action was decided a step earlier, so its leaders' stamps are not of this row
        row = {k: v for k, v in self._stamps.items() if k not in _NOT_SEEN and not k.startswith("leader")}
        if not row:
            return
        first = next(iter(row.values()))  # differences first: stamps need all 64 bits
        offsets = {name: stamp - first for name, stamp in row.items()}
        middle = statistics.median(offsets.values())  # numpy's imports half of numpy at its first call, in a step
        skew, name = max((abs(offset - middle), name) for name, offset in offsets.items())
        if skew > self._skew_ns:
            self._skew_ns, self._skewed = skew, name

    def figures(self) -> Figures:
        """So far."""
        if not self._steps:
            return Figures()
        spans = len(self._rows) - 1
        return Figures(
            steps=self._steps,
            fps=1e9 * spans / max(1, self._rows[-1] - self._rows[0]),
            mean_fps=1e9 * self._steps / max(1, self._rows[-1] - self._began_ns),
            skew=self._skew_ns / 1e6,
            skewed=self._skewed,
            ages={k: (self._rows[-1] - v) / 1e6 for k, v in self._stamps.items() if k not in _NOT_SEEN},
            late=self._late,
            dropped=self._dropped,
            worst_gap=self._worst_gap_ns / 1e6,
        )


class DiskRoom:
    """How long recording can go on before the disk is full, from what the last episode took.

    Args:
        folder: on the disk in question.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.bytes_per_s = 0.0  # of recording; 0 until one was seen

    def learn(self, size: int, seconds: float) -> None:
        """An episode of `seconds` takes `size` bytes."""
        if size > 0 and seconds > 0:
            self.bytes_per_s = size / seconds

    def minutes(self) -> float | None:
        """Of recording left; None before anything was recorded."""
        return self.seconds() / 60 if self.bytes_per_s else None

    def seconds(self) -> float:
        """Of recording left; infinite before anything was recorded, 0 where the folder is gone."""
        if not self._folder.is_dir():
            return 0.0
        return shutil.disk_usage(self._folder).free / self.bytes_per_s if self.bytes_per_s else float("inf")


def lines(
    figures: Figures, *, steps: int, rate_hz: float, stalls: int, limited: int, minutes: float | None
) -> tuple[str, str]:
    """The figures for people: everything, and what matters most where there is less room.

    Args:
        steps: of the whole episode.
        stalls: waits for the disk or the encoder.
        limited: commands that the guard changed.
        minutes: of recording that fit on the disk.
    """
    ages = sorted(((age, name.removeprefix("images/")) for name, age in figures.ages.items()), reverse=True)
    counts = {"late": figures.late, "dropped": figures.dropped, "stalls": stalls, "limited": limited}
    begin = [
        f"{figures.steps / rate_hz:.1f} of {steps / rate_hz:.1f} s",
        f"{figures.fps:.1f} fps",
        f"skew {figures.skew:.0f} ms",
    ]
    end = [f"disk {minutes:.0f} min"] if minutes is not None else []
    return " | ".join(
        [
            *begin,
            "age " + ", ".join(f"{name} {age:.0f}" for age, name in ages) + " ms",
            *end,
            *(f"{name} {count}" for name, count in counts.items()),
        ]
    ), " | ".join(
        [
            *begin,
            *(f"{name} {age:.0f} ms old" for age, name in ages[:1]),
            *end,
            *(f"{name} {count}" for name, count in counts.items() if count),
        ]
    )
