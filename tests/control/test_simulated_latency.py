"""A slow network in virtual time: against a reckoning by hand, the executors without a delay, and the thread."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from aloha_kit.control.async_inference import AsyncInferencePolicy
from aloha_kit.control.execution import ChunkExecutor, ChunkProvenance, TemporalEnsemble
from aloha_kit.control.simulated_latency import Execution, SimulatedLatencyPolicy
from aloha_kit.core import ChunkSource, ConfigError, HoldStill, Observation
from tests.waiting import until

RATE = 50.0
LENGTH = 12


class Source:
    """Rows that depend on the observation's step alone; records the step of each inference."""

    def __init__(self) -> None:
        self.requested: list[int] = []
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1

    def predict_chunk(self, observation: Observation) -> npt.NDArray[np.float32]:
        self.requested.append(observation["step"])
        return rows(observation["step"])


def rows(step: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(step).normal(size=(LENGTH, 2)).astype(np.float32)


def play(policy: Any, steps: int = 60) -> list[Any]:
    """The action of each step, None where it holds."""
    policy.reset()
    actions = []
    for step in range(steps):
        try:
            actions.append(policy.act({"step": step}).tolist())
        except HoldStill:
            actions.append(None)
    return actions


@pytest.mark.parametrize("delay", [1, 3, 5])
def test_a_chunk_is_played_from_its_delay_on(delay: int) -> None:
    source = Source()
    played = play(SimulatedLatencyPolicy(source, delay), 40)
    assert source.requested == list(range(0, 40, LENGTH - delay))
    for step, action in enumerate(played):
        # the newest chunk that is there: the first at once, the others `delay` steps after their inference began
        begun = max(requested for requested in source.requested if requested == 0 or requested + delay <= step)
        assert action == rows(begun)[step - begun].tolist()


def test_a_chunk_that_takes_longer_than_half_of_one_leaves_steps_to_hold() -> None:
    source = Source()
    policy = SimulatedLatencyPolicy(source, 8)
    play(policy, 17)
    with pytest.raises(HoldStill, match="no chunk in time"):
        policy.act({"step": 17})
    played = play(policy, 30)
    # begun at 4, there at 12; the next one, begun then, is there at 20, when this one has ended at 16
    assert source.requested[3:] == [0, 4, 12, 20, 28]
    assert [step for step, action in enumerate(played) if action is None] == [16, 17, 18, 19, 24, 25, 26, 27]
    assert played[20] == rows(12)[8].tolist()
    assert policy.provenance == ChunkProvenance(step=29, newest=20, oldest=20, chunks=1, row=9, boundary=False)


@pytest.mark.parametrize("n_action_steps", [None, 1, 5])
def test_without_delay_it_is_the_executor_without_one(n_action_steps: int | None) -> None:
    mine, plain = Source(), Source()
    assert play(SimulatedLatencyPolicy(mine, 0, inference_interval=n_action_steps)) == play(
        ChunkExecutor(plain, n_action_steps)
    )
    assert mine.requested == plain.requested
    mine, plain = Source(), Source()
    ours = play(SimulatedLatencyPolicy(mine, 0, ensemble_weight=0.1, inference_interval=n_action_steps))
    assert ours == play(TemporalEnsemble(plain, 0.1, inference_interval=n_action_steps or 1))
    assert mine.requested == plain.requested


def test_averaging_takes_late_chunks_as_they_come_one_inference_at_a_time() -> None:
    source = Source()
    policy = SimulatedLatencyPolicy(source, 3, ensemble_weight=0.5)
    played = play(policy, 30)
    assert source.requested == [0, *range(1, 30, 3)]  # the first one is there at once
    weights = np.exp([0, -0.5, -1.0])
    by_hand = np.stack([rows(13)[10], rows(16)[7], rows(19)[4]])  # step 23: 22 is not there yet, 10 has ended
    np.testing.assert_allclose(played[23], weights / weights.sum() @ by_hand, atol=1e-6)


def test_a_horizon_leaves_rows_to_fade_over() -> None:
    played = play(SimulatedLatencyPolicy(Source(), 0, inference_interval=6, fade=10), 12)  # a quarter of 12 is 3
    old, new = rows(0).astype(float), rows(6).astype(float)
    expected = [old[6], (2 * old[7] + new[1]) / 3, (old[8] + 2 * new[2]) / 3, new[3]]
    np.testing.assert_allclose(played[6:10], expected, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [{}, {"fade": 2}, {"ensemble_weight": 0.1}, {"inference_interval": 4}, {"inference_interval": 4, "fade": 2}],
    ids=str,
)
@pytest.mark.parametrize("delay", [1, 3, 8])
def test_it_is_what_the_thread_does_when_answers_take_as_long(settings: dict[str, Any], delay: int) -> None:
    """The thread's source answers when the step has come; its stopwatch shows one period less, which it sets aside."""
    requested, mine = threading.Semaphore(0), Source()

    class Slow(Source):
        def predict_chunk(self, observation: Observation) -> npt.NDArray[np.float32]:
            if observation["step"]:
                requested.acquire()
            return super().predict_chunk(observation)

    periods = itertools.cycle([0, (delay - 1) * 20_000_000])
    theirs = Slow()
    policy = AsyncInferencePolicy(theirs, RATE, now_ns=lambda: next(periods), **settings)
    policy.reset()
    played, known, due = [], 1, None
    for step in range(60):
        if due == step:
            requested.release()
            until(lambda known=known: policy.report()["chunks"] > known, "the chunk", 60.0)
            known, due = known + 1, None
        try:
            played.append(policy.act({"step": step}).tolist())
        except HoldStill:
            played.append(None)
        if due is None and policy.report()["inferences"] > known:
            due = step + delay
    assert played == play(SimulatedLatencyPolicy(mine, delay, **settings))
    assert len(theirs.requested) >= len(mine.requested) - 1  # the last one may still be waiting
    assert theirs.requested == mine.requested[: len(theirs.requested)]
    requested.release()
    policy.close()


def test_an_episode_begins_anew() -> None:
    source = Source()
    policy = SimulatedLatencyPolicy(source, 3, fade=2)
    first = play(policy, 17)
    assert policy.provenance is not None
    policy.reset()
    assert policy.provenance is None
    assert play(policy, 17) == first
    assert source.resets == 3


def test_a_source_may_reuse_its_array_and_a_caller_may_write_into_the_action() -> None:
    shared = np.ones((9, 2), np.float32)

    class Same(Source):
        def predict_chunk(self, observation: Observation) -> Any:
            return shared

    policy = SimulatedLatencyPolicy(Same(), 2)
    policy.act({})[:] = 99.0
    shared[:] = 50.0
    assert policy.act({}).tolist() == [1.0, 1.0]


def test_settings_that_make_no_sense_are_answered() -> None:
    with pytest.raises(ConfigError, match="delay must be at least 0 steps, given -1"):
        SimulatedLatencyPolicy(Source(), -1)
    with pytest.raises(ConfigError, match="a delay of 12 steps leaves nothing of a chunk of 12 actions"):
        SimulatedLatencyPolicy(Source(), 12).act({"step": 0})


@pytest.mark.parametrize(
    ("how", "kind", "interval"),
    [
        (Execution(), ChunkExecutor, 40),
        (Execution(n_action_steps=7), ChunkExecutor, 7),
        (Execution(temporal_agg=True), TemporalEnsemble, 1),
        (Execution(temporal_agg=True, n_action_steps=3), TemporalEnsemble, 3),
        (Execution(chunk_boundary="blend"), SimulatedLatencyPolicy, 30),
        (Execution(delay=5), SimulatedLatencyPolicy, 35),
        (Execution(delay=5, chunk_boundary="blend"), SimulatedLatencyPolicy, 25),
        (Execution(delay=5, chunk_boundary="blend", n_action_steps=20), SimulatedLatencyPolicy, 20),
        (Execution(delay=30), SimulatedLatencyPolicy, 30),
        (Execution().with_default(8, 40), ChunkExecutor, 8),
        (Execution().with_default(50, 40), ChunkExecutor, 40),
        (Execution().with_default(None, 40), ChunkExecutor, 40),
        (Execution(n_action_steps=7).with_default(8, 40), ChunkExecutor, 7),
        (Execution(temporal_agg=True).with_default(8, 40), TemporalEnsemble, 1),
        (Execution(delay=5, chunk_boundary="blend").with_default(8, 40), SimulatedLatencyPolicy, 8),
        (Execution(delay=5, temporal_agg=True), SimulatedLatencyPolicy, 5),
    ],
    ids=str,
)
def test_flags_make_the_executor_that_infers_as_often_as_given(how: Execution, kind: type, interval: int) -> None:
    class Long(Source):
        def predict_chunk(self, observation: Observation) -> npt.NDArray[np.float32]:
            return np.repeat(super().predict_chunk(observation)[:1], 40, axis=0)

    source: ChunkSource = Long()
    policy = how.executor(source)
    assert type(policy) is kind
    assert how.interval(40) == interval
    play(policy, 130)
    assert np.diff(source.requested[1:]).tolist() == [interval] * (len(source.requested) - 2)
