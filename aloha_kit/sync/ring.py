"""Ring buffer of one stream's samples in order of stamp, with the stream's rate, losses and clock offset.

Not thread-safe: `SoftSync` owns one for each stream, and the lock.
"""

from __future__ import annotations

import itertools
import math
import statistics
from bisect import bisect_left, bisect_right
from collections import deque
from dataclasses import dataclass, replace
from typing import Any

from aloha_kit.core.lang import marked, Message

SETTLED = 10  # samples after which the offset of a stream's clock is trusted
STEPPED_BACK = 5  # older samples in a row: not late, but stamped by a clock that was set back
CLOCK_DRIFT = 2000  # the smallest delay measured grows by 1 ns in this many (500 ppm), since clocks drift
NEW_COUNT = 1000  # a larger step of header.seq is another publisher's count, not a loss
RATE_WINDOW_NS = 2_000_000_000


@dataclass(frozen=True)
class StreamSpec:
    """Stream specification: rate and bounds. `source` (its topic) is named in errors.

    An optional stream (`required=False`) does not hold the reference time back, and is left out of a match
    where it has no sample.
    """

    name: str
    rate_hz: float
    max_skew_ns: int
    max_age_ns: int
    required: bool = True
    source: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """Stamped message. `stamp_ns` is its capture time on our clock: the driver's stamp; the arrival where the driver
    left it zero (`stamped` False); the stamp plus the offset of its clock where that is `corrected`."""

    stamp_ns: int
    arrival_ns: int
    value: Any
    stamped: bool = True
    corrected: bool = False


@dataclass(frozen=True)
class StreamHealth:
    """Stream health: `count` to `restarts` since the start, `rate_hz` and `jitter_s` over the last 2 s."""

    problem: str  # why it cannot be used now; empty when it can
    rate_hz: float  # of samples with a new stamp
    jitter_s: float  # standard deviation of the steps between stamps; lost messages do not count
    age_s: float  # of the newest sample; infinite before the first
    count: int  # messages received
    dropped: int  # lost on the way, by header.seq where there is one, else by gaps between stamps at the set rate
    out_of_order: int  # with a stamp older than an earlier message's
    duplicates: int  # with a stamp received before
    restarts: int  # times all samples were dropped because a clock, here or there, stepped back
    stamped: bool  # False: the driver leaves stamps zero, arrival times replace them
    offset_s: float  # smallest arrival less stamp: the clocks' difference plus the shortest delay
    corrected: bool  # the offset is larger than a delay may be: it is added to the stamps
    skew_s: float  # sample less reference time in the last match
    worst_skew_s: float  # the largest of any match so far, without sign


