"""One stream: zero stamps, other clocks, losses, rate, and memory that does not grow."""

from __future__ import annotations

import weakref

import pytest

from aloha_kit.core import StreamError
from tests.sync.sync_bench import Bench, MS, spec, START, values


def test_zero_stamps_count_by_their_arrival_and_say_so() -> None:
    bench = Bench(spec("arm"))
    for ms in (0, 20, 40):
        bench.at(ms)
        bench.sync.add("arm", 0, ms)
    sample = bench.sync.match().samples["arm"]
    assert (sample.stamp_ns, sample.stamped, sample.corrected) == (START + 40 * MS, False, False)
    assert not bench.sync.health()["arm"].stamped


def test_stamps_and_arrivals_do_not_mix() -> None:
    bench = Bench(spec("arm"))
    bench.run("arm", ahead_ms=5000)
    bench.at(420)
    bench.sync.add("arm", 0, "unstamped")
    sample = bench.sync.match().samples["arm"]
    assert (sample.value, sample.stamp_ns) == ("unstamped", START + 420 * MS)
    bench.run("arm", start_ms=440, ahead_ms=5000)
    sample = bench.sync.match().samples["arm"]
    assert (sample.stamped, sample.stamp_ns) == (True, START + 822 * MS)
    assert bench.sync.health()["arm"].restarts == 2


@pytest.mark.parametrize("ahead_ms", [-3_600_000, -500, 500, 3_600_000])
def test_another_machines_clock_is_put_on_ours(ahead_ms: int) -> None:
    bench = Bench(spec("camera"), spec("arm"))
    for ms in range(0, 400, 20):
        bench.add("camera", ms + ahead_ms, at=ms + 2 + ms % 7)  # 2 ms at best
        bench.add("arm", ms + 5, at=ms + 10)
    sample = bench.sync.match().samples["camera"]
    # Its clock's difference and the best delay cannot be distinguished: the best arrival counts as immediate.
    assert abs(sample.stamp_ns - (START + 382 * MS)) < MS // 2
    assert sample.corrected
    health = bench.sync.health()["camera"]
    assert health.corrected
    assert health.offset_s == pytest.approx((2 - ahead_ms) / 1000, abs=0.0005)
    assert not bench.sync.health()["arm"].corrected
    assert bench.sync.health()["arm"].offset_s == pytest.approx(0.005, abs=0.0005)


def test_a_small_offset_is_reported_and_not_corrected() -> None:
    bench = Bench(spec("camera"), clock_offset_s=0.1)
    bench.run("camera", ahead_ms=-90)
    assert bench.sync.match().samples["camera"].stamp_ns == START + 290 * MS
    health = bench.sync.health()["camera"]
    assert (health.corrected, health.offset_s) == (False, pytest.approx(0.092, abs=0.0005))


def test_a_correction_near_the_bound_does_not_come_and_go() -> None:
    bench = Bench(spec("camera"), clock_offset_s=0.1)
    bench.run("camera", delay_ms=110)
    bench.run("camera", start_ms=400, samples=5, delay_ms=95)
    assert bench.sync.health()["camera"].corrected
    bench.run("camera", start_ms=500, samples=5, delay_ms=45)
    assert not bench.sync.health()["camera"].corrected


def test_one_slow_message_at_the_start_does_not_make_an_offset() -> None:
    bench = Bench(spec("camera"), clock_offset_s=0.1)
    bench.add("camera", 0, at=180)
    bench.run("camera", start_ms=180, samples=2, delay_ms=70)
    assert not bench.sync.health()["camera"].corrected


def test_a_stall_does_not_move_the_offset() -> None:
    bench = Bench(spec("camera"))
    bench.run("camera")
    for ms in range(400, 1400, 20):  # a second in which nobody read
        bench.add("camera", ms, at=1400)
    assert bench.sync.health()["camera"].offset_s == pytest.approx(0.002, abs=0.001)


@pytest.mark.parametrize("step_ms", [-7_200_000, -307, 307, 7_200_000])
def test_a_stream_whose_clock_is_set_recovers(step_ms: int) -> None:
    bench = Bench(spec("camera"))
    bench.run("camera")
    bench.run("camera", start_ms=400, samples=6, ahead_ms=step_ms)
    sample = bench.sync.match().samples["camera"]
    assert abs(sample.stamp_ns - (START + 500 * MS)) <= 2 * MS
    assert sample.corrected
    assert bench.sync.health()["camera"].restarts == (step_ms < 0)


