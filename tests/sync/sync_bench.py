"""A soft sync on a clock that tests move."""

from __future__ import annotations

from typing import Any

from aloha_kit.core import VirtualClock
from aloha_kit.sync.soft_sync import SoftSync, StreamSpec

MS = 1_000_000
START = 1_700_000_000_000 * MS


def spec(name: str, rate_hz: float = 50.0, **changes: Any) -> StreamSpec:
    return StreamSpec(name, rate_hz, **{"max_skew_ns": 20 * MS, "max_age_ns": 250 * MS, **changes})


class Bench:
    """A soft sync whose messages are given by time: `at(ms)` moves the clock, stamps are ms after the start."""

    def __init__(self, *specs: StreamSpec, clock: VirtualClock | None = None, **options: Any) -> None:
        self.clock = clock or VirtualClock(START)
        self.sync = SoftSync(specs, self.clock, **options)

    def at(self, ms: float) -> None:
        self.clock.sleep_until(START + round(ms * MS))

    def add(self, name: str, stamp_ms: float, value: Any = None, *, at: float | None = None, seq: Any = None) -> None:
        if at is not None:
            self.at(at)
        self.sync.add(name, START + round(stamp_ms * MS), stamp_ms if value is None else value, seq)

    def run(
        self, name: str, *, start_ms: int = 0, samples: int = 20, delay_ms: float = 2.0, ahead_ms: float = 0
    ) -> None:
        """A message each 20 ms that takes `delay_ms`, from a clock that is `ahead_ms` of ours."""
        for ms in range(start_ms, start_ms + 20 * samples, 20):
            self.add(name, ms + ahead_ms, at=ms + delay_ms)


def values(bench: Bench) -> dict[str, Any]:
    return {name: sample.value for name, sample in bench.sync.match().samples.items()}
