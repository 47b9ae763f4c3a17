"""Matching, case by case with numbers worked out by hand; against brute force in `test_soft_sync_property.py`."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from aloha_kit.core import StreamError, VirtualClock, WallClock
from aloha_kit.sync.soft_sync import SoftSync
from tests.sync.sync_bench import Bench, MS, spec, START, values


def test_the_nearest_sample_to_the_newest_time_that_all_have_reached() -> None:
    bench = Bench(spec("camera", 30), spec("arm", 100))
    for stamp in (0, 33, 66):
        bench.add("camera", stamp, at=stamp)
    for stamp in (51, 61, 71, 81):
        bench.add("arm", stamp, at=stamp)
    matched = bench.sync.match()
    assert matched.reference_ns == START + 66 * MS
    assert values(bench) == {"camera": 66, "arm": 71}  # 61 and 71 are equally near: the newer
    assert matched.skew_ns("arm") == 5 * MS
    assert matched.skew_ns("camera") == 0
    assert matched.samples["arm"].arrival_ns == START + 71 * MS
    assert bench.sync.health()["arm"].skew_s == 0.005


def test_a_message_that_comes_late_is_put_where_it_belongs() -> None:
    bench = Bench(spec("camera"), spec("arm", 100))
    bench.add("camera", 40, at=42)
    for stamp in (20, 30, 50, 60):
        bench.add("arm", stamp, at=stamp + 50)
    assert values(bench)["arm"] == 50
    bench.add("arm", 41, at=112)
    assert values(bench)["arm"] == 41
    health = bench.sync.health()["arm"]
    assert (health.out_of_order, health.count) == (1, 5)


def test_a_message_later_than_what_is_kept_is_counted_only() -> None:
    bench = Bench(spec("arm"), keep_s=0.1)
    bench.add("arm", 300, at=302)
    bench.add("arm", 100, at=303)
    assert values(bench) == {"arm": 300}
    assert bench.sync.health()["arm"].out_of_order == 1


def test_a_repeated_stamp_is_not_a_new_sample() -> None:
    bench = Bench(spec("arm"))
    bench.add("arm", 0, "first", at=1)
    bench.add("arm", 20, "second", at=21)
    for stamp in (0, 20):
        bench.add("arm", stamp, "again", at=22)
    assert values(bench) == {"arm": "second"}
    assert bench.sync.health()["arm"].duplicates == 2


def test_a_stream_without_messages_is_silent() -> None:
    bench = Bench(spec("camera", source="/usb_cam_high/image_raw"), spec("arm"))
    bench.add("arm", 0)
    words = r"^stream 'camera' \(/usb_cam_high/image_raw\) is silent: no message yet, bound 0.25 s$"
    with pytest.raises(StreamError, match=words):
        bench.sync.match()
    with pytest.raises(StreamError, match=words):
        bench.sync.newest("camera")
    assert bench.sync.newest("arm").value == 0


def test_a_stream_that_stopped_is_silent() -> None:
    bench = Bench(spec("camera"))
    bench.add("camera", 0, at=3)
    bench.at(250)
    assert values(bench) == {"camera": 0}
    bench.at(300)
    with pytest.raises(StreamError, match=r"^stream 'camera' is silent: no message for 0.297 s, bound 0.25 s$"):
        bench.sync.match()


def test_a_stamp_that_stands_still_is_frozen() -> None:
    bench = Bench(spec("camera"))
    for ms in range(0, 300, 20):
        bench.add("camera", 0, at=ms)
    words = r"^stream 'camera' is frozen: messages come, but no new stamp for 0.280 s, bound 0.25 s$"
    with pytest.raises(StreamError, match=words):
        bench.sync.match()


def test_old_news_is_late() -> None:
    bench = Bench(spec("camera"))
    bench.run("camera", samples=5)
    bench.add("camera", 100, at=400)
    with pytest.raises(StreamError, match=r"^stream 'camera' is late: its newest sample is 0.300 s old, bound 0.25 s$"):
        bench.sync.match()


@pytest.mark.parametrize(("arm", "skew"), [((20, 90), "30.0 ms before"), ((75, 90), "25.0 ms after")])
def test_a_sample_too_far_from_the_reference_is_out_of_bound(arm: tuple[int, int], skew: str) -> None:
    bench = Bench(spec("camera"), spec("arm"))
    bench.add("camera", 50, at=51)
    for stamp in arm:
        bench.add("arm", stamp, at=stamp + 1)
    bench.at(140)
    words = (
        f"^stream 'arm' is out of bound: its nearest sample is {skew} the reference time, bound 20.0 ms;"
        " its newest is 0.050 s old$"
    )
    with pytest.raises(StreamError, match=words):
        bench.sync.match()
    assert bench.sync.health()["arm"].worst_skew_s == 0.0  # nothing was matched


def test_every_stream_that_fails_is_named() -> None:
    bench = Bench(spec("left"), spec("right"))
    with pytest.raises(StreamError, match=r"stream 'left' is silent.*; stream 'right' is silent"):
        bench.sync.match()


def test_unknown_streams_are_named_with_the_nearest() -> None:
    bench = Bench(spec("images/cam_high"))
    with pytest.raises(StreamError, match=r"no stream 'images/cam_hi'\. Did you mean 'images/cam_high'\?"):
        bench.sync.newest("images/cam_hi")
    with pytest.raises(StreamError, match="no stream 'qpos'"):
        bench.add("qpos", 0)


def test_no_required_stream_is_no_sync() -> None:
    with pytest.raises(ValueError, match="needs a required stream: it gives the reference time"):
        Bench(spec("camera", required=False))


def test_an_optional_stream_is_left_out_when_it_cannot_serve() -> None:
    bench = Bench(spec("arm"), spec("extra", required=False))
    bench.run("arm")
    assert values(bench) == {"arm": 380}
    bench.add("extra", 340)
    assert values(bench) == {"arm": 380}  # 40 ms away
    bench.add("extra", 375)
    assert values(bench) == {"arm": 380, "extra": 375}
    bench.run("arm", start_ms=400)
    assert values(bench) == {"arm": 780}


class Feeding(VirtualClock):
    """A clock that gives a message when it is waited for, as another thread would."""

    def __init__(self) -> None:
        super().__init__(START)
        self.due: list[tuple[int, Callable[[], None]]] = []

    def sleep_until(self, deadline_ns: int) -> None:
        super().sleep_until(deadline_ns)
        while self.due and self.due[0][0] <= deadline_ns:
            self.due.pop(0)[1]()


def test_patience_lets_the_gap_of_a_lost_message_close() -> None:
    clock = Feeding()
    bench = Bench(spec("camera"), spec("arm"), clock=clock)
    bench.add("camera", 50, at=51)
    bench.add("arm", 75, at=76)
    clock.due = [(START + 82 * MS, lambda: bench.add("camera", 80))]
    with pytest.raises(StreamError, match=r"'arm' is out of bound: its nearest sample is 25\.0 ms after"):
        bench.sync.match(0.005)
    assert clock.now_ns() == START + 81 * MS
    assert bench.sync.match(0.02).reference_ns == START + 75 * MS
    assert clock.now_ns() == START + 82 * MS


def test_waiting_ends_when_clocks_are_known_and_streams_match() -> None:
    clock = Feeding()
    bench = Bench(spec("camera"), spec("arm"), clock=clock)

    def both(ms: int) -> Callable[[], None]:
        return lambda: (bench.add("camera", ms), bench.add("arm", ms))[0]

    clock.due = [(START + ms * MS, both(ms)) for ms in range(0, 1000, 20)]
    assert bench.sync.wait(1.0).reference_ns == START + 180 * MS  # the tenth


def test_waiting_states_which_streams_are_not_ready() -> None:
    bench = Bench(spec("camera"), spec("arm"), spec("leader"))
    bench.run("arm", samples=3)
    bench.run("leader", samples=20)
    words = (
        r"^streams are not ready after 0.1 s: stream 'camera' is silent: no message yet, bound 0.25 s;"
        r" stream 'arm' is silent: no message for 0.440 s, bound 0.25 s$"
    )
    with pytest.raises(StreamError, match=words):
        bench.sync.wait(0.1)
    bench.run("arm", start_ms=482, samples=1)
    with pytest.raises(StreamError, match="stream 'arm' is starting: 4 of 10 samples"):
        bench.sync.wait(0.0)


class Settable(VirtualClock):
    """A simulated time that can start again."""

    def set(self, ms: int) -> None:
        self._now = START + ms * MS


def test_time_that_starts_again_forgets_all_samples() -> None:
    clock = Settable(START)
    bench = Bench(spec("camera"), spec("arm"), clock=clock)
    bench.run("camera")
    bench.run("arm", start_ms=400)
    assert bench.sync.newest("arm").value == 780
    clock.set(0)
    with pytest.raises(StreamError, match=r"'camera' is silent: no message yet.*'arm' is silent: no message yet"):
        bench.sync.match()
    bench.add("camera", 10, at=12)
    bench.add("arm", 10)
    assert values(bench) == {"camera": 10, "arm": 10}
    assert [health.restarts for health in bench.sync.health().values()] == [1, 1]


def test_clearing_forgets_samples_and_keeps_counts() -> None:
    bench = Bench(spec("camera"))
    bench.run("camera")
    bench.sync.clear()
    with pytest.raises(StreamError, match="no message yet"):
        bench.sync.match()
    assert bench.sync.health()["camera"].count == 20


def test_callbacks_from_many_threads() -> None:
    clock = WallClock()
    names = [f"camera{index}" for index in range(4)]
    sync = SoftSync([spec(name, 1000) for name in names], clock)
    start = threading.Barrier(len(names) + 1)
    failures: list[BaseException] = []

    def publish(name: str) -> None:
        try:
            start.wait()
            for seq in range(1, 2001):
                sync.add(name, clock.now_ns(), seq, seq)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=publish, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    start.wait()
    references = []
    while any(thread.is_alive() for thread in threads):
        try:
            references.append(sync.match().reference_ns)
        except StreamError:  # a thread may be kept waiting
            continue
    assert not failures
    assert references == sorted(references)
    health = sync.health().values()
    assert [(seen.count, seen.dropped, seen.duplicates) for seen in health] == [(2000, 0, 0)] * 4
