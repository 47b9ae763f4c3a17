"""Status line of a recording: timing of the episode, room on the disk, state of the streams."""

from __future__ import annotations

import shutil
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dm_env

from aloha_kit.config import TaskConfig
from aloha_kit.core import Action, Clock
from aloha_kit.core.lang import shown, tr, tr_plural
from aloha_kit.loop import Outcome, SafetyGuard
from aloha_kit.loop.capabilities import StreamStatus
from aloha_kit.record.episode_attempt import EpisodeAttempt
from aloha_kit.record.operator_interface import Display, OperatorInterface

_LOOP_STAMPS = ("deadline", "command")  # stamps of the loop, not of a sensor
SCARCE_MIN = 10.0
"""Minutes of recording left on the disk, below which the status line shows them."""


@dataclass(frozen=True)
class EpisodeTiming:
    """Timing of an episode so far. Times in ms; `skew` is how far a stream was from the median of its row."""

    steps: int = 0
    fps: float = 0.0  # since the first observation
    skew: float = 0.0  # worst of any row
    skewed: str = ""  # the stream it was of
    late: int = 0  # steps whose command was sent after their deadline, or whose deadline was put off
    dropped: int = 0  # periods without a step
    worst_gap: float = 0.0  # between two rows

    def problems(self, rate_hz: float) -> list[str]:
        """Problems for the operator: a stream more than a period apart, late and dropped steps."""
        found = []
        if self.skew > 1e3 / rate_hz:
            stream = self.skewed.removeprefix("images/")
            found.append(tr("{stream} {skew:.0f} ms apart", stream=stream, skew=self.skew))
        if self.late:
            found.append(tr("late {count}", count=self.late))
        if self.dropped:
            found.append(tr("dropped {count}", count=self.dropped))
        return found

    def notes(self) -> dict[str, Any]:
        """Values that the episode stores; plain types for JSON."""
        return {
            "fps": round(self.fps, 3),
            "worst_skew_ms": round(self.skew, 3),
            "most_skewed": self.skewed,
            "late": self.late,
            "dropped": self.dropped,
            "worst_gap_ms": round(self.worst_gap, 3),
        }


class TimingMonitor:
    """Observer that measures rate, skew and late steps of an episode.

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
        self._deadlines: deque[int] = deque(maxlen=2)
        self._rows: deque[int] = deque(maxlen=2)
        self._began_ns = self._steps = self._late = self._dropped = self._worst_gap_ns = 0
        self._skew_ns, self._skewed = 0.0, ""

    def on_reset(self, timestep: dm_env.TimeStep) -> None:
        self._clear()
        self._update(timestep)
        self._began_ns = self._rows[-1]

    def on_step(self, action: Action, timestep: dm_env.TimeStep) -> None:
        self._update(timestep)
        self._steps += 1
        gap = self._deadlines[-1] - self._deadlines[-2]
        command = self._stamps.get("command", 0)
        self._late += gap > 1.05 * self.period_ns or command > self._deadlines[-1]
        self._dropped += max(0, round(gap / self.period_ns) - 1)
        self._worst_gap_ns = max(self._worst_gap_ns, self._rows[-1] - self._rows[-2])

    def on_end(self, outcome: Outcome) -> None:
        """Store the values until the next reset."""

    def _update(self, timestep: dm_env.TimeStep) -> None:
        self._stamps = dict(timestep.observation["stamps"])
        self._rows.append(self._clock.now_ns())
        self._deadlines.append(self._stamps["deadline"])
        # an action was decided a step earlier, so its leaders' stamps are not of this row
        row = {k: v for k, v in self._stamps.items() if k not in _LOOP_STAMPS and not k.startswith("leader")}
        if not row:
            return
        first = next(iter(row.values()))  # differences first: stamps need all 64 bits
        offsets = {name: stamp - first for name, stamp in row.items()}
        middle = statistics.median(offsets.values())  # numpy's imports half of numpy at its first call, in a step
        skew, name = max((abs(offset - middle), name) for name, offset in offsets.items())
        if skew > self._skew_ns:
            self._skew_ns, self._skewed = skew, name

    def timing(self) -> EpisodeTiming:
        """Timing so far."""
        if not self._steps:
            return EpisodeTiming()
        return EpisodeTiming(
            steps=self._steps,
            fps=1e9 * self._steps / max(1, self._rows[-1] - self._began_ns),
            skew=self._skew_ns / 1e6,
            skewed=self._skewed,
            late=self._late,
            dropped=self._dropped,
            worst_gap=self._worst_gap_ns / 1e6,
        )


class DiskSpace:
    """Recording time that the disk has room for, from the size of the last episode.

    Args:
        folder: on the disk in question.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.bytes_per_s = 0.0  # of recording; 0 before the first episode

    def update(self, size: int, seconds: float) -> None:
        """Set the rate from an episode of `seconds` that takes `size` bytes."""
        if size > 0 and seconds > 0:
            self.bytes_per_s = size / seconds

    def minutes(self) -> float | None:
        """Minutes of recording left; None before anything was recorded."""
        return self.seconds() / 60 if self.bytes_per_s else None

    def seconds(self) -> float:
        """Seconds of recording left; infinite before anything was recorded, 0 where the folder is gone."""
        if not self._folder.is_dir():
            return 0.0
        return shutil.disk_usage(self._folder).free / self.bytes_per_s if self.bytes_per_s else float("inf")


