"""Goal observations: read in front of the others in training and inference, from the end of an episode."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aloha_kit.config import find
from aloha_kit.config.bc import BcConfig
from aloha_kit.core import Contract, ContractError, UsageError
from aloha_kit.core.inputs import assembled
from aloha_kit.core.metrics_file import read_metrics
from aloha_kit.data.camera_frames import DirectFrames
from aloha_kit.data.index import read_table
from aloha_kit.data.loader import Loader
from aloha_kit.data.stats import Statistics
from aloha_kit.eval.batched_inference import BatchedInference
from aloha_kit.eval.shared_buffer import SharedBuffer
from aloha_kit.formats import open_source
from aloha_kit.formats.goal import read_goal
from aloha_kit.policies.build import build
from aloha_kit.policies.chunk_policy import ChunkPolicy
from aloha_kit.policies.engine import blank
from aloha_kit.policies.goal import set_goal
from aloha_kit.testing.policies import check_network, stats_of
from tests.synthetic import write_dataset
from tests.tiny import BC_RNN, write_policy

PLANE = Contract.of(("x", "y"), ("x", "y"), {"top": (24, 32)}, 10.0)
SMALL: dict[str, Any] = {"backbone_layers": 1, "backbone_width": 16, "keypoints": 4, "layer_dims": (32,)}


def goal_policy(**changes: Any) -> BcConfig:
    return BcConfig(**{**SMALL, "goal_mode": "last", "lstm_units": 16, **changes})


def plane(seed: int, steps: int = 1) -> dict[str, Any]:
    """An observation, with the history of `steps` of them."""
    rng = np.random.default_rng(seed)
    each = [
        assembled(
            {
                "qpos": rng.uniform(-1, 1, 2).astype(np.float32),
                "images/top": rng.integers(0, 256, (24, 32, 3), dtype=np.uint8),
            }
        )
        for _ in range(steps)
    ]
    return {**each[-1], "history": each[:-1]} if steps > 1 else each[-1]


@pytest.mark.parametrize("changes", [{}, {"n_obs_steps": 2}, {"actor": "lstm", "n_obs_steps": 3, "output": "gmm"}])
def test_contract(changes: dict[str, Any], tmp_path: Path) -> None:
    check_network(lambda: build(goal_policy(**changes), PLANE, stats_of(PLANE)), PLANE, tmp_path)


def test_the_goal_of_training_is_the_last_observation_of_the_episode(tmp_path: Path) -> None:
    written = write_dataset(tmp_path, lengths=(9, 14))
    table = read_table(open_source(tmp_path))
    frames = DirectFrames(table, {"top": (24, 32)}, workers=1)
    for n_obs_steps, steps in ((1, [[8, 4], [13, 1]]), (2, [[8, 3, 4], [13, 0, 1]])):
        batch = Loader(table, frames, 2, n_obs_steps=n_obs_steps, goal=True).batch(np.array([4, 10]))
        for i, rows in enumerate(steps):
            np.testing.assert_array_equal(batch["qpos"][i].numpy(), written[i].qpos[rows])
            images = written[i].images["top"][rows].transpose(0, 3, 1, 2)
            np.testing.assert_array_equal(batch["images"]["top"][i].numpy(), images)
    contract = table.contract.without_privileged()
    for place, row in (("episode_1.hdf5", 13), ("episode_1.hdf5:14", 14), ("episode_1.hdf5:0", 0)):
        goal = read_goal(str(tmp_path / place), contract)
        np.testing.assert_array_equal(goal["qpos"], written[1].qpos[row].astype(np.float32))
        np.testing.assert_array_equal(goal["images/top"], written[1].images["top"][row])
    with pytest.raises(UsageError, match=r"--goal .*episode_1.hdf5:15: the episode has observations 0 to 14"):
        read_goal(str(tmp_path / "episode_1.hdf5:15"), contract)
    for place, row in (("episode_1.hdf5@3", 3), (":1", 13), (":0@0", 0), (":1@14", 14)):
        goal = read_goal(str(tmp_path) + "/" * (place[0] != ":") + place, contract)
        np.testing.assert_array_equal(goal["qpos"], written[":0" not in place].qpos[row].astype(np.float32))
    for place, problem in (("", r"holds 2 episodes; name one: .*:EPISODE, 0 to 1"), (":2", "holds episodes 0 to 1")):
        with pytest.raises(UsageError, match=problem):
            read_goal(f"{tmp_path}{place}", contract)
    with pytest.raises(ContractError, match=r"--goal .*: camera 'left' is missing"):
        read_goal(str(tmp_path / "episode_1.hdf5"), replace(contract.with_cameras({"left": (24, 32)})))


def test_a_sampled_goal_is_a_later_observation_drawn_by_seed_and_step(tmp_path: Path) -> None:
    write_dataset(tmp_path, lengths=(9, 14))
    table = read_table(open_source(tmp_path))
    rows = np.array([4, 8, 10, 21, 22])  # 8 and 22 are the last rows of their episodes
    draws = np.array([table.later_rows(rows, 7, step) for step in range(300)])
    assert [set(column) for column in draws.T] == [{5, 6, 7, 8}, {8}, set(range(11, 23)), {22}, {22}]
    np.testing.assert_array_equal(draws[5], table.later_rows(rows, 7, 5))
    assert (draws[5] != table.later_rows(rows, 8, 5)).any()
    loader = Loader(table, None, 2, goal=True, goal_seed=7)
    whole, piece = loader.batch(rows, step=5), loader.batch(rows[2:4], whole=rows, step=5)
    np.testing.assert_array_equal(whole["qpos"][:, 0].numpy(), table.qpos[draws[5]])
    assert torch.equal(piece["qpos"], whole["qpos"][2:4])


@pytest.mark.parametrize("steps", [1, 3])
def test_deployment_and_evaluation_put_it_in_front(steps: int) -> None:
    config = goal_policy(n_obs_steps=steps, **({"actor": "lstm"} if steps > 1 else {}))
    network = build(config, PLANE, stats_of(PLANE)).eval()
    look, goal = plane(1, steps), plane(2)
    policy = ChunkPolicy(network)
    with pytest.raises(ContractError, match="reads a goal observation, and none is set"):
        policy.predict_chunk(look)
    network.goal = {"qpos": goal["qpos"], "images/top": goal["images"]["top"]}
    batch = policy.batch(look)
    seen = [goal, *look.get("history", ()), look]
    np.testing.assert_array_equal(batch["qpos"][0].numpy(), [one["qpos"] for one in seen])
    images = np.stack([one["images"]["top"] for one in seen]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(batch["images"]["top"][0].numpy(), images)
    assert batch["qpos"].shape == blank(network, 1)["qpos"].shape
    chunk = policy.predict_chunk(look)
    buffer = SharedBuffer(2, PLANE, network.chunk_size, steps)
    buffer.put_observation(1, look, (0, 0))
    BatchedInference(network, buffer, 1)([1])
    np.testing.assert_array_equal(buffer.chunk(1), chunk)
    other = plane(3)
    network.goal = {"qpos": other["qpos"], "images/top": other["images"]["top"]}
    assert np.abs(policy.predict_chunk(look) - chunk).max() > 1e-4


@pytest.mark.parametrize("changes", [{}, {"actor": "lstm", "n_obs_steps": 2}])
def test_it_is_learnt_from(changes: dict[str, Any]) -> None:
    """Actions that are the goal's position are predicted with it; without it, their spread of 1/3 remains."""
    blind, box = Contract.of(("x", "y"), ("x", "y"), {}, 10.0), np.array([[-1.0, -1], [1, 1]])
    rng = torch.Generator().manual_seed(0)
    losses = {}
    for mode in ("last", "none"):
        torch.manual_seed(0)
        config = goal_policy(use_images=False, squash=False, goal_mode=mode, **changes)
        network = build(config, blind, Statistics.of(qpos=box, action=box))
        optimiser = torch.optim.Adam(network.parameters(), 1e-2)
        for _ in range(150):
            qpos = 2 * torch.rand(64, 3, 2, generator=rng) - 1  # goal, then the two observations
            batch = {"qpos": qpos[:, 3 - config.window :], "actions": qpos[:, :1], "images": {}}
            if mode == "last":
                batch["qpos"] = qpos[:, [0, *range(3 - config.n_obs_steps, 3)]]
            batch["qpos"] = batch["qpos"].squeeze(1)
            loss = network.losses({**batch, "is_pad": torch.zeros(64, 1, dtype=torch.bool)})["loss"]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        losses[mode] = loss.item()
    assert losses["last"] < 0.02
    assert losses["none"] > 0.2


