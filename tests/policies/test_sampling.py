"""A sampling policy draws by rollout and inference: whatever the batch, here or over the server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from aloha_kit.config.policies import CnnMlpConfig
from aloha_kit.core import Observation
from aloha_kit.core.inputs import read
from aloha_kit.data.batch import Batch
from aloha_kit.eval.batched_inference import BatchedInference
from aloha_kit.eval.shared_buffer import SharedBuffer
from aloha_kit.policies.chunk_policy import ChunkPolicy
from aloha_kit.policies.cnnmlp import CnnMlpNetwork
from aloha_kit.policies.collate import Collator
from aloha_kit.policies.engine import blank, check, draws_of, Engine, prepare
from aloha_kit.policies.engine_compile import compiled
from aloha_kit.policies.generator import BatchGenerator, Draw
from aloha_kit.remote import PolicyServer, RemotePolicy, ServedPolicy
from aloha_kit.testing.policies import check_network, contract_of, stats_of

CONTRACT = contract_of({"top": (12, 16)})


@dataclass(frozen=True)
class NoisyConfig(CnnMlpConfig):
    network: ClassVar[str] = "tests.policies.test_sampling:Noisy"


SMALL = NoisyConfig(
    chunk_size=3,
    hidden_dim=16,
    keypoints=2,
    backbone_layers=1,
    backbone_width=16,
    backbone_norm="group",
    pretrained_backbone=False,
)


class Noisy(CnnMlpNetwork):
    samples = True

    def predict(self, batch: Batch, generator: BatchGenerator | None = None) -> Tensor:
        generator = generator or self.default_generator(batch)
        chunk = super().predict(batch)
        return chunk + 0.1 * generator.normal(self.chunk_size, self.action_dim).to(chunk.device)


@pytest.fixture(scope="module")
def network() -> Noisy:
    torch.manual_seed(0)
    return Noisy(SMALL, CONTRACT, stats_of(CONTRACT)).eval()


def observation(seed: int) -> Observation:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Observation(qpos=rng.normal(size=14).astype(np.float32), images={"top": image}, stamps={})


def test_contract(tmp_path: Path) -> None:
    check_network(lambda: Noisy(SMALL, CONTRACT, stats_of(CONTRACT)), CONTRACT, tmp_path)


def test_a_generator_for_each_row() -> None:
    both = BatchGenerator([(1, 2), (3, 4)])
    one = BatchGenerator([(3, 4)])
    for _ in range(2):
        assert torch.equal(both.normal(5)[1:], one.normal(5))
    drawn = BatchGenerator([(0, n) for n in range(200)]).uniform(20)
    assert 0 <= float(drawn.min()) < 0.01 < 0.99 < float(drawn.max()) < 1
    assert len(drawn.unique()) > 3990


def test_rollouts_and_inferences_count_up(network: Noisy) -> None:
    look = observation(0)

    def rollouts(policy: ChunkPolicy, count: int) -> list[bytes]:
        chunks = []
        for _ in range(count):
            policy.reset()
            chunks += [policy.predict_chunk(look).tobytes() for _ in range(2)]
        return chunks

    chunks = rollouts(ChunkPolicy(network, seed=7), 3)
    assert len(set(chunks)) == 6
    torch.manual_seed(5)  # which is nothing to it
    assert rollouts(ChunkPolicy(network, seed=7), 3) == chunks
    assert rollouts(ChunkPolicy(network, seed=8), 2) == chunks[2:]


def test_a_batch_changes_no_bit(network: Noisy) -> None:
    buffer, seeds = SharedBuffer(4, CONTRACT, network.chunk_size), [(5, 0), (9, 3), (5, 1), (6, 0)]
    for row, seed in enumerate(seeds):
        buffer.put_observation(row, observation(row), seed)
    infer = BatchedInference(network, buffer, 4)
    infer([0, 1, 2, 3])
    together = [buffer.chunk(row) for row in range(4)]
    for row in (2, 0):
        infer([row])
        np.testing.assert_array_equal(buffer.chunk(row), together[row])
    policy = ChunkPolicy(network)
    policy.seed(9, 3)
    np.testing.assert_allclose(policy.predict_chunk(observation(1)), together[1], atol=1e-5)


def test_a_client_decides_what_is_drawn(network: Noisy) -> None:
    served = ServedPolicy(ChunkPolicy(network, seed=100), CONTRACT, network.chunk_size, {})
    here, look = ChunkPolicy(network, seed=7), observation(0)
    with PolicyServer(served, "127.0.0.1", 0, "secret").running() as server:
        first, other = (RemotePolicy(f"127.0.0.1:{server.port}", "secret", timeout_s=60.0, seed=7) for _ in range(2))
        here.reset()
        first.reset()
        for _ in range(2):
            np.testing.assert_array_equal(first.predict_chunk(look), here.predict_chunk(look))
            other.reset()  # another client's rollouts in between
            other.predict_chunk(look)
        first.close()
        other.close()


def test_engines(network: Noisy) -> None:
    engine = prepare(network, precision="bf16", example=blank(network, 1))
    assert engine.checked is not None
    assert engine.checked.of_std < 0.05, "compared with other random numbers"


def drawn(network: Noisy, engine: Engine, seed: int) -> tuple[Tensor, Tensor]:
    """The chunk of an engine, and that of eager fp32, with the same seed."""
    batch = Collator("cpu")({name: rows[None] for name, rows in read(observation(0), CONTRACT).items()})
    with torch.inference_mode():
        return engine(batch, BatchGenerator([(seed, 1)])), network.predict(batch, BatchGenerator([(seed, 1)]))


def test_a_compiled_policy_draws_at_each_inference(network: Noisy) -> None:
    example = blank(network, 1)
    draws = draws_of(network, example)
    assert draws == [Draw("normal", (network.chunk_size, network.action_dim))]
    torch._dynamo.reset()
    engine = Engine("compile", "fp32", compiled(network.predict, example, draws, backend="aot_eager"))
    assert check(engine, network, example).of_std < 1e-4
    for seed in (3, 4):
        ours, theirs = drawn(network, engine, seed)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(drawn(network, engine, 3)[0], drawn(network, engine, 4)[0], atol=1e-3)


def test_openvino_draws_at_each_inference(network: Noisy) -> None:
    engine = prepare(network, engine="openvino", example=blank(network, 1))
    for seed in (3, 4):
        ours, theirs = drawn(network, engine, seed)
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert torch.equal(drawn(network, engine, 3)[0], drawn(network, engine, 3)[0])
    assert not torch.allclose(drawn(network, engine, 3)[0], drawn(network, engine, 4)[0], atol=1e-3)
