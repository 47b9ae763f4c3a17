"""Where the time goes, on a stopwatch that the test turns."""

from __future__ import annotations

from typing import Any

import dm_env
import numpy as np
import pytest

from aloha_kit.core import VirtualClock
from aloha_kit.loop import LatencyReport, Outcome, run_episode
from tests.loop.fake_rig import FakeRig

MS = 1_000_000


class Stopwatch:
    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        return self.ns

    def pass_ms(self, ms: float) -> None:
        self.ns += round(ms * MS)


class SlowRig(FakeRig):
    def __init__(self, watch: Stopwatch, durations: Any) -> None:
        super().__init__(len(durations))
        self._watch, self._durations = watch, durations

    def step(self, action: Any) -> dm_env.TimeStep:
        self._watch.pass_ms(self._durations[self._step])
        return super().step(action)


class Chunked:
    """Prepares for 2 ms and computes for 10 ms on every second step, and takes 0.5 ms to answer."""

    def __init__(self, watch: Stopwatch, latency: LatencyReport) -> None:
        self._watch, self._latency, self._calls = watch, latency, 0

    def reset(self) -> None:
        self._calls = 0

    def act(self, observation: Any) -> Any:
        if self._calls % 2 == 0:
            with self._latency.measure("preprocessing"):
                self._watch.pass_ms(2)
                with self._latency.measure("network"):
                    self._watch.pass_ms(10)
        self._calls += 1
        self._watch.pass_ms(0.5)
        return np.zeros(2, np.float32)


class SlowObserver:
    def __init__(self, watch: Stopwatch) -> None:
        self._watch = watch

    def on_reset(self, timestep: Any) -> None:
        self._watch.pass_ms(1)

    def on_step(self, action: Any, timestep: Any) -> None:
        self._watch.pass_ms(3)

    def on_end(self, outcome: Any) -> None:
        self._watch.pass_ms(100)


def test_stages_and_percentiles_are_those_of_the_samples() -> None:
    watch = Stopwatch()
    durations = np.random.default_rng(3).uniform(1, 12, 20).round(2)
    latency = LatencyReport(50.0, now_ns=watch)
    run_episode(SlowRig(watch, durations), latency.watch(Chunked(watch, latency)), [latency, SlowObserver(watch)])
    recording = np.array([1.0] + [3.0] * 19)
    thinking = np.where(np.arange(20) % 2 == 0, 12.0, 0.0)
    total = recording + thinking + 0.5 + durations
    report = latency.report()
    expected = {
        "observation": durations,
        "preprocessing": np.full(10, 2.0),
        "network": np.full(10, 10.0),
        "command": np.full(20, 0.5),
        "recording": recording,
        "total": total,
    }
    assert list(report["stages"]) == list(expected)
    for stage, samples in expected.items():
        row = report["stages"][stage]
        assert row["count"] == len(samples)
        assert row["max"] == pytest.approx(samples.max())
        assert row["p50"] == pytest.approx(np.percentile(samples, 50))
        assert row["p99"] == pytest.approx(np.percentile(samples, 99))
    assert report["steps"] == 20
    assert report["missed"] is None
    assert latency.table().splitlines()[-1] == "simulated time: a step may take as long as it needs"
    assert f"{np.percentile(total, 99):.2f}" in latency.table()


def test_waiting_for_the_deadline_is_not_work() -> None:
    watch, clock = Stopwatch(), VirtualClock()
    latency = LatencyReport(50.0, clock=clock, now_ns=watch)

    class Paced(FakeRig):
        def step(self, action: Any) -> dm_env.TimeStep:
            timestep = super().step(action)
            watch.pass_ms(18)  # of which all but 4 are sleep
            clock.sleep_until(timestep.observation["stamps"]["deadline"] + 4 * MS)
            return timestep

    class Quick:
        def reset(self) -> None: ...

        def act(self, observation: Any) -> Any:
            watch.pass_ms(next(took))
            return np.zeros(2, np.float32)

    took = iter([1, 1, 17, 1, 1, 15])
    run_episode(Paced(6), latency.watch(Quick()), [latency])
    stages = latency.report()["stages"]
    assert stages["observation"]["max"] == pytest.approx(4.0)
    assert stages["total"]["p50"] == pytest.approx(5.0)
    assert stages["total"]["max"] == pytest.approx(21.0)
    assert latency.report()["missed"] == 1
    assert latency.table().splitlines()[-1] == "1 of 6 steps (16.7%) took longer than the period of 20 ms"


def test_several_episodes_add_up_and_time_between_them_does_not() -> None:
    watch = Stopwatch()
    latency = LatencyReport(50.0, now_ns=watch)
    for _ in range(3):
        run_episode(SlowRig(watch, [5.0, 5.0]), latency.watch(Chunked(watch, latency)), [latency, SlowObserver(watch)])
    report = latency.report()
    assert report["steps"] == 6
    assert report["stages"]["recording"]["max"] == pytest.approx(3.0)


def test_nothing_measured_is_no_error() -> None:
    latency = LatencyReport(25.0, clock=VirtualClock())
    latency.on_end(Outcome(0, 0.0, 0.0, "complete"))
    assert latency.report() == {"period_ms": 40.0, "steps": 0, "missed": 0, "stages": {}}
    assert "0 of 0 steps (0.0%)" in latency.table()


def test_work_beside_the_loop_has_rows_of_its_own_and_no_part_in_the_total() -> None:
    watch = Stopwatch()
    latency = LatencyReport(50.0, now_ns=watch)
    run_episode(SlowRig(watch, [3, 3]), latency.watch(Chunked(watch, latency)), [latency])
    before = latency.report()
    for ms in (40, 60):
        with latency.beside("preprocessing"):
            watch.pass_ms(ms)
    report = latency.report()
    assert report["stages"].pop("async preprocessing") == pytest.approx({"p50": 50, "p99": 59.8, "max": 60, "count": 2})
    assert report == before
    head, *rows, _ = latency.table().splitlines()
    assert len({len(row) for row in (head, *rows)}) == 1
    assert rows[-1].split()[:3] == ["async", "preprocessing", "50.00"]
