"""The parent's side: what lies in the shared buffer, and the network that answers it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aloha_kit.core.features import object_poses
from aloha_kit.eval.batched_inference import batch_size, BatchedInference
from aloha_kit.eval.pool import EvaluationError
from aloha_kit.eval.shared_buffer import SharedBuffer
from aloha_kit.policies.chunk_policy import ChunkPolicy
from tests.eval.conftest import CONTRACT, network


def observations(count: int) -> list[dict]:
    rng = np.random.default_rng(1)
    return [
        {
            "qpos": rng.normal(0, 0.1, 14).astype(np.float32),
            "images": {"top": rng.integers(0, 255, (32, 48, 3), np.uint8)},
            "environment_state": rng.normal(size=3).astype(np.float32),
        }
        for _ in range(count)
    ]


def filled(count: int) -> SharedBuffer:
    buffer = SharedBuffer(count, CONTRACT, chunk_size=6)
    for row, observation in enumerate(observations(count)):
        buffer.put_observation(row, observation)
    return buffer


def test_a_row_holds_what_the_policy_may_read_and_no_more() -> None:
    contract = CONTRACT.with_sensors(object_poses(("x", "y", "z")))
    buffer, seen = SharedBuffer(3, contract, chunk_size=2), observations(3)
    for row in (0, 2):
        buffer.put_observation(row, seen[row])
    given = buffer.read([2, 0])
    np.testing.assert_array_equal(given["qpos"], [seen[2]["qpos"], seen[0]["qpos"]])
    np.testing.assert_array_equal(given["images/top"][0], seen[2]["images"]["top"])
    np.testing.assert_array_equal(given["environment_state"][0], seen[2]["environment_state"])
    assert not buffer.read([1])["images/top"].any()
    assert "environment_state" not in SharedBuffer(1, CONTRACT, chunk_size=2).read([0])
    chunk = np.arange(28, dtype=np.float32).reshape(2, 14)
    buffer.put_chunk(1, chunk)
    taken = buffer.chunk(1)
    buffer.put_chunk(1, chunk + 1)
    np.testing.assert_array_equal(taken, chunk)


def test_one_at_a_time_is_what_deployment_computes() -> None:
    buffer, net = filled(3), network()
    BatchedInference(net, buffer, size=1)([2])
    np.testing.assert_array_equal(buffer.chunk(2), ChunkPolicy(net).predict_chunk(observations(3)[2]))
    assert not buffer.chunk(0).any()


def test_on_a_cpu_any_number_at_a_time_is_what_deployment_computes() -> None:
    buffer, net = filled(5), network()
    assert batch_size(net, 5) == 1
    BatchedInference(net, buffer, batch_size(net, 5))(range(5))
    for row, observation in enumerate(observations(5)):
        np.testing.assert_array_equal(buffer.chunk(row), ChunkPolicy(net).predict_chunk(observation))
    assert batch_size(net.to("meta"), 5) == 5  # any device but a CPU


def test_a_chunk_does_not_depend_on_the_other_rows() -> None:
    buffer, net = filled(8), network()
    infer = BatchedInference(net, buffer, size=8)
    infer(range(8))
    together = [buffer.chunk(row) for row in range(8)]
    for rows in ([5], [7, 5, 1], [0, 5, 2, 3, 6]):
        infer(rows)
        for row in rows:
            np.testing.assert_array_equal(buffer.chunk(row), together[row])
    for row, observation in enumerate(observations(8)):
        np.testing.assert_allclose(together[row], ChunkPolicy(net).predict_chunk(observation), atol=1e-5)


def test_a_device_that_cannot_is_reported_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()

    def fail(batch: object, generator: object) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nand a long story")

    monkeypatch.setattr(net, "predict", fail)
    with pytest.raises(EvaluationError, match=r"on 4 observations at once: CUDA out of memory\. .*9 GiB\. If memory"):
        BatchedInference(net, filled(2), size=4).warm_up()