def test_from_training_to_deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aloha_kit.deploy.__main__ import main as deploy
    from aloha_kit.eval.__main__ import main as evaluate
    from aloha_kit.train.__main__ import main as train
    from tests.commands import failure

    monkeypatch.chdir(tmp_path)
    write_dataset(Path("data"), lengths=(30, 20))
    write_policy(Path("goal.yaml"), BC_RNN, goal_mode="sampled")
    flags = "--policy goal.yaml --dataset_dir data --ckpt_dir run --num_steps 2 --batch_size 4 --device cpu --threads 1"
    rollouts = ["--task", "short.yaml", "--eval_every", "2", "--eval_rollouts", "1"]
    task = Path(find("tasks", "sim_transfer_cube")).read_text(encoding="utf-8")
    Path("short.yaml").write_text(task.replace("episode_len: 400", "episode_len: 3"), encoding="utf-8")
    assert "need one: give --eval_goal" in failure(train, [*flags.split(), *rollouts])
    missing = failure(train, [*flags.split(), *rollouts, "--eval_goal", "data", "--no_preflight"])
    assert "--eval_goal data: data holds 2 episodes; name one: data:EPISODE, 0 to 1" in missing
    train([*flags.split(), *rollouts, "--eval_goal", "data:1@12", "--no_preflight", "--val_every", "1"])
    assert [row["rollout_steps"] for row in read_metrics(Path("run/metrics.csv")) if "rollout_steps" in row] == [3]
    few = "--ckpt run --task sim_transfer_cube --num_rollouts 1 --episode_len 3 --device cpu"
    for name, main, last in (("deploy", deploy, "--video 0"), ("eval", evaluate, "--workers 1")):
        words = f"{few} {last} --output out".split()
        assert "reads a goal observation: name one with --goal PLACE[:EPISODE][@STEP]" in failure(main, words)
        main([*words, "--goal", "data/episode_1.hdf5:12"])
        report = json.loads(Path(f"out/{name}.json").read_text())
        (rollout,) = report["rollouts"] if name == "deploy" else report["checkpoints"][0]["rollouts"]
        assert rollout["steps"] == 3
    network = build(BC_RNN, PLANE, stats_of(PLANE))
    with pytest.raises(UsageError, match=r"run reads no goal observation \(goal_mode none\), given --goal x"):
        set_goal(network, "x", "run")
