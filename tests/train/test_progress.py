"""Time and memory in the progress line, with a clock and a GPU's events made by hand."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch

from aloha_kit.core.metrics_file import MetricsFile, read_metrics
from aloha_kit.train.progress import Progress
from aloha_kit.train.run_folder import Run
from aloha_kit.train.timing import Lap, OtherProcesses, Timing
from tests.train.job import COLUMNS

CPU = torch.device("cpu")


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def go(timing: Timing, clock: Clock, *, data: float, step: float, after: float, device: torch.device = CPU) -> None:
    """One turn of the loop."""
    timing.batch_requested()
    clock.now += data
    timing.batch_ready()
    clock.now += step
    timing.step_done(device)
    clock.now += after


def test_a_lap_is_divided_without_remainder() -> None:
    clock = Clock()
    timing = Timing(clock)
    clock.now += 50  # before the loop begins: nobody's
    go(timing, clock, data=1.0, step=3.0, after=0.5)
    go(timing, clock, data=0.5, step=2.0, after=0.0)
    assert timing.lap() == Lap(steps=2, data=1.5, step=5.0, other=0.5)
    clock.now += 7  # a validation after the log's row belongs to the next one
    go(timing, clock, data=0.0, step=1.0, after=0.25)
    assert timing.lap() == Lap(steps=1, data=0.0, step=1.0, other=7.25)
    assert timing.lap() == Lap(steps=0, data=0.0, step=0.0, other=0.0)


def test_a_gpu_is_timed_by_its_own_events_and_data_it_does_not_wait_for_cost_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, gpu = Clock(), torch.device("cuda", 0)
    device_ms = iter([0.0, 400.0, 400.0, 800.0])  # when two steps begin and end, one after the other

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: str) -> None:
            assert stream == "queue of cuda:0"
            self.at = next(device_ms)

        def elapsed_time(self, end: Event) -> float:
            return end.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"queue of {device}")
    timing = Timing(clock)
    go(timing, clock, data=0.0, step=1.0, after=0.0, device=gpu)  # the first is timed here
    assert timing.lap() == Lap(steps=1, data=0.0, step=1.0, other=0.0)
    for _ in range(2):  # queued in 10 ms each, while the loader takes 100
        go(timing, clock, data=0.1, step=0.01, after=0.0, device=gpu)
    clock.now += 0.68  # waited for, for the log's row
    lap = timing.lap()
    assert (lap.steps, lap.step) == (2, 0.8)
    assert lap.data == pytest.approx(0.1)  # of 0.9 s the GPU was at work for 0.8
    assert lap.other == pytest.approx(0)


def test_what_is_slow_is_named() -> None:
    fine = Lap(10, data=0.1, step=9.0, other=0.5)
    assert fine.bottleneck(fine) == "step"
    hungry = Lap(10, data=3.0, step=7.0, other=0.0)
    assert hungry.bottleneck(fine + hungry) == "data (try --cache disk or device, or more --workers)"
    judged = Lap(10, data=0.0, step=1.0, other=9.0)
    assert judged.bottleneck(fine + fine + fine + fine + fine + judged) == "step"  # for all the session that is little
    expected = "validation, rollouts and checkpoints (try a larger --val_every or --eval_every)"
    assert fine.bottleneck(fine + judged) == expected


def test_the_line_states_time_memory_and_bottleneck(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    monkeypatch.setattr("aloha_kit.train.progress.Timing", lambda: Timing(clock))
    monkeypatch.setattr("aloha_kit.train.progress.memory_of", lambda device: 1.54e9)
    monkeypatch.setattr("aloha_kit.train.progress.PLAIN_SECONDS", 0.0)
    monkeypatch.setattr("aloha_kit.train.progress.OtherProcesses.text", lambda others, threads: "")
    caplog.set_level("INFO", "aloha_kit")
    progress = Progress(Run(tmp_path), first_step=0, num_steps=101, columns=COLUMNS)

    def loader() -> object:
        while True:
            clock.now += data_s
            yield {}

    def steps(first: int, last: int, limit_s: float | None = None) -> str:
        for step, _ in enumerate(progress.timed(loader()), start=first):  # type: ignore[arg-type]
            clock.now += 0.3
            losses = {"loss": torch.tensor(0.5), "l1": torch.tensor(0.25)}
            progress.add(step, 8, losses, torch.tensor(1.0), 1e-4)
            if step == last:
                progress.flush(step, clock.now, limit_s)
                break
        return caplog.messages[-1]

    with progress:
        data_s = 0.1
        start = "loss 0.5000, lr 1.0e-04, data 100.0 ms, step 300 ms, 20 samples/s, 1.5 GB"
        advice = "bottleneck: data (try --cache disk or device, or more --workers)"
        assert steps(1, 10) == f"Training 10/101: {start}, 00:36 left, {advice}"
        progress.report(10, {"val_loss": 0.75, "val_deployed": 0.8})
        clock.now += 1.0  # validating: 50 ms for each of 20 steps, as it will go on
        data_s = 0.0
        start = "loss 0.5000 (val 0.8000), lr 1.0e-04, data 0.0 ms, step 300 ms, 27 samples/s, 1.5 GB"
        assert steps(11, 20) == f"Training 20/101: {start}, 00:28 left, bottleneck: step"
        clock.now += 8.0  # checkpoints on a slow disk
        slow = "bottleneck: validation, rollouts and checkpoints (try a larger --val_every or --eval_every)"
        assert steps(21, 30, limit_s=clock.now + 8.4).endswith(f"00:05 left, {slow}")
    rows = [row for row in read_metrics(tmp_path / "metrics.csv") if "loss" in row]
    assert [row["data_ms"] for row in rows] == pytest.approx([100, 0, 0])
    assert [row["step_ms"] for row in rows] == pytest.approx([300, 300, 300])


@pytest.mark.parametrize(
    ("num_steps", "limit_s", "done", "expected"),
    [
        (10**9, None, 3, r"at \d\.\d s a step, 1000000000 steps will take \d+\.\d days; take act_cpu$"),
        (10**9, None, 0, r"will take at least \d+\.\d days; take act_cpu$"),
        (10**9, 3600.0, 3, None),
        (200, None, 3, None),
    ],
)
def test_a_training_that_would_take_days_is_reported_at_its_beginning(
    num_steps: int,
    limit_s: float | None,
    done: int,
    expected: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("aloha_kit.train.progress.ESTIMATE_SECONDS", 0.3)
    progress = Progress(
        Run(tmp_path),
        first_step=0,
        num_steps=num_steps,
        columns=COLUMNS,
        show=False,
        limit_s=limit_s,
        advice="; take act_cpu",
    )
    with progress:
        for step, _ in enumerate(progress.timed(iter([{}] * (done + 1)))):  # type: ignore[list-item]
            if step == done:
                timer = progress._estimate_timer
                assert timer is not None
                timer.join(60)
            else:
                progress.add(step + 1, 8, {"loss": torch.tensor(0.5)}, torch.tensor(1.0), 1e-4)
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == (expected is not None)
    assert expected is None or re.search(expected, warnings[0])


def test_the_estimate_waits_for_the_first_step_of_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("aloha_kit.train.progress.ESTIMATE_SECONDS", 0.01)
    with Progress(Run(tmp_path), first_step=0, num_steps=10**9, columns=COLUMNS, show=False) as progress:
        next(iter(progress.timed(iter([{}]))))  # type: ignore[list-item]
        first = progress._estimate_timer
        assert first is not None
        first.join(60)
        assert progress._estimate_timer is not first
        assert not caplog.records


def test_a_busy_machine_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, own = [100.0], [5.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.process_time", lambda: own[0])
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    stat, ticks = tmp_path / "stat", os.sysconf("SC_CLK_TCK")

    def after(seconds: float, others: float) -> str:
        """Ten more seconds, of which this process takes `seconds` and the others take `others` on all cores."""
        now[0], own[0] = now[0] + 10, own[0] + seconds
        counts[0] += round((seconds + others) * ticks)
        stat.write_text(f"cpu  {counts[0]} 10 20 999999 777 1 2 3 0 0\ncpu0 1 2 3\n")
        return load.text(threads=2)

    counts = [1000]
    stat.write_text(f"cpu  {counts[0]} 10 20 999 777 1 2 3 0 0\n")
    load = OtherProcesses(stat)
    assert after(20, others=1) == ""
    assert after(20, others=20) == "", "two of four cores are left to two threads"
    assert after(12, others=27) == "; the machine is busy, other processes use 2.7 of 4 cores"
    stat.unlink()
    assert load.text(threads=2) == "", "no Linux"


def test_an_old_column_is_read_and_continued_under_its_new_name(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    file.write_text("step,loss,success_rate,horizon\n10,0.5,,\n20,0.25,0.5,140\n30,0.125,1,120\n")
    before = [{"step": 10.0, "loss": 0.5}, {"step": 20.0, "loss": 0.25, "success_rate": 0.5, "rollout_steps": 140.0}]
    assert read_metrics(file)[:2] == before
    MetricsFile(file, ["step", "loss", "success_rate", "rollout_steps"], after=20).add(
        {"step": 25, "rollout_steps": 99}
    )
    assert file.read_text().splitlines()[0] == "step,loss,success_rate,rollout_steps"
    assert read_metrics(file) == [*before, {"step": 25.0, "rollout_steps": 99.0}]
