"""Chunk execution and temporal ensembling against a slow loop that keeps everything."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from aloha_kit.control.execution import ChunkExecutor, ChunkProvenance, TemporalEnsemble
from aloha_kit.core import ConfigError, ContractError, Observation, StopEpisode


class Script:
    """A source that gives prepared chunks in turn and counts the inferences."""

    def __init__(self, chunks: npt.NDArray[np.float32]) -> None:
        self.chunks, self.requested, self.resets = chunks, 0, 0

    def reset(self) -> None:
        self.requested, self.resets = 0, self.resets + 1

    def predict_chunk(self, observation: Observation) -> npt.NDArray[np.float32]:
        self.requested += 1
        return self.chunks[self.requested - 1]


NOTHING: Observation = {}


def chunks(count: int, length: int, dim: int = 14, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, length, dim)).astype(np.float32)


def slow_ensemble(
    made: npt.NDArray[Any], steps: int, ensemble_weight: float, inference_interval: int
) -> npt.NDArray[np.float64]:
    """Every prediction for every step in a list, averaged one by one."""
    actions = []
    for step in range(steps):
        found = []
        for inference, chunk in enumerate(made):
            begun = inference * inference_interval
            if begun <= step < begun + len(chunk):
                found.append(chunk[step - begun].astype(np.float64))
        weights = [np.exp(-ensemble_weight * i) for i in range(len(found))]
        actions.append(sum(w * a for w, a in zip(weights, found, strict=True)) / sum(weights))
    return np.array(actions)


@pytest.mark.parametrize("ensemble_weight", [0.01, 0.0, 0.5, -0.2])
@pytest.mark.parametrize(("length", "inference_interval"), [(5, 1), (5, 2), (6, 3), (7, 5), (4, 4), (1, 1)])
def test_ensemble_is_the_slow_one(ensemble_weight: float, length: int, inference_interval: int) -> None:
    steps = 23
    made = chunks(-(-steps // inference_interval), length)
    policy = TemporalEnsemble(Script(made), ensemble_weight, inference_interval=inference_interval)
    policy.reset()
    got = np.array([policy.act(NOTHING) for _ in range(steps)])
    np.testing.assert_allclose(got, slow_ensemble(made, steps, ensemble_weight, inference_interval), atol=1e-6)
    assert got.dtype == np.float32


def test_a_prediction_of_exact_zeros_counts_like_any_other() -> None:
    made = chunks(8, 4)
    made[2] = 0.0  # "everything to its zero" is a command, not an empty place
    made[5, 1, 3] = 0.0
    policy = TemporalEnsemble(Script(made), 0.01)
    got = np.array([policy.act(NOTHING) for _ in range(8)])
    np.testing.assert_allclose(got, slow_ensemble(made, 8, 0.01, 1), atol=1e-6)
    alone = TemporalEnsemble(Script(np.zeros((3, 4, 14), np.float32)))
    assert [alone.act(NOTHING).any() for _ in range(3)] == [False, False, False]


def test_the_oldest_weighs_most() -> None:
    made = np.zeros((2, 2, 1), np.float32)
    made[0, 1], made[1, 0] = 1.0, 3.0
    policy = TemporalEnsemble(Script(made), 0.01)
    policy.act(NOTHING)
    expected = (1 * 1.0 + np.exp(-0.01) * 3.0) / (1 + np.exp(-0.01))
    assert policy.act(NOTHING) == pytest.approx(expected, abs=1e-6)
    assert expected < 2


def test_memory_is_bounded_and_reset_forgets() -> None:
    made = chunks(300, 6)
    source = Script(made)
    policy = TemporalEnsemble(source)
    for _ in range(300):
        policy.act(NOTHING)
    assert policy._ring is not None
    assert policy._ring.shape == (6, 6, 14)
    policy.reset()
    assert source.resets == 1
    np.testing.assert_array_equal(policy.act(NOTHING), made[0, 0])


def test_a_source_may_reuse_its_array_and_a_caller_may_write_into_the_action() -> None:
    for make in (ChunkExecutor, TemporalEnsemble):
        shared = np.ones((1, 4, 2), np.float32)
        source = Script(np.repeat(shared, 4, axis=0))
        policy = make(source)
        first = policy.act(NOTHING)
        first[:] = 99.0
        assert policy.act(NOTHING).tolist() == [1.0, 1.0]
        assert shared.max() == 1.0


@pytest.mark.parametrize(("n_action_steps", "requested"), [(None, 3), (5, 3), (2, 6), (1, 12)])
def test_chunks_are_played_for_n_action_steps(n_action_steps: int | None, requested: int) -> None:
    made = chunks(12, 5)
    source = Script(made)
    policy = ChunkExecutor(source, n_action_steps)
    policy.reset()
    got = [policy.act(NOTHING) for _ in range(12)]
    length = n_action_steps or 5
    expected = [made[step // length, step % length] for step in range(12)]
    np.testing.assert_array_equal(got, expected)
    assert source.requested == requested
    policy.reset()
    np.testing.assert_array_equal(policy.act(NOTHING), made[0, 0])


def test_an_action_states_which_chunks_it_came_from() -> None:
    policy = ChunkExecutor(Script(chunks(3, 5)), n_action_steps=2)
    assert policy.provenance is None
    for _ in range(5):
        policy.act(NOTHING)
    assert policy.provenance == ChunkProvenance(step=4, newest=4, oldest=4, chunks=1, row=0, boundary=True)
    policy.reset()
    assert policy.provenance is None
    policy.act(NOTHING), policy.act(NOTHING)
    assert policy.provenance == ChunkProvenance(step=1, newest=0, oldest=0, chunks=1, row=1, boundary=False)


def test_an_averaged_action_states_which_chunks_it_came_from() -> None:
    policy = TemporalEnsemble(Script(chunks(9, 5)), inference_interval=2)  # inferences at 0, 2, 4, 6, 8; chunks of 5
    recorded = []
    for _ in range(9):
        policy.act(NOTHING)
        recorded.append(policy.provenance)
    assert recorded[0] == ChunkProvenance(step=0, newest=0, oldest=0, chunks=1, row=0, boundary=True)
    assert recorded[4] == ChunkProvenance(step=4, newest=4, oldest=0, chunks=3, row=0, boundary=True)
    assert recorded[7] == ChunkProvenance(step=7, newest=6, oldest=4, chunks=2, row=1, boundary=False)
    assert recorded[8] == ChunkProvenance(step=8, newest=8, oldest=4, chunks=3, row=0, boundary=True)
    policy.reset()
    assert policy.provenance is None


def test_settings_that_make_no_sense_are_answered() -> None:
    with pytest.raises(ConfigError, match="n_action_steps must be at least 1, given 0"):
        ChunkExecutor(Script(chunks(1, 5)), 0)
    with pytest.raises(ConfigError, match="n_action_steps is 9, and a chunk has 5 actions"):
        ChunkExecutor(Script(chunks(1, 5)), 9).act(NOTHING)
    with pytest.raises(ConfigError, match="inference_interval must be at least 1 step, given 0"):
        TemporalEnsemble(Script(chunks(1, 5)), inference_interval=0)
    with pytest.raises(ConfigError, match="inference_interval 6 leaves steps without a prediction: 5 a chunk"):
        TemporalEnsemble(Script(chunks(1, 5)), inference_interval=6).act(NOTHING)


def test_chunks_of_an_odd_shape_are_answered() -> None:
    class Odd(Script):
        def predict_chunk(self, observation: Observation) -> npt.NDArray[np.float32]:
            return super().predict_chunk(observation)[: 4 - self.requested]

    policy = TemporalEnsemble(Odd(chunks(3, 5)))
    policy.act(NOTHING)
    with pytest.raises(ContractError, match=r"a chunk of shape \(2, 14\) after chunks of \(3, 14\)"):
        policy.act(NOTHING)
    for make in (ChunkExecutor, TemporalEnsemble):
        with pytest.raises(ContractError, match=r"a chunk must be \(K, A\) with K of at least 1, given shape \(14,\)"):
            make(Script(np.zeros((1, 14), np.float32))).act(NOTHING)


def test_a_source_that_ends_the_episode_ends_it() -> None:
    class Finished(Script):
        def predict_chunk(self, observation: Observation) -> npt.NDArray[np.float32]:
            raise StopEpisode("the recording is over")

    with pytest.raises(StopEpisode, match="the recording is over"):
        ChunkExecutor(Finished(chunks(1, 2))).act(NOTHING)
