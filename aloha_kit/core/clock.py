"""Clocks of the control loop: one owner of time, absolute deadlines, measured lateness."""

from __future__ import annotations

import time
from typing import Protocol

from aloha_kit.core.lang import Message


class Clock(Protocol):
    """A source of nanoseconds that can also wait."""

    def now_ns(self) -> int:
        """Nanoseconds since this clock's epoch."""
        ...

    def sleep_until(self, deadline_ns: int) -> None:
        """Return at `deadline_ns`, or at once if it has passed."""


class WallClock:
    """Unix time advanced by the monotonic clock, so an NTP step cannot bend an episode."""

    def __init__(self) -> None:
        self._offset = time.time_ns() - time.monotonic_ns()

    def now_ns(self) -> int:
        return time.monotonic_ns() + self._offset

    def sleep_until(self, deadline_ns: int) -> None:
        remaining = deadline_ns - self.now_ns()
        if remaining > 0:
            time.sleep(remaining / 1e9)


class VirtualClock:
    """Virtual clock that advances only in waits: a simulation runs as fast as it can, with correct stamps."""

    def __init__(self, start_ns: int = 0) -> None:
        self._now = start_ns

    def now_ns(self) -> int:
        return self._now

    def sleep_until(self, deadline_ns: int) -> None:
        self._now = max(self._now, deadline_ns)


class Rate:
    """Deadlines at start + k · period, never "now + period": a late step does not delay the ones after it.

    A step later than a whole period re-bases the schedule, since a burst of catch-up commands
    would reach the arms faster than they were meant. So does simulated time that starts again.
    """

    def __init__(self, hz: float, clock: Clock) -> None:
        if not hz > 0:
            raise ValueError(Message("rate must be positive, given {hz} Hz", hz=hz))
        self.period_ns = round(1e9 / hz)
        self._clock = clock
        self._deadline = clock.now_ns()

    @property
    def deadline_ns(self) -> int:
        """The deadline that was waited for last."""
        return self._deadline

    def reset(self) -> None:
        """Start a new schedule now."""
        self._deadline = self._clock.now_ns()

    def sleep(self) -> int:
        """Wait for the next deadline; return how late it was met, in ns (0 when it was met)."""
        self._deadline += self.period_ns
        late = self._clock.now_ns() - self._deadline
        if late < -self.period_ns:  # the deadline is of a time base that has ended
            self._deadline, late = self._deadline + late + self.period_ns, -self.period_ns
        if late <= 0:
            self._clock.sleep_until(self._deadline)
            return 0
        if late > self.period_ns:
            self._deadline += late
        return late
