"""Soft synchronisation of streams: the sample of each that is nearest to one reference time.

Pure Python without ROS. Callbacks call `add`, which only stores; the control loop calls `match`. Nothing is
repeated silently: a stream that is silent, frozen, late or out of its skew bound is a `StreamError` with its name.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from aloha_kit.core import Clock, did_you_mean, StreamError
from aloha_kit.core.lang import joined, Message
from aloha_kit.sync.ring import Sample, SETTLED, StreamHealth, StreamRing, StreamSpec

__all__ = ["Matched", "Sample", "SoftSync", "StreamHealth", "StreamSpec"]

POLL_NS = 1_000_000


@dataclass(frozen=True)
class Matched:
    """Matched samples: of each stream the nearest to `reference_ns`, the newest time all required ones reached."""

    reference_ns: int
    samples: dict[str, Sample]

    def skew_ns(self, name: str) -> int:
        """Skew (ns): sample time less reference time."""
        return self.samples[name].stamp_ns - self.reference_ns


class SoftSync:
    """Soft sync: short ring buffers of stamped samples, one for each stream. Thread-safe.

    Args:
        specs: the streams; at least one is required.
        clock: of the arrivals. When it steps back (simulated time restarted) all samples are dropped.
        clock_offset_s: stamps further than this from their arrivals come from another clock and are corrected.
        keep_s: how far back samples are stored; by default as long as one stream may wait for the slowest.
    """

    def __init__(
        self, specs: Iterable[StreamSpec], clock: Clock, *, clock_offset_s: float = 0.1, keep_s: float | None = None
    ) -> None:
        specs = list(specs)
        if not any(spec.required for spec in specs):
            raise ValueError(Message("soft sync needs a required stream: it gives the reference time"))
        offset_ns = round(clock_offset_s * 1e9)
        longest = max(spec.max_age_ns for spec in specs) + max(spec.max_skew_ns for spec in specs) + offset_ns
        keep_ns = longest if keep_s is None else round(keep_s * 1e9)
        self._streams = {spec.name: StreamRing(spec, keep_ns, offset_ns) for spec in specs}
        self._required = [stream for stream in self._streams.values() if stream.spec.required]
        self._clock, self._lock = clock, threading.Lock()
        self._latest_ns, self._closed = clock.now_ns(), False

    def add(self, name: str, stamp_ns: int, value: Any, seq: int | None = None) -> None:
        """Store a message; for callbacks.

        Args:
            stamp_ns: header.stamp; 0 where the driver leaves it empty.
            seq: header.seq, which grows by one each message; None where there is none.
        """
        with self._lock:
            if not self._closed:
                self._stream(name).add(stamp_ns, self._now(), value, seq)

    def match(self, timeout_s: float = 0.0) -> Matched:
        """Match the newest samples that all required streams have together.

        Args:
            timeout_s: how long to retry, since the gap of one lost message closes with the next.

        Raises:
            StreamError: streams that are silent, frozen, late or out of their skew bound, each with age and bound.
        """
        return self._until(timeout_s, settled=0, prefix="")

    def wait(self, timeout_s: float) -> Matched:
        """Wait until every required stream is alive, its clock offset is known and all match.

        Raises:
            StreamError: not within `timeout_s`; lists each stream that is not ready, and why.
        """
        return self._until(timeout_s, settled=SETTLED, prefix=f"streams are not ready after {timeout_s:g} s: ")

    def newest(self, name: str) -> Sample:
        """Newest sample of one stream, independent of the others.

        Raises:
            StreamError: it is silent, frozen or late, or there is no such stream.
        """
        with self._lock:
            stream = self._stream(name)
            if problem := stream.problem(self._now()):
                raise StreamError(problem)
            return stream.sample(-1)

    def around(self, name: str, stamp_ns: int, before: int = 2) -> list[Sample]:
        """Neighbouring samples around `stamp_ns`: `before` ones before it, the nearest first, and one after it."""
        with self._lock:
            return self._stream(name).around(stamp_ns, before)

    def health(self) -> dict[str, StreamHealth]:
        with self._lock:
            now = self._now()
            return {name: stream.health(now) for name, stream in self._streams.items()}

    def clear(self) -> None:
        """Drop all samples, as at the start."""
        with self._lock:
            for stream in self._streams.values():
                stream.clear()

    def close(self) -> None:
        """Free all samples; later messages are not stored."""
        self._closed = True
        self.clear()

    def _until(self, timeout_s: float, *, settled: int, prefix: str) -> Matched:
        timeout_ns, start = round(timeout_s * 1e9), self._clock.now_ns()
        while True:
            with self._lock:
                result = self._match(settled)
            if isinstance(result, Matched):
                return result
            now = self._clock.now_ns()
            start = min(start, now)  # simulated time may restart
            if now >= start + timeout_ns:
                raise StreamError("{prefix}{problems}", prefix=prefix, problems=joined(result))
            self._clock.sleep_until(min(start + timeout_ns, now + POLL_NS))

    def _match(self, settled: int) -> Matched | list[str]:
        now = self._now()
        if problems := [problem for stream in self._required if (problem := stream.problem(now, settled))]:
            return problems
        reference = min(stream.newest_ns for stream in self._required)
        samples: dict[str, Sample] = {}
        for name, stream in self._streams.items():
            if not stream.spec.required and stream.problem(now):
                continue
            sample = stream.closest(reference)
            if abs(sample.stamp_ns - reference) <= stream.spec.max_skew_ns:
                samples[name] = sample
            elif stream.spec.required:
                problems.append(stream.out_of_bound(sample.stamp_ns - reference, now))
        if problems:
            return problems
        for name, sample in samples.items():
            self._streams[name].matched(sample.stamp_ns - reference)
        return Matched(reference, samples)

    def _stream(self, name: str) -> StreamRing:
        if name not in self._streams:
            raise StreamError("no stream '{name}'. {known}", name=name, known=did_you_mean(name, self._streams))
        return self._streams[name]

    def _now(self) -> int:
        now = self._clock.now_ns()
        if now < self._latest_ns:
            for stream in self._streams.values():
                stream.restart()
        self._latest_ns = now
        return now
