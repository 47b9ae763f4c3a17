"""Two tasks in one training, told apart by their instructions: from the episodes to rollouts and the policy server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aloha_kit.config import find
from aloha_kit.core import EpisodeError
from aloha_kit.core.inputs import blank
from aloha_kit.core.metrics_file import read_metrics
from aloha_kit.data.dataset import ChunkDataset
from aloha_kit.data.index import read_table
from aloha_kit.data.instructions import Instructions
from aloha_kit.data.loader import Loader
from aloha_kit.formats import open_source
from aloha_kit.policies import checkpoint
from aloha_kit.policies.chunk_policy import ChunkPolicy
from aloha_kit.remote import PolicyServer, RemoteError, RemotePolicy, ServedPolicy
from aloha_kit.storage.label import label
from tests.commands import failure
from tests.synthetic import write_dataset
from tests.tiny import ACT, write_policy

HAND_OVER = "Pick up the red cube with the right arm and hand it over to the left arm."
HOLD = "Pick up the red cube with the right arm and hold it up."
FLAGS = "--policy act.yaml --dataset_dir over hold --batch_size 4 --device cpu --threads 1 --no_preflight"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two folders of episodes with their instructions, a policy that reads them, and short tasks."""
    monkeypatch.chdir(tmp_path)
    for folder, text in (("over", HAND_OVER), ("hold", HOLD)):
        write_dataset(Path(folder), lengths=(20, 16))
        for file in Path(folder).glob("*.hdf5"):
            label(file, instruction=text)
    write_policy(Path("act.yaml"), ACT, text_encoder="table", instruction_dim=4)
    for name in ("sim_transfer_cube", "sim_hold_cube"):
        text = Path(find("tasks", name)).read_text(encoding="utf-8")
        Path(f"{name}.yaml").write_text(text.replace("episode_len: 400", "episode_len: 3"), encoding="utf-8")


@pytest.mark.usefixtures("data")
def test_a_batch_has_the_instruction_of_each_row() -> None:
    table = read_table(open_source("over", "hold"))
    assert table.instructions == (HAND_OVER, HAND_OVER, HOLD, HOLD)
    instructions = Instructions.of_episodes(table.where, table.instructions, "table")
    batch = Loader(table, None, 2, instructions=instructions).batch(np.array([0, 35, 36, 71]))
    one = float(np.float32(np.sqrt(2)))
    assert batch["instruction"].tolist() == [[one, 0], [one, 0], [0, one], [0, one]]
    assert [ChunkDataset(table, 2)[row]["instruction"] for row in (0, 71)] == [HAND_OVER, HOLD]
    label(Path("hold/episode_1.hdf5"), instruction=None)
    table = read_table(open_source("over", "hold"))
    with pytest.raises(
        EpisodeError, match=r"^1 of 4 episodes have no instruction, which .* first is .*episode_1\.hdf5"
    ):
        Instructions.of_episodes(table.where, table.instructions, "table")