def status_text(
    timing: EpisodeTiming, *, episode: str, steps: int, rate_hz: float, stalls: int, minutes: float | None
) -> str:
    """Status line: which episode, its time, and what is not as it should be.

    Args:
        episode: its number and the count of good ones.
        steps: of a full episode.
        stalls: waits for the disk or the encoder.
        minutes: of recording that fit on the disk.
    """
    parts = [episode, tr("{done:.1f} of {whole:.1f} s", done=timing.steps / rate_hz, whole=steps / rate_hz)]
    parts += timing.problems(rate_hz)
    if stalls:
        parts.append(tr("stalls {count}", count=stalls))
    if minutes is not None and minutes < SCARCE_MIN:
        parts.append(tr("disk {minutes:.0f} min", minutes=minutes))
    return " | ".join(parts)


class StatusLine:
    """Observer that shows the status line while an episode is recorded; add it after the attempt and the monitor."""

    def __init__(
        self,
        operator: OperatorInterface,
        attempt: EpisodeAttempt,
        monitor: TimingMonitor,
        guard: SafetyGuard,
        disk: DiskSpace,
        task: TaskConfig,
        episode: str,
    ) -> None:
        self._operator, self._attempt, self._monitor, self._guard = operator, attempt, monitor, guard
        self._disk, self._task, self._episode = disk, task, episode

    def on_reset(self, timestep: dm_env.TimeStep) -> None:
        self._operator.status("recording", self._attempt.name)
        self._operator.display.restart()

    def on_step(self, action: Action, timestep: dm_env.TimeStep) -> None:
        display = self._operator.display
        if not display.due():
            return
        timing = self._monitor.timing()
        self._disk.update(self._attempt.size(), timing.steps / self._task.rate_hz)
        display.status(
            status_text(
                timing,
                episode=self._episode,
                steps=self._task.episode_len,
                rate_hz=self._task.rate_hz,
                stalls=self._attempt.stalls,
                minutes=self._disk.minutes(),
            )
        )

    def on_end(self, outcome: Outcome) -> None:
        """Nothing; the session shows how it ended."""

    def summary(self) -> str:
        """Timing of the whole episode in one line."""
        timing = self._monitor.timing()
        parts = [tr("{steps} steps at {fps:.1f} fps", steps=timing.steps, fps=timing.fps)]
        parts += timing.problems(self._task.rate_hz)
        if stalls := self._attempt.stalls:
            parts.append(tr("stalls {count}", count=stalls))
        if limited := self._guard.report()["limited"]:
            parts.append(tr("limited {count}", count=limited))
        return tr(", ").join(parts)

    def notes(self) -> dict[str, Any]:
        """Metadata of the episode: its timing, and what the guard changed in the leaders' commands."""
        return {"timing": self._monitor.timing().notes(), "guard": self._guard.report()}


def show_streams(display: Display, health: Mapping[str, StreamStatus]) -> None:
    """Show between episodes what is wrong with the streams; on a terminal also that nothing is."""
    if not display.due():
        return
    wrong = [stream.problem for stream in health.values() if stream.problem]
    if wrong:
        display.status("; ".join(map(shown, wrong)))
    elif display.live and health:
        display.status(tr_plural("{n} stream alive", "{n} streams alive", len(health)))
