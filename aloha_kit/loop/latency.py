"""Latency of a control step by stage, and whether it fits in the period."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import dm_env
import numpy as np

from aloha_kit.core import Action, Clock, Observation, Outcome, Policy
from aloha_kit.core.lang import tr

STAGES = ("observation", "preprocessing", "network", "command", "recording", "total")


class LatencyReport:
    """Latency of the loop by stage: an observer, and the outermost policy.

    `observation` runs from the step's deadline to the observation in hand (in simulated time, where
    nothing waits, physics and rendering); `network` and `preprocessing` are what the policy's author
    measures with `measure`; `command` is the rest of `act` (ensembling, limits); `recording` is the
    other observers; `total` is their sum, which has to fit in the period. Stages that a step does
    not run (inference once a chunk) are not counted as zeros. Work of another thread is timed
    with `beside`; its rows begin with "async" and are no part of `total`.

    Put it first among the observers, and the policy through `watch` last, outside the guard.

    Args:
        rate_hz: the control rate.
        clock: the environment's clock where time is real, so that waiting for the deadline is not
            taken for work; None where time is virtual.
        now_ns: the stopwatch.

    Attributes:
        last: {stage: ms} of the last step, `total` among them.
    """

    def __init__(
        self, rate_hz: float, *, clock: Clock | None = None, now_ns: Callable[[], int] = time.perf_counter_ns
    ) -> None:
        self.period_ms = 1000 / rate_hz
        self._clock, self._now = clock, now_ns
        self._samples: dict[str, list[float]] = {stage: [] for stage in STAGES}
        self.last: dict[str, float] = {}
        self._open: list[str] = []
        self._step: dict[str, int] = {}
        self._mark = now_ns()

    @contextlib.contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Count the time inside as `stage`, and not as the stage around it."""
        start = self._now()
        self._open.append(stage)
        try:
            yield
        finally:
            spent = self._now() - start
            self._open.pop()
            self._step[stage] = self._step.get(stage, 0) + spent
            if self._open:
                self._step[self._open[-1]] = self._step.get(self._open[-1], 0) - spent

    @contextlib.contextmanager
    def beside(self, stage: str) -> Iterator[None]:
        """Count the time inside as `async <stage>`: work of another thread, which no step waits for."""
        start = self._now()
        try:
            yield
        finally:
            self._samples.setdefault(f"async {stage}", []).append((self._now() - start) / 1e6)

    def watch(self, policy: Policy) -> Policy:
        """`policy`, timed."""
        return _TimedPolicy(policy, self)

    def on_reset(self, timestep: dm_env.TimeStep) -> None:
        self._step, self._mark = {}, self._now()

    def act(self, policy: Policy, observation: Observation) -> Action:
        """One timed `policy.act`; used by `watch`."""
        self._step = {"recording": self._now() - self._mark}
        with self.measure("command"):
            action = policy.act(observation)
        self._mark = self._now()
        return action

    def on_step(self, action: Action, timestep: dm_env.TimeStep) -> None:
        now = self._now()
        spent = now - self._mark
        if self._clock is not None:
            after_deadline = self._clock.now_ns() - timestep.observation["stamps"]["deadline"]
            spent = min(spent, max(0, after_deadline))
        self._step["observation"] = spent
        self._step["total"] = sum(self._step.values())
        self.last = {stage: ns / 1e6 for stage, ns in self._step.items()}
        for stage, ms in self.last.items():
            self._samples.setdefault(stage, []).append(ms)
        self._step, self._mark = {}, now

    def on_end(self, outcome: Outcome) -> None:
        self._open.clear()

    def report(self) -> dict[str, Any]:
        """`{"period_ms", "steps", "missed", "stages": {stage: {"p50", "p99", "max", "count"}}}`, times in ms.

        `missed` counts steps whose `total` was longer than the period; None in virtual time, where no step is late.
        Percentiles interpolate linearly between samples.
        """
        stages = {
            stage: {
                "p50": float(np.percentile(values, 50)),
                "p99": float(np.percentile(values, 99)),
                "max": max(values),
                "count": len(values),
            }
            for stage, values in list(self._samples.items())
            if values
        }
        total = self._samples["total"]
        missed = None if self._clock is None else sum(value > self.period_ms for value in total)
        return {"period_ms": self.period_ms, "steps": len(total), "missed": missed, "stages": stages}

    def table(self) -> str:
        """The report for people."""
        report = self.report()
        width = max([14, *(len(stage) + 1 for stage in report["stages"])])
        lines = [f"{'ms':<{width}}{'p50':>9}{'p99':>9}{'max':>9}{'count':>9}"]
        for stage, row in report["stages"].items():
            lines.append(f"{stage:<{width}}{row['p50']:>9.2f}{row['p99']:>9.2f}{row['max']:>9.2f}{row['count']:>9}")
        if report["missed"] is None:
            return "\n".join([*lines, tr("simulated time: a step may take as long as it needs")])
        share = report["missed"] / report["steps"] if report["steps"] else 0.0
        lines.append(
            tr(
                "{missed} of {steps} steps ({share:.1%}) took longer than the period of {period:g} ms",
                missed=report["missed"],
                steps=report["steps"],
                share=share,
                period=self.period_ms,
            )
        )
        return "\n".join(lines)


class _TimedPolicy:
    def __init__(self, policy: Policy, latency: LatencyReport) -> None:
        self._policy, self._latency = policy, latency

    def reset(self) -> None:
        self._policy.reset()

    def act(self, observation: Observation) -> Action:
        return self._latency.act(self._policy, observation)
