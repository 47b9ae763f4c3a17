"""Asynchronous inference: chunks are predicted in a thread, so that a slow network never blocks the control loop.

numpy alone, like `execution`: the network may be in this process or on another machine.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.control.chunk_boundary import ChunkSchedule, ON_TIME
from aloha_kit.control.execution import checked, ChunkProvenance
from aloha_kit.core import (
    Action,
    ChunkSource,
    ConfigError,
    ContractError,
    HoldStill,
    Observation,
    SafetyError,
    StopEpisode,
)
from aloha_kit.core.lang import Message
from aloha_kit.core.own_code import described

LOST = (ConnectionError, TimeoutError)


@dataclass(frozen=True)
class _Inference:
    episode: int
    step: int  # the one that the observation is of
    observation: Observation
    fresh: bool  # no chunk has come in this episode, so the source is reset first
    started_ns: int


class AsyncInferencePolicy:
    """A policy that executes chunks which one background thread predicts.

    `ChunkSchedule` makes actions of the chunks. Where no chunk covers the present step, the arms hold still
    (`HoldStill`), and it is counted. After a lost connection or a time-out (`ConnectionError`, `TimeoutError`)
    inference starts again with the newest observation; any other error of the source ends the episode.

    Args:
        source: called, and reset, in the background thread only.
        rate_hz: the control rate.
        ensemble_weight, inference_interval, fade: see `ChunkSchedule`; an inference is expected to take as long as the
            slowest of the last ten.
        budget_s: the longest that a step waits for a chunk, where none covers it.
        first_s: the longest that the first step of an episode waits.
        hold_s: the longest to hold still in a row before the episode is ended.
        now_ns: the clock that inferences are timed with.

    Raises:
        ConfigError: a setting that makes no sense.
    """

    def __init__(
        self,
        source: ChunkSource,
        rate_hz: float,
        *,
        ensemble_weight: float | None = None,
        inference_interval: int | None = None,
        fade: int = 0,
        budget_s: float = 0.0,
        first_s: float = 30.0,
        hold_s: float = 2.0,
        now_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        if inference_interval is not None and inference_interval < 1:
            raise ConfigError(
                "inference_interval must be at least 1 step, given {inference_interval}",
                inference_interval=inference_interval,
            )
        if min(budget_s, first_s, hold_s) < 0:
            raise ConfigError(
                "times must not be negative, given budget {budget_s}, first {first_s}, hold {hold_s} s",
                budget_s=budget_s,
                first_s=first_s,
                hold_s=hold_s,
            )
        self._source, self._rate = source, rate_hz
        self._ensemble_weight, self._interval, self._fade = ensemble_weight, inference_interval, fade
        self._budget_s, self._first_s, self._now = budget_s, first_s, now_ns
        self._hold_s, self._hold_steps = hold_s, math.ceil(hold_s * rate_hz)
        self._turn = threading.Condition()  # guards everything below
        self._running: _Inference | None = None
        self._took: deque[int] = deque(maxlen=10)  # ns
        self._counts: Counter[str] = Counter()
        self._held: Counter[str] = Counter()
        self._delays: list[int] = []  # steps
        self._closed = False
        self._episode = 0
        self._start_episode()
        self._worker = threading.Thread(target=self._work, name="chunks", daemon=True)
        self._worker.start()

    def _start_episode(self) -> None:
        self._episode += 1
        self._schedule = ChunkSchedule(
            ensemble_weight=self._ensemble_weight, inference_interval=self._interval, fade=self._fade
        )
        self._step = 0  # the one that is waited for, or the next one
        self._fresh = True
        self._holding = 0
        self._failure: tuple[_Inference, BaseException] | None = None
        self._why = ON_TIME

    @property
    def provenance(self) -> ChunkProvenance | None:
        """Chunks of the last action; None before the first, and while the arms hold still."""
        return self._schedule.provenance

    def reset(self) -> None:
        """Begin a new episode; the result of an inference that is still running is discarded."""
        with self._turn:
            self._start_episode()

    def close(self) -> None:
        """End the thread; one that is blocked in the source is abandoned."""
        with self._turn:
            self._closed = True
            self._turn.notify_all()
        self._worker.join(timeout=1.0)

    def act(self, observation: Observation) -> Action:
        """The command for the present step; returns or raises within `budget_s` (`first_s` at an episode's start).

        Raises:
            HoldStill: no chunk covers the step.
            SafetyError: the source failed, its first chunk did not come, or holding lasted longer than `hold_s`.
            StopEpisode: from the source.
        """
        with self._turn:
            try:
                return self._play(observation)
            finally:
                self._step += 1

    def report(self) -> dict[str, Any]:
        """Since construction, ready for JSON: inferences, chunks that came, those that came after their last
        step, steps held by reason, and the delay from an observation to its chunk in steps."""
        with self._turn:
            delays = np.array(self._delays or [0])
            return {
                "inferences": self._counts["inferences"],
                "chunks": self._counts["chunks"],
                "late": self._counts["late"],
                "held": dict(self._held.most_common()),
                "delay_steps": {"p50": float(np.median(delays)), "max": int(delays.max())},
            }

    def _play(self, observation: Observation) -> Action:
        step = self._step
        end = time.monotonic() + (self._budget_s if step else self._first_s)
        self._infer(step, observation)
        while (action := self._schedule.action(step)) is None and self._failure is None:
            if (left := end - time.monotonic()) <= 0:
                break
            self._turn.wait(left)
            self._infer(step, observation)
        self._raise_failure(step)
        if action is None:
            raise self._missing(step)
        self._holding = 0
        return action

    def _infer(self, step: int, observation: Observation) -> None:
        if self._running is not None or not self._schedule.due(step, self._lead()):
            return
        self._running = _Inference(self._episode, step, observation, self._fresh, self._now())
        self._schedule.last_inference = step
        self._counts["inferences"] += 1
        self._turn.notify_all()

    def _lead(self) -> int:
        """Steps that an inference takes, with one to spare."""
        return math.ceil(max(self._took, default=0) * self._rate / 1e9) + 1

    def _missing(self, step: int) -> Exception:
        if step == 0:
            return SafetyError("no first chunk within {first_s:g} s: {why}", first_s=self._first_s, why=self._explain())
        self._holding += 1
        if self._holding > self._hold_steps:
            return SafetyError(
                "step {step}: held still for {hold_steps} steps ({hold_s:g} s): {why}",
                step=step,
                hold_steps=self._hold_steps,
                hold_s=self._hold_s,
                why=self._explain(),
            )
        self._held[self._why] += 1
        return HoldStill(self._why)

    def _explain(self) -> str:
        if self._running is None:
            return self._why
        running = (self._now() - self._running.started_ns) / 1e9
        waiting = Message(
            "the policy has no chunk yet for the observation of step {step} for {seconds:.1f} s",
            step=self._running.step,
            seconds=running,
        )
        return waiting if self._why == ON_TIME else Message("{now} (before: {why})", now=waiting, why=self._why)

    def _raise_failure(self, step: int) -> None:
        if self._failure is None:
            return
        inference, error = self._failure
        if isinstance(error, StopEpisode):
            raise error
        raise SafetyError(
            "step {step}: the policy failed on the observation of step {seen}: {error}",
            step=step,
            seen=inference.step,
            error=described(error),
        ) from error

    def _work(self) -> None:
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._running is not None or self._closed)
                if self._closed:
                    return
                inference = self._running
            assert inference is not None
            rows, error = None, None
            try:
                if inference.fresh:
                    self._source.reset()
                # copied, since a source may fill the same array again
                rows = np.array(checked(self._source.predict_chunk(inference.observation)))
            except BaseException as failure:
                error = failure
            if isinstance(error, LOST):
                time.sleep(1 / self._rate)  # or a refused connection would be tried again in a tight loop
            with self._turn:
                self._running = None
                if inference.episode == self._episode:
                    self._take(inference, rows, error)
                self._turn.notify_all()

    def _take(self, inference: _Inference, rows: npt.NDArray[np.float32] | None, error: BaseException | None) -> None:
        if isinstance(error, LOST):
            self._why, self._schedule.last_inference = str(error) or type(error).__name__, None
            return
        if rows is None:
            self._failure = inference, error or SafetyError("no chunk")
            return
        try:
            on_time = self._schedule.add(inference.step, rows, self._step)
        except ContractError as odd:
            self._failure = inference, odd
            return
        self._fresh, self._why = False, ON_TIME
        self._took.append(self._now() - inference.started_ns)
        self._counts["chunks"] += 1
        self._delays.append(self._step - inference.step)
        self._counts["late"] += not on_time
