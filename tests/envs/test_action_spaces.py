"""Gripper poses as actions, from recording to replay: after `record`, no command needs a flag for them."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from aloha_kit.core.features import ACTION, STATE
from aloha_kit.policies.build import build
from aloha_kit.sim import EndEffectorEnv
from aloha_kit.storage import Episode
from aloha_kit.testing.policies import batch_of, stats_of
from tests.tiny import ACT, BC_RNN, CNNMLP, FLOW, IBC, write_policy


@pytest.mark.parametrize("space", ["ee", "ee_delta"])
@pytest.mark.parametrize("policy", [ACT, CNNMLP, FLOW, BC_RNN, IBC], ids=lambda policy: policy.kind)
def test_every_family_predicts_them(policy, space: str) -> None:
    env = EndEffectorEnv("transfer_cube", space=space, cameras={"top": (32, 48)}, episode_len=3, quality="draft")
    contract = env.contract.only(STATE, ACTION, "image")
    env.close()
    network = build(policy, contract, stats_of(contract)).eval()
    batch = batch_of(contract, rows=policy.chunk_size, n_obs_steps=policy.n_obs_steps)
    chunk = network.predict(batch, network.generator([(0, 0, row) for row in range(3)]))
    assert chunk.shape == (3, policy.chunk_size, {"ee": 20, "ee_delta": 14}[space])
    assert network.losses(batch)["loss"].isfinite()


def test_they_are_recorded_trained_evaluated_deployed_and_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def command(name: str, line: str) -> str:
        importlib.import_module(f"aloha_kit.{name}.__main__").main(line.split())
        return capsys.readouterr().out

    task = "--task sim_transfer_cube"
    command("record", f"{task} --action_space ee_delta --image_size 24 32 --num_episodes 2 --workers 1")
    with Episode.open(Path("data/sim_transfer_cube/episode_0.hdf5")) as episode:
        assert episode.contract.action_names[:7] == tuple(
            f"left_{entry}" for entry in ("dx", "dy", "dz", "drx", "dry", "drz", "gripper")
        )
        assert episode.describe["action_space"] == "ee_delta"
        assert (episode.action.shape, episode.qpos.shape) == ((400, 14), (401, 32))
    write_policy(Path("small.yaml"), ACT)
    flags = "--num_steps 2 --batch_size 4 --val_every 2 --eval_every 2 --eval_rollouts 1 --device cpu --threads 1"
    command("train", f"{task} --policy small.yaml --ckpt_dir run {flags} --cache none --no_preflight")
    few = f"{task} --ckpt run --num_rollouts 1 --device cpu --episode_len 10"
    command("eval", f"{few} --workers 1 --output eval")
    command("deploy", f"{few} --video 0 --output deploy")
    for folder in ("eval", "deploy"):
        report = json.loads(Path(folder, f"{folder}.json").read_text())
        rig = report["rig"] if folder == "deploy" else report["checkpoints"][0]["rig"]
        assert rig["action_space"] == "ee_delta", folder
    only = "--execute --no_video --no_plots --no_rrd --output shown"
    printed = command("replay", f"data/sim_transfer_cube/episode_1.hdf5 {only}")
    assert "executed: success, final reward 4 (agree)" in printed
