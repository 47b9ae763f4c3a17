"""A feature of a role without a rule in the package, and a history, from episodes to actions on every path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aloha_kit.control.execution import ChunkExecutor
from aloha_kit.control.history import with_history
from aloha_kit.core import ContractError, Observation
from aloha_kit.core.inputs import blank, read
from aloha_kit.data.camera_frames import DirectFrames
from aloha_kit.data.index import read_table
from aloha_kit.data.loader import Loader
from aloha_kit.eval.batched_inference import BatchedInference
from aloha_kit.eval.shared_buffer import SharedBuffer
from aloha_kit.formats import open_source
from aloha_kit.policies import checkpoint
from aloha_kit.policies.chunk_policy import ChunkPolicy
from aloha_kit.policies.engine import blank as blank_batch
from aloha_kit.policies.engine import check, Engine, probes
from aloha_kit.policies.network import ChunkNetwork
from aloha_kit.remote import PolicyServer, RemotePolicy, ServedPolicy
from aloha_kit.train.preflight import thumbnails
from tests.policies.test_networks import act, cnnmlp
from tests.storage.recording import record, Rig
from tests.train.job import job, trainer, TRAINING

STEPS = 3
RIG = Rig(sizes={"top": (24, 32)}, wrench=True)
SETTINGS: dict[str, Any] = {"sensors": ("sensors/wrench",), "n_obs_steps": STEPS, "use_environment_state": True}
POLICIES = {"act": act(**SETTINGS, backbone_layers=1), "cnnmlp": cnnmlp(**SETTINGS, backbone_layers=1, chunk_size=5)}


@pytest.fixture(scope="module", params=POLICIES)
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ChunkNetwork:
    """Trained for a few steps on recorded episodes, and read back from its checkpoint."""
    folder = tmp_path_factory.mktemp(request.param)
    for _ in range(3):
        record(folder / "episodes", 20, RIG)
    table = read_table(open_source(folder / "episodes"), sensors=("sensors/wrench",))
    made = job(folder / "run", table, TRAINING.__class__(**{**vars(TRAINING), "num_steps": 3, "augment": True}),
               policy=POLICIES[request.param])  # fmt: skip
    trainer(made).fit()
    return checkpoint.load(folder / "run" / "checkpoints" / "last")


def windows() -> list[Observation]:
    """The observations of some steps, each with its history."""
    seen = [RIG.observation(row) for row in range(STEPS + 2)]
    return [{**seen[i], "history": seen[i - STEPS + 1 : i]} for i in range(STEPS - 1, len(seen))]


def test_the_checkpoint_states_what_it_reads(network: ChunkNetwork) -> None:
    poses, sensor = network.contract.sensors
    assert (poses.name, poses.role) == ("environment_state", "privileged")
    assert (sensor.name, sensor.role, sensor.entries, sensor.optional) == (
        "sensors/wrench", "wrench", ("force", "torque"), False,
    )  # fmt: skip
    differences = network.contract.differences(Rig().contract)
    assert "wrench 'sensors/wrench' is missing; there are: environment_state" in differences


def test_each_input_counts_at_each_step(network: ChunkNetwork) -> None:
    policy, (seen, *_) = ChunkPolicy(network), windows()
    chunk = policy.predict_chunk(seen)
    assert chunk.shape == (5, 14)
    for step in range(STEPS):
        for key, changed in {
            "qpos": RIG.qpos(9),
            "environment_state": np.ones(3, np.float32),
            "sensors": {"wrench": np.array([5, -5], np.float32)},
            "images": {"top": np.full((24, 32, 3), 200, np.uint8)},
        }.items():
            steps: list[Any] = [*seen["history"], seen]
            steps[step] = {**steps[step], key: changed}
            other: Any = {**steps[-1], "history": steps[:-1]}
            assert not np.array_equal(policy.predict_chunk(other), chunk), (step, key)


def test_a_wrong_or_missing_sensor_is_named(network: ChunkNetwork) -> None:
    policy, (seen, *_) = ChunkPolicy(network), windows()
    with pytest.raises(ContractError, match=r"sensors/wrench must have 2 entries \(force … torque\), given"):
        policy.predict_chunk({**seen, "sensors": {"wrench": np.zeros(3, np.float32)}})
    with pytest.raises(ContractError, match="the observation has no 'sensors/wrench'"):
        policy.predict_chunk({**seen, "sensors": {}})


def test_batched_evaluation_and_a_server_give_what_deployment_gives(network: ChunkNetwork) -> None:
    policy, seen = ChunkPolicy(network), windows()
    wanted = [policy.predict_chunk(observation) for observation in seen]
    buffer = SharedBuffer(len(seen), network.contract, network.chunk_size, STEPS)
    infer = BatchedInference(network, buffer, size=1)
    served = ServedPolicy(policy, network.contract, network.chunk_size, {}, STEPS, 2)
    with PolicyServer(served, "127.0.0.1", 0, "token").running() as server:
        one, two = (RemotePolicy(f"127.0.0.1:{server.port}", "token", timeout_s=60.0) for _ in range(2))
        assert (one.n_obs_steps, one.n_action_steps) == (STEPS, 2)
        for row, observation in enumerate(seen):
            buffer.put_observation(row, observation)
            infer([row])
            np.testing.assert_array_equal(buffer.chunk(row), wanted[row])
            np.testing.assert_array_equal(one.predict_chunk(observation), wanted[row])
            two.reset()  # touches no other client's history
            two.predict_chunk(blank(network.contract, STEPS))
        one.close()
        two.close()


def test_two_sessions_of_one_source_do_not_mix(network: ChunkNetwork) -> None:
    source = ChunkPolicy(network)
    alone, other = (with_history(ChunkExecutor(source, 1), STEPS, ("top",)) for _ in range(2))
    wanted = [alone.act(RIG.observation(row)) for row in range(4)]
    alone.reset()
    found = []
    for row in range(4):
        found.append(alone.act(RIG.observation(row)))
        other.reset()
        other.act(RIG.observation(40 + row))
    np.testing.assert_array_equal(found, wanted)


def test_probes_of_an_engine_have_every_input_at_every_step(network: ChunkNetwork) -> None:
    example = blank_batch(network, 2)
    assert example["images"]["top"].shape == (2, STEPS, 3, 24, 32)
    assert example["sensors/wrench"].shape == (2, STEPS, 2)  # type: ignore[typeddict-item]
    for batch in probes(network, example):
        assert {name: value.shape for name, value in batch.items() if name != "images"} == {
            name: value.shape for name, value in example.items() if name != "images"
        }
    assert check(Engine("openvino", "fp32", network.predict), network, example).of_std == 0


def test_the_preflight_looks_at_the_newest_step(tmp_path: Path) -> None:
    for _ in range(2):
        record(tmp_path, 12, RIG)
    table = read_table(open_source(tmp_path))
    frames = DirectFrames(table, {"top": (24, 32)}, workers=1)
    one, three = (thumbnails(table, Loader(table, frames, 5, n_obs_steps=n), seed=0).images["top"] for n in (1, STEPS))
    np.testing.assert_array_equal(one, three)


def test_one_step_is_read_as_it_is() -> None:
    arrays = read(RIG.observation(4), RIG.contract)
    assert {name: array.shape for name, array in arrays.items()} == {
        "qpos": (14,), "images/top": (24, 32, 3), "environment_state": (3,), "sensors/wrench": (2,),
    }  # fmt: skip
    assert not any(torch.from_numpy(array).any() for array in read(blank(RIG.contract), RIG.contract).values())