def test_a_few_late_messages_in_a_row_are_no_clock_that_was_set() -> None:
    bench = Bench(spec("camera"))
    bench.run("camera")
    bench.add("camera", 500, at=502)
    for stamp in (400, 420, 440, 460):
        bench.add("camera", stamp, at=503)
    assert values(bench) == {"camera": 500}
    assert bench.sync.health()["camera"].restarts == 0


def test_one_absurd_stamp_is_forgotten() -> None:
    bench = Bench(spec("camera"))
    bench.run("camera")
    bench.add("camera", 1e9, at=402)
    bench.run("camera", start_ms=420, samples=5)
    sample = bench.sync.match().samples["camera"]
    assert (sample.value, sample.stamp_ns, sample.corrected) == (500, START + 500 * MS, False)


def test_losses_by_header_seq() -> None:
    bench = Bench(spec("camera"))
    for ms, seq in ((0, 1), (20, 2), (60, 4), (160, 9)):
        bench.add("camera", ms, seq=seq, at=ms + 1)
    assert bench.sync.health()["camera"].dropped == 5
    bench.add("camera", 40, seq=3, at=162)  # late, not lost
    assert bench.sync.health()["camera"].dropped == 4
    for ms, seq in ((180, 1), (200, 2), (220, 5000), (240, 5001)):  # other publishers, counting on their own
        bench.add("camera", ms, seq=seq, at=ms + 1)
    assert bench.sync.health()["camera"].dropped == 4


def test_losses_by_gaps_where_there_is_no_seq() -> None:
    bench = Bench(spec("camera", 50))
    for ms in (0, 21, 39, 100, 119, 200):  # 60, 80 and 140, 160, 180 are missing
        bench.add("camera", ms, at=ms + 1)
    assert bench.sync.health()["camera"].dropped == 5
    bench.add("camera", 160, at=202)
    assert bench.sync.health()["camera"].dropped == 4
    bench.add("camera", 141, at=203)
    assert bench.sync.health()["camera"].dropped == 3
    bench.add("camera", 2200, at=2201)  # 99 are missing
    bench.add("camera", 2180, at=2202)  # one is not
    assert bench.sync.health()["camera"].dropped == 3 + 98


def test_rate_jitter_and_age() -> None:
    bench = Bench(spec("camera", 50))
    for step in range(200):
        if step != 150:
            stamp = 20 * step + (3 if step % 2 else -3)
            bench.add("camera", stamp, at=stamp + 4)
    bench.at(4000)
    health = bench.sync.health()["camera"]
    assert health.rate_hz == pytest.approx(50, rel=0.02)
    assert health.jitter_s == pytest.approx(0.006, rel=0.05)  # steps of 14 and 26 ms
    assert health.age_s == pytest.approx(0.017)
    assert health.problem == ""
    assert health.dropped == 1
    bench.at(5000)
    health = bench.sync.health()["camera"]
    assert (health.rate_hz, health.jitter_s) == (0, 0)
    assert health.problem == "stream 'camera' is silent: no message for 1.013 s, bound 0.25 s"


def test_health_before_the_first_message() -> None:
    health = Bench(spec("camera")).sync.health()["camera"]
    assert (health.age_s, health.count, health.rate_hz) == (float("inf"), 0, 0)


class Image:
    """Something that can be seen to be gone."""


@pytest.mark.parametrize("step_ms", [20, 0.01])  # as set, and a driver that runs wild
def test_memory_is_bounded(step_ms: float) -> None:
    bench = Bench(spec("camera"))
    alive: weakref.WeakSet[Image] = weakref.WeakSet()
    for step in range(2000):
        alive.add(image := Image())
        bench.add("camera", step * step_ms, image, at=step * step_ms)
    del image
    # 0.37 s are kept (age 0.25, skew 0.02, clocks 0.1) and one more: 20 samples; of a wild driver a few times as many
    assert len(alive) == 20 if step_ms == 20 else 60 < len(alive) < 100
    bench.sync.close()
    assert len(alive) == 0
    bench.add("camera", 1e6)
    with pytest.raises(StreamError, match="no message yet"):
        bench.sync.match()