@pytest.mark.usefixtures("data")
def test_from_training_to_deployment(capsys: pytest.CaptureFixture[str]) -> None:
    from aloha_kit.deploy.__main__ import main as deploy
    from aloha_kit.eval.__main__ import main as evaluate
    from aloha_kit.train.__main__ import main as train

    both = ["sim_transfer_cube.yaml", "sim_hold_cube.yaml"]
    rollouts = ["--eval_tasks", *both, "--eval_every", "4", "--eval_rollouts", "1", "--val_every", "4"]
    train([*FLAGS.split(), *rollouts, "--ckpt_dir", "whole", "--num_steps", "4", "--schedule", "constant"])
    train([*FLAGS.split(), *rollouts, "--ckpt_dir", "run", "--num_steps", "2", "--schedule", "constant"])
    train(["--resume", "run", "--num_steps", "4"])
    whole, run = (checkpoint.load(f"{folder}/checkpoints/last").state_dict() for folder in ("whole", "run"))
    assert all(torch.equal(whole[key], run[key]) for key in whole), "resume is not bit-exact"
    assert "language.project.weight" in whole
    for folder in ("whole", "run"):
        evaluated = [row for row in read_metrics(Path(folder, "metrics.csv")) if "success_rate" in row][-1]
        assert evaluated["success_rate/sim_transfer_cube"] == evaluated["success_rate/sim_hold_cube"] == 0
        assert evaluated["rollout_steps"] == 3
    unknown = [*FLAGS.split(), *rollouts, "--eval_tasks", both[0], "sim_insertion", "--ckpt_dir", "other"]
    assert "was not trained on the instruction 'Pick up the peg" in failure(train, unknown)
    assert "--eval_tasks names each task once" in failure(train, [*unknown, "--eval_tasks", both[0], both[0]])

    few = ["--ckpt", "run", "--num_rollouts", "1", "--device", "cpu", "--output", "out"]
    tasks = ["--workers", "1", "--task", "sim_transfer_cube.yaml", "sim_hold_cube.yaml"]
    evaluate([*few, *tasks])
    report = json.loads(Path("out/eval.json").read_text())
    assert {name: each["task"]["instruction"] for name, each in report["tasks"].items()} == {
        "sim_transfer_cube": HAND_OVER,
        "sim_hold_cube": HOLD,
    }
    assert report["mean_success"] == {"A": 0.0}
    out = capsys.readouterr().out
    assert "A: success held to the end, by task\n  sim_transfer_cube  0/1 = 0.0%" in out
    assert "  mean               0.0%" in out
    assert f"instruction 'Hold it.'. Known: {HAND_OVER}, {HOLD}." in failure(
        evaluate, [*few, *tasks[:-1], "--instruction", "Hold it."]
    )
    refused = failure(evaluate, [*few, *tasks, "--instruction", HOLD])
    assert "are for one task, given --task sim_transfer_cube.yaml sim_hold_cube.yaml" in refused

    words = [*few, "--task", "sim_transfer_cube.yaml", "--video", "0"]
    assert "was not trained on the instruction 'Hold it.'" in failure(deploy, [*words, "--instruction", "Hold it."])
    deploy([*words, "--instruction", HOLD])
    (recorded,) = Path("out").glob("*.hdf5")
    with open_source(str(recorded)).episode(0) as episode:
        assert episode.attrs["instruction"] == HOLD


@pytest.mark.usefixtures("data")
def test_instructions_that_nothing_reads_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    from aloha_kit.train.__main__ import main as train

    flags = [word for word in FLAGS.split() if word != "--no_preflight"]
    train([*flags, "--preflight_only"])
    assert "instructions" not in capsys.readouterr().out
    train([*flags, "--preflight_only", "--text_encoder", "None"])
    out = capsys.readouterr().out
    assert f"2 different ones, such as '{HAND_OVER}' (2x), '{HOLD}' (2x); the policy reads none" in out
    assert "give --text_encoder table, or a sentence-transformers model" in out


@pytest.mark.usefixtures("data")
def test_the_server_gets_the_instruction_with_each_observation() -> None:
    from aloha_kit.train.__main__ import main as train

    train([*FLAGS.split(), "--ckpt_dir", "run", "--num_steps", "2"])
    network = checkpoint.load("run/checkpoints/last")
    policy = ChunkPolicy(network)
    about: dict[str, Any] = {"policy": {"text_encoder": "table"}}
    served = ServedPolicy(policy, network.contract, network.chunk_size, about)
    observation = blank(network.contract)
    expected = {}
    for text in (HAND_OVER, HOLD):
        policy.instruct(text)
        expected[text] = policy.predict_chunk(observation)
    assert not np.array_equal(expected[HAND_OVER], expected[HOLD])
    with PolicyServer(served, "127.0.0.1", 0, "token").running() as server:
        where = f"127.0.0.1:{server.port}"
        clients = {text: RemotePolicy(where, "token", timeout_s=20.0, instruction=text) for text in expected}
        for text in (HAND_OVER, HOLD, HAND_OVER):
            np.testing.assert_array_equal(clients[text].predict_chunk(observation), expected[text])
        with pytest.raises(RemoteError, match=r"the policy on .* failed: .*not trained on the instruction 'Hold it\.'"):
            RemotePolicy(where, "token", instruction="Hold it.")
        older = RemotePolicy(where, "token", timeout_s=20.0)
        with pytest.raises(RemoteError, match="reads an instruction, and none is given"):
            older.predict_chunk(observation)
        for client in (*clients.values(), older):
            client.close()
