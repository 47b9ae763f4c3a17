"""Soft sync against a matcher that keeps every message, sorts, and looks at all of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloha_kit.core import StreamError, VirtualClock
from aloha_kit.sync.soft_sync import SoftSync, StreamSpec

MS = 1_000_000
START = 1_700_000_000_000 * MS
OFFSET_BOUND = 100 * MS
RATES = (30, 50, 60, 100, 200)


@dataclass(frozen=True)
class Message:
    stream: str
    seq: int
    captured: int  # true time
    stamp: int  # by the driver's clock; 0 where it leaves it empty
    arrival: int


class BruteForce:
    """The rules of soft sync, written for reading."""

    def __init__(self, specs: Sequence[StreamSpec]) -> None:
        self.specs = specs
        self.collected: dict[str, list[Message]] = {spec.name: [] for spec in specs}

    def add(self, message: Message) -> None:
        self.collected[message.stream].append(message)

    def samples(self, name: str) -> list[tuple[int, Message]]:
        """(stamp on our clock, message), the first message of each stamp, by stamp."""
        first: dict[int, Message] = {}
        for message in self.collected[name]:
            first.setdefault(message.stamp or message.arrival, message)
        if not first:
            return []
        until = max(message.arrival for message in first.values())
        delays = [m.arrival - stamp + (until - m.arrival) // 2000 for stamp, m in first.items()]
        correction = min(delays) if abs(min(delays)) > OFFSET_BOUND else 0
        return sorted((stamp + correction, message) for stamp, message in first.items())

    def match(self, now: int) -> tuple[int, dict[str, Message]] | dict[str, str]:
        """(reference time, {stream: message}), or what is wrong with which stream."""
        problems = {}
        for spec in self.specs:
            samples = self.samples(spec.name)
            if not samples:
                problems[spec.name] = "silent"
                continue
            stamp, newest = samples[-1]
            if now - min(stamp, newest.arrival) > spec.max_age_ns:
                collected = now - self.collected[spec.name][-1].arrival > spec.max_age_ns
                known = now - newest.arrival > spec.max_age_ns
                problems[spec.name] = "silent" if collected else "frozen" if known else "late"
        if problems:
            return problems
        reference = min(self.samples(spec.name)[-1][0] for spec in self.specs)
        chosen = {}
        for spec in self.specs:
            skew, _, message = min((abs(t - reference), -t, m) for t, m in self.samples(spec.name))
            chosen[spec.name] = message
            if skew > spec.max_skew_ns:
                problems[spec.name] = "out of bound"
        return problems or (reference, chosen)


@st.composite
def one_stream(draw: st.DrawFn, name: str) -> tuple[StreamSpec, list[Message]]:
    """Half a second with jitter, losses, late and out-of-order messages, repeated stamps, silence, another clock."""
    rate = draw(st.sampled_from(RATES))
    period = round(1e9 / rate)
    spec = StreamSpec(
        name, rate, max_skew_ns=draw(st.integers(period // 4, 2 * period)), max_age_ns=draw(st.integers(50, 250)) * MS
    )
    # Less than five messages overtaken: five in a row would be a clock that was set back.
    latest = min(3 * period, 80 * MS)
    stamped = draw(st.booleans()) or draw(st.booleans())
    clock_offset = draw(st.sampled_from([0, 0, 5 * MS, -5 * MS, 500 * MS, -500 * MS, 3_600_000 * MS, -3_600_000 * MS]))
    random = draw(st.randoms(use_true_random=False))
    phase, jitter = random.randrange(period), random.choice([0, period // 10, period // 3])
    loss, lateness, repeats = random.choice([0, 0.01, 0.2]), random.choice([0, 0.1, 0.5]), random.choice([0, 0, 0.1])
    stops = START + random.choice([1000, 1000, 1000, 300]) * MS
    messages: list[Message] = []
    for seq in range(1, 500 * MS // period):
        captured = START + phase + seq * period + random.randint(-jitter, jitter) // 2
        delay = MS + random.randrange(MS) + (random.randrange(latest) if random.random() < lateness else 0)
        stamp = captured + clock_offset
        if messages and random.random() < repeats:
            stamp = messages[-1].stamp
        if random.random() >= loss and captured < stops:
            messages.append(Message(name, seq, captured, stamp if stamped else 0, captured + delay))
    return spec, messages


@st.composite
def rigs(draw: st.DrawFn) -> tuple[list[StreamSpec], list[Message]]:
    streams = [draw(one_stream(f"stream{index}")) for index in range(draw(st.integers(1, 4)))]
    messages = [message for _, messages in streams for message in messages]
    return [spec for spec, _ in streams], sorted(messages, key=lambda message: message.arrival)


def kinds(error: StreamError) -> dict[str, str]:
    found = re.findall(r"stream '(\w+)' is (silent|frozen|late|out of bound)", str(error))
    assert found, error
    return dict(found)


@settings(max_examples=150, deadline=None)
@given(rigs(), st.lists(st.integers(0, 700), min_size=1, max_size=12))
def test_matches_what_looking_at_every_message_would(
    rig: tuple[list[StreamSpec], list[Message]], ticks_ms: list[int]
) -> None:
    specs, messages = rig
    clock, brute = VirtualClock(START), BruteForce(specs)
    sync = SoftSync(specs, clock, clock_offset_s=OFFSET_BOUND / 1e9)
    pending = list(messages)
    for tick in sorted(START + ms * MS for ms in ticks_ms):
        while pending and pending[0].arrival <= tick:
            message = pending.pop(0)
            clock.sleep_until(message.arrival)
            sync.add(message.stream, message.stamp, message)
            brute.add(message)
        clock.sleep_until(tick)
        expected = brute.match(tick)
        if isinstance(expected, dict):
            with pytest.raises(StreamError) as raised:
                sync.match()
            assert kinds(raised.value) == expected
        else:
            matched = sync.match()
            assert (matched.reference_ns, {n: s.value for n, s in matched.samples.items()}) == expected
            for name, sample in matched.samples.items():
                assert sample.stamp_ns == next(stamp for stamp, m in brute.samples(name) if m is sample.value)


@settings(max_examples=60, deadline=None)
@given(one_stream("camera"))
def test_counts_by_seq_are_exact(stream: tuple[StreamSpec, list[Message]]) -> None:
    spec, messages = stream
    clock = VirtualClock(START)
    sync = SoftSync([spec], clock)
    arrived = sorted(messages, key=lambda message: message.arrival)
    arrived = arrived[next((i for i, m in enumerate(arrived) if m.seq == min(x.seq for x in messages)), 0) :]
    for message in arrived:
        clock.sleep_until(message.arrival)
        # Counted where stamps tell which is late; without stamps a smaller seq is another publisher's.
        sync.add("camera", message.captured, message, message.seq)
    seqs = {message.seq for message in arrived}
    health = sync.health()["camera"]
    assert health.count == len(arrived)
    assert health.dropped == (max(seqs) - min(seqs) + 1 - len(seqs) if seqs else 0)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(RATES), st.randoms(use_true_random=False), st.sampled_from([0, 3_600_000 * MS]))
def test_counts_by_gaps_do_not_depend_on_the_order_of_arrival(rate: int, random: object, clock_offset: int) -> None:
    period = round(1e9 / rate)
    chance = random.random  # type: ignore[attr-defined]
    kept = [0, *(step for step in range(1, 200) if chance() > 0.1)]
    arrivals = sorted((step * period + MS + int(chance() * 3 * period) * (step > 0), step) for step in kept)
    clock = VirtualClock(START)
    sync = SoftSync([StreamSpec("arm", rate, 20 * MS, 250 * MS)], clock)
    for arrival, step in arrivals:
        clock.sleep_until(START + arrival)
        jitter = int((chance() - 0.5) * 0.4 * period) if step else 0
        sync.add("arm", START + step * period + jitter + clock_offset, step)
    assert sync.health()["arm"].dropped == max(kept) + 1 - len(kept)
