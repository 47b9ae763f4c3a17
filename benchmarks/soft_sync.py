"""Matching four cameras and four arms: our soft sync beside what ROS users have.

    python benchmarks/soft_sync.py --seconds 60

All get the same messages at the same (simulated) times: jitter, clocks that drift apart, transport delays, 0.5 % lost.
The loop reads at its rate; `ApproximateTimeSynchronizer` (ATS) calls back by itself. The rule of Cobot Magic
is written here from its description: reference time = the least of the cameras' newest stamps, then of each stream
the first message at or after it, used once.

"matched" counts loop steps with an observation; "spread" is from the earliest to the latest capture in one, "by
stamps" as the messages say it, "in truth" as it was; "skew" is from the reference time to the sample furthest from
it (ATS has none); "age" is how old the earliest part is when it is handed over. CPU time is what callbacks and the
match take together; "worst" is the longest single call, in which a loop or a callback would wait.
"""

from __future__ import annotations

import argparse
import gc
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import message_filters
import numpy as np
import rospy
from sensor_msgs.msg import Image, JointState

from aloha_kit.config import SyncConfig
from aloha_kit.core import StreamError, VirtualClock
from aloha_kit.sync.soft_sync import SoftSync
from aloha_kit.sync.topics import IMAGE, stream_spec, Topic

CAMERAS = ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist")
ARMS = ("puppet_left", "puppet_right", "master_left", "master_right")
NAMES = (*CAMERAS, *ARMS)
START = 1_700_000_000.0
MAX_CPU_S = 20.0  # then a method is cut off


@dataclass(frozen=True)
class Case:
    camera_hz: float
    arm_hz: float
    loop_hz: float
    offset_s: float = 0.0  # of the first camera's clock, behind

    def __str__(self) -> str:
        words = f"cameras {self.camera_hz:g} Hz, arms {self.arm_hz:g} Hz, loop {self.loop_hz:g} Hz"
        return words + (f", one camera's clock {1e3 * self.offset_s:g} ms behind" if self.offset_s else "")

    def rate(self, name: str) -> float:
        return self.camera_hz if name in CAMERAS else self.arm_hz


CASES = (
    Case(50, 100, 50),
    Case(30, 100, 30),
    Case(30, 100, 50),
    Case(30, 200, 30),
    Case(50, 100, 50, offset_s=0.09),
)


@dataclass
class Delivery:
    """One message on its way."""

    arrival: float
    name: str
    captured: float
    message: Any


def deliveries(case: Case, seconds: float) -> list[Delivery]:
    """Free-running drivers, in the order of arrival."""
    rng, found = np.random.default_rng(0), []
    for name in NAMES:
        camera = name in CAMERAS
        period = (1 + rng.uniform(-1e-3, 1e-3)) / case.rate(name)
        count = int(seconds / period)
        captured = START + rng.uniform(0, period) + period * np.arange(count) + rng.normal(
            0, 0.002 if camera else 0.0005, count
        )  # fmt: skip
        arrival = np.maximum.accumulate(captured + 0.001 + rng.exponential(0.004 if camera else 0.001, count))
        for row in np.flatnonzero(rng.random(count) >= 0.005):
            message = Image() if camera else JointState()
            behind = case.offset_s if name == CAMERAS[0] else 0.0
            message.header.stamp = rospy.Time.from_sec(captured[row] - behind)
            message.header.seq = int(row) + 1
            found.append(Delivery(arrival[row], name, captured[row], message))
    return sorted(found, key=lambda delivery: delivery.arrival)


def stamp_ns(message: Any) -> int:
    return int(message.header.stamp.secs * 1_000_000_000 + message.header.stamp.nsecs)


class Ours:
    def __init__(self, case: Case, clock_offset_s: float) -> None:
        config = SyncConfig(clock_offset_s=clock_offset_s)
        specs = [stream_spec(name, Topic(f"/{name}", IMAGE, case.rate(name)), config) for name in NAMES]
        self.clock, self.reference_ns = VirtualClock(int(START * 1e9)), 0
        self.sync = SoftSync(specs, self.clock, clock_offset_s=clock_offset_s)

    def add(self, name: str, message: Any) -> None:
        self.sync.add(name, stamp_ns(message), message, message.header.seq)

    def match(self) -> dict[str, Any] | None:
        try:
            matched = self.sync.match()
        except StreamError:
            return None
        self.reference_ns = matched.reference_ns
        return {name: sample.value for name, sample in matched.samples.items()}


class Approximate:
    def __init__(self, queue_size: int, slop: float) -> None:
        self.clock, self.reference_ns = VirtualClock(), 0
        self.inputs = {name: message_filters.SimpleFilter() for name in NAMES}
        self.found: dict[str, Any] | None = None
        ats = message_filters.ApproximateTimeSynchronizer(list(self.inputs.values()), queue_size, slop)
        ats.registerCallback(self._matched)

    def _matched(self, *messages: Any) -> None:
        self.found = dict(zip(NAMES, messages, strict=True))

    def add(self, name: str, message: Any) -> None:
        self.inputs[name].signalMessage(message)

    def match(self) -> dict[str, Any] | None:
        """The last one since the step before."""
        found, self.found = self.found, None
        return found