class StreamRing:
    """Ring buffer of one stream. Stored stamps are the driver's; returned stamps are on our clock."""

    def __init__(self, spec: StreamSpec, keep_ns: int, offset_bound_ns: int) -> None:
        self.spec, self._keep_ns, self._offset_bound_ns = spec, keep_ns, offset_bound_ns
        self._period_ns = round(1e9 / spec.rate_hz)
        self._capacity = 16 + 4 * keep_ns // self._period_ns  # bounds memory where a driver publishes far too fast
        self._count = self._dropped = self._out_of_order = self._duplicates = self._restarts = 0
        self._skew_ns = self._worst_skew_ns = 0
        self.clear()

    def clear(self) -> None:
        self._stamps: list[int] = []  # ascending
        self._samples: list[Sample] = []
        self._recent: deque[tuple[int, int]] = deque(maxlen=512)  # (arrival, stamp) in order
        self._newest_arrival_ns = self._least_delay_ns = self._least_at_ns = self._offset_ns = self._correction_ns = 0
        self._settled = self._late_run = 0
        self._seq: int | None = None

    def restart(self) -> None:
        self._restarts += 1
        self.clear()

    def add(self, stamp_ns: int, arrival_ns: int, value: Any, seq: int | None) -> None:
        stamped = stamp_ns > 0
        stamp = stamp_ns if stamped else arrival_ns
        if self._samples and self._samples[-1].stamped != stamped:
            self.restart()  # arrivals and stamps do not mix
        self._count, self._newest_arrival_ns = self._count + 1, arrival_ns
        late = bool(self._stamps) and stamp < self._stamps[-1]
        if seq is not None:
            self._count_by_seq(seq, late)
        place = bisect_right(self._stamps, stamp)
        if place and self._stamps[place - 1] == stamp:
            self._duplicates += 1
            return
        if late:
            self._out_of_order += 1
            self._late_run += 1
            if self._late_run == STEPPED_BACK:
                self.restart()
                self._newest_arrival_ns, late = arrival_ns, False
            elif stamp < self._stamps[-1] - self._keep_ns:
                return
        if not late:
            self._late_run = 0
            self._recent.append((arrival_ns, stamp))
        self._estimate_offset(arrival_ns - stamp, arrival_ns)
        self._insert(Sample(stamp, arrival_ns, value, stamped), count_gaps=seq is None)

    def _count_by_seq(self, seq: int, late: bool) -> None:
        step = 1 if self._seq is None else seq - self._seq
        if step <= 0 and late:
            self._dropped = max(0, self._dropped - 1)  # counted as lost, but arrived now
            return
        self._dropped += step - 1 if 1 < step < NEW_COUNT else 0
        self._seq = seq

    def _estimate_offset(self, delay_ns: int, arrival_ns: int) -> None:
        """Estimate the clock offset: the smallest delay, without queues or busy processes; slowly forgotten."""
        if not self._settled or delay_ns <= self._offset_at(arrival_ns):
            self._least_delay_ns, self._least_at_ns = delay_ns, arrival_ns
        self._settled += 1
        self._offset_ns = self._offset_at(arrival_ns)
        # Correction stays on down to half the bound, or stamps near it would alternate.
        stays = self._correction_ns != 0 and self._settled > SETTLED
        bound = self._offset_bound_ns // 2 if stays else self._offset_bound_ns
        self._correction_ns = self._offset_ns if abs(self._offset_ns) > bound else 0

    def _offset_at(self, arrival_ns: int) -> int:
        return self._least_delay_ns + (arrival_ns - self._least_at_ns) // CLOCK_DRIFT

    def _insert(self, sample: Sample, count_gaps: bool) -> None:
        index = bisect_right(self._stamps, sample.stamp_ns)
        if count_gaps and index:
            before, after = self._stamps[index - 1], self._stamps[index : index + 1]
            self._dropped += self._missing(before, sample.stamp_ns)
            if after:
                self._dropped += self._missing(sample.stamp_ns, after[0]) - self._missing(before, after[0])
        self._stamps.insert(index, sample.stamp_ns)
        self._samples.insert(index, sample)
        # One sample more than needed: a late message that fills a gap is recognised by the one before it.
        too_old = bisect_left(self._stamps, self._stamps[-1] - self._keep_ns) - 1
        excess = max(0, too_old, len(self._stamps) - self._capacity)
        del self._stamps[:excess], self._samples[:excess]

    def _missing(self, before_ns: int, after_ns: int) -> int:
        return max(0, (after_ns - before_ns + self._period_ns // 2) // self._period_ns - 1)

    @property
    def newest_ns(self) -> int:
        return self._stamps[-1] + self._correction_ns

    def sample(self, index: int) -> Sample:
        sample = self._samples[index]
        if not self._correction_ns:
            return sample
        return replace(sample, stamp_ns=sample.stamp_ns + self._correction_ns, corrected=True)

    def closest(self, reference_ns: int) -> Sample:
        """Sample closest to a reference time; the newer one of two that are equally near."""
        target = reference_ns - self._correction_ns
        index = bisect_left(self._stamps, target)
        if index == len(self._stamps) or (index and self._stamps[index] - target > target - self._stamps[index - 1]):
            index -= 1
        return self.sample(index)

    def around(self, stamp_ns: int, before: int) -> list[Sample]:
        """Neighbouring samples: the one after `stamp_ns` and `before` ones before it, the nearest first."""
        index = bisect_left(self._stamps, stamp_ns - self._correction_ns)
        after = bisect_right(self._stamps, stamp_ns - self._correction_ns)
        found = [*range(index - 1, max(-1, index - 1 - before), -1), *range(after, min(after + 1, len(self._stamps)))]
        return [self.sample(i) for i in found]

    def matched(self, skew_ns: int) -> None:
        self._skew_ns, self._worst_skew_ns = skew_ns, max(self._worst_skew_ns, abs(skew_ns))

    def _age_ns(self, now_ns: int) -> int:
        return now_ns - min(self.newest_ns, self._samples[-1].arrival_ns)

    def problem(self, now_ns: int, settled: int = 0) -> str:
        """Reason why the stream cannot be used at `now_ns`; empty when it can."""
        if not self._samples:
            return Message("stream {stream} is silent: no message yet, {bound}", stream=self._named, bound=self._bound)
        age_ns = self._age_ns(now_ns)
        if age_ns > self.spec.max_age_ns:
            if now_ns - self._newest_arrival_ns > self.spec.max_age_ns:
                return Message(
                    "stream {stream} is silent: no message for {seconds:.3f} s, {bound}",
                    stream=self._named,
                    seconds=(now_ns - self._newest_arrival_ns) / 1e9,
                    bound=self._bound,
                )
            if now_ns - self._samples[-1].arrival_ns > self.spec.max_age_ns:
                return Message(
                    "stream {stream} is frozen: messages come, but no new stamp for {seconds:.3f} s, {bound}",
                    stream=self._named,
                    seconds=age_ns / 1e9,
                    bound=self._bound,
                )
            return Message(
                "stream {stream} is late: its newest sample is {seconds:.3f} s old, {bound}",
                stream=self._named,
                seconds=age_ns / 1e9,
                bound=self._bound,
            )
        if self._settled < settled:
            return f"{self} is starting: {self._settled} of {settled} samples"
        return ""

    def out_of_bound(self, skew_ns: int, now_ns: int) -> str:
        return Message(
            marked(
                "stream {stream} is out of bound: its nearest sample is {skew:.1f} ms after the reference time, "
                "bound {bound:.1f} ms; its newest is {age:.3f} s old"
            )
            if skew_ns > 0
            else marked(
                "stream {stream} is out of bound: its nearest sample is {skew:.1f} ms before the reference time, "
                "bound {bound:.1f} ms; its newest is {age:.3f} s old"
            ),
            stream=self._named,
            skew=abs(skew_ns) / 1e6,
            bound=self.spec.max_skew_ns / 1e6,
            age=self._age_ns(now_ns) / 1e9,
        )

    def __str__(self) -> str:
        return f"stream {self._named}"

    @property
    def _bound(self) -> Message:
        return Message("bound {seconds:.3g} s", seconds=self.spec.max_age_ns / 1e9)

    @property
    def _named(self) -> str:
        return f"'{self.spec.name}'" + (f" ({self.spec.source})" if self.spec.source else "")

    def health(self, now_ns: int) -> StreamHealth:
        alive = bool(self._samples) and now_ns - self._samples[-1].arrival_ns <= self.spec.max_age_ns
        recent = [pair for pair in self._recent if pair[0] > now_ns - RATE_WINDOW_NS] if alive else []
        spent_ns = recent[-1][0] - recent[0][0] if recent else 0
        return StreamHealth(
            problem=self.problem(now_ns),
            rate_hz=(len(recent) - 1) * 1e9 / spent_ns if spent_ns else 0.0,
            jitter_s=_jitter_ns([stamp for _, stamp in recent]) / 1e9,
            age_s=self._age_ns(now_ns) / 1e9 if self._samples else math.inf,
            count=self._count,
            dropped=self._dropped,
            out_of_order=self._out_of_order,
            duplicates=self._duplicates,
            restarts=self._restarts,
            stamped=self._samples[-1].stamped if self._samples else True,
            offset_s=self._offset_ns / 1e9,
            corrected=self._correction_ns != 0,
            skew_s=self._skew_ns / 1e9,
            worst_skew_s=self._worst_skew_ns / 1e9,
        )


def _jitter_ns(stamps: list[int]) -> float:
    """Standard deviation of the steps between stamps, a step of n periods taken for n - 1 lost messages."""
    steps = [after - before for before, after in itertools.pairwise(stamps)]
    if not steps:
        return 0.0
    usual = statistics.median(steps)
    return statistics.pstdev(step - usual * max(1, round(step / usual)) for step in steps)