class FirstAfterMinimum:
    def __init__(self) -> None:
        self.clock, self.reference_ns = VirtualClock(), 0
        self.queues: dict[str, deque[Any]] = {name: deque(maxlen=2000) for name in NAMES}

    def add(self, name: str, message: Any) -> None:
        self.queues[name].append(message)

    def match(self) -> dict[str, Any] | None:
        if not all(self.queues[name] for name in CAMERAS):
            return None
        frame_time = min(stamp_ns(self.queues[name][-1]) for name in CAMERAS)
        if any(not queue or stamp_ns(queue[-1]) < frame_time for queue in self.queues.values()):
            return None
        found = {}
        for name, queue in self.queues.items():
            while stamp_ns(queue[0]) < frame_time:
                queue.popleft()
            found[name] = queue.popleft()
        self.reference_ns = frame_time
        return found


@dataclass
class Measured:
    """What one method did in one case."""

    steps: int = 0
    seconds: float = 0.0  # of stream time
    cpu: float = 0.0
    worst: float = 0.0
    stamped: list[float] = field(default_factory=list)  # spreads
    true: list[float] = field(default_factory=list)
    skews: list[float] = field(default_factory=list)
    ages: list[float] = field(default_factory=list)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        before = time.thread_time()
        result = function(*arguments)
        spent = time.thread_time() - before
        self.cpu, self.worst = self.cpu + spent, max(self.worst, spent)
        return result

    def row(self, name: str, finished: bool) -> str:
        matched = f"{len(self.true) / self.steps:.1%}" + ("" if finished else f" (cut off at {self.seconds:.0f} s)")
        each = f"{1e6 * self.cpu / len(self.true):.0f}" if self.true else "–"
        cells = [name, matched, _ms(self.stamped), _ms(self.true), _ms(self.skews), _ms(self.ages), each]
        return f"| {' | '.join(cells)} | {self.cpu / self.seconds:.2%} | {1e3 * self.worst:.2f} |"


def _ms(values: list[float]) -> str:
    return " / ".join(f"{1e3 * np.percentile(values, percent):.1f}" for percent in (50, 99)) if values else "–"


def measure(method: Any, messages: list[Delivery], case: Case) -> tuple[Measured, bool]:
    """Deliver everything; whether it got to the end."""
    measured, row, step = Measured(), 0, 0
    captured = {id(delivery.message): delivery.captured for delivery in messages}
    warm_up = int(case.loop_hz)  # a second that counts for nobody
    while row < len(messages):
        step += 1
        now = START + step / case.loop_hz
        while row < len(messages) and messages[row].arrival <= now:
            delivery = messages[row]
            method.clock.sleep_until(int(delivery.arrival * 1e9))
            measured.call(method.add, delivery.name, delivery.message)
            row += 1
        method.clock.sleep_until(int(now * 1e9))
        found = measured.call(method.match)
        measured.seconds = now - START
        if step > warm_up:
            measured.steps += 1
            if found:
                stamps = [stamp_ns(message) / 1e9 for message in found.values()]
                times = [captured[id(message)] for message in found.values()]
                measured.stamped.append(max(stamps) - min(stamps))
                measured.true.append(max(times) - min(times))
                measured.ages.append(now - min(times))
                if method.reference_ns and not case.offset_s:  # a corrected stamp is not the message's
                    measured.skews.append(max(abs(stamp - method.reference_ns / 1e9) for stamp in stamps))
        if measured.cpu > MAX_CPU_S:
            return measured, False
    return measured, True


def methods(case: Case) -> Iterator[tuple[str, Any]]:
    yield "ours", Ours(case, clock_offset_s=0.1)
    if case.offset_s:
        yield "ours, `clock_offset_s: 0.05`", Ours(case, clock_offset_s=0.05)
    yield "ATS, queue 10, slop 0.05", Approximate(10, 0.05)
    yield "ATS, queue 50, slop 0.1", Approximate(50, 0.1)
    yield "first after minimum", FirstAfterMinimum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the streams")
    options = parser.parse_args()
    rospy.rostime.set_rostime_initialized(True)  # ATS reads the time; there is no node
    gc.disable()  # a collection over all of the messages to come would be taken for one call's time
    print(f"{options.seconds:g} s of streams, load average {os.getloadavg()[0]:.1f}\n")
    print(
        "| | matched | spread by stamps, p50 / p99 ms | in truth | skew | age | CPU µs a match | of a core | worst ms |"
    )
    print("|---" * 9 + "|")
    for case in CASES:
        messages = deliveries(case, options.seconds)
        print(f"| **{case}** |" + " |" * 8)
        for name, method in methods(case):
            measured, finished = measure(method, messages, case)
            print(measured.row(name, finished), flush=True)


if __name__ == "__main__":
    main()
