"""Rollouts in real MuJoCo, a few steps long."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from aloha_kit.config import load, TaskConfig
from aloha_kit.core import ContractError, joint_names
from aloha_kit.core.contract import Contract
from aloha_kit.core.metrics_file import read_metrics
from aloha_kit.data.stats import Statistics
from aloha_kit.policies.build import build
from aloha_kit.policies.network import ChunkNetwork
from aloha_kit.train.evaluation import SimEvaluator, TasksEvaluator
from aloha_kit.train.metrics import Columns
from aloha_kit.train.progress import Progress
from aloha_kit.train.run_folder import Run
from aloha_kit.train.training_run import choose_device  # imports torch._dynamo before there is a GL context
from tests.tiny import ACT
from tests.train.job import COLUMNS, TRAINING


def policy(rate_hz: float = 50.0, **further: tuple[int, int]) -> ChunkNetwork:
    """An untrained network for the simulated rig, of 24x32 pixels and `further` cameras."""
    assert choose_device("cpu") == "cpu"
    torch.manual_seed(0)
    contract = Contract.of(joint_names(), joint_names(), {"top": (24, 32), **further}, rate_hz)
    rows = np.random.default_rng(0).normal(0, 0.01, (20, 14))
    return build(ACT, contract, Statistics.of(qpos=rows, action=rows)).eval()


@pytest.mark.parametrize("temporal_agg", [False, True])
def test_success_is_counted_and_filmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temporal_agg: bool) -> None:
    from aloha_kit.sim import SimEnv
    from aloha_kit.sim.tasks import Scene

    task = dataclasses.replace(load(TaskConfig, "tasks", "sim_transfer_cube"), episode_len=8)
    config = dataclasses.replace(TRAINING, eval_rollouts=2, temporal_agg=temporal_agg)
    run = Run.create(tmp_path / "run", {})
    with Progress(run, first_step=0, num_steps=10, columns=COLUMNS, show=False) as progress:
        evaluate = SimEvaluator(task, config, run.folder / "rollouts", progress)
        found = evaluate(policy(), 5)
        assert found is not None
        assert found.pop("rollouts_s") > 0
        assert found == {"success_rate": 0.0, "return": 0.0, "max_reward": 0.0, "rollout_steps": 8.0}
        rewards = iter([0, 0, 3, 1, 0, 0, 0, 0, 0] * 2)  # the first of a rollout is read at its reset, for its name
        monkeypatch.setattr(Scene, "reward_terms", lambda scene, state: {"stage": float(next(rewards))})
        monkeypatch.setattr(SimEnv, "succeeded", lambda env, outcome: True)
        found = evaluate(policy(), 6)
        assert found is not None
        assert found.items() >= {"success_rate": 1.0, "return": 4.0, "max_reward": 3.0, "rollout_steps": 8.0}.items()
    for step in (5, 6):
        with av.open(str(run.folder / "rollouts" / f"step_{step}.mp4")) as video:
            frames = list(video.decode(video=0))
        assert len(frames) == 9
        assert (frames[0].width, frames[0].height) == (32, 24)
        assert frames[0].to_ndarray(format="rgb24").std() > 5


def test_cameras_of_two_sizes_are_rendered_for_inferences_and_the_video_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aloha_kit.mujoco_images import ModelRenderer

    drawn: list[tuple[str, tuple[int, int]]] = []
    draw = ModelRenderer.draw
    monkeypatch.setattr(
        ModelRenderer, "draw", lambda self, camera, size: drawn.append((camera, size)) or draw(self, camera, size)
    )
    task = dataclasses.replace(load(TaskConfig, "tasks", "sim_transfer_cube"), episode_len=8)
    config = dataclasses.replace(TRAINING, eval_rollouts=2)
    run = Run.create(tmp_path / "run", {})
    with Progress(run, first_step=0, num_steps=10, columns=COLUMNS, show=False) as progress:
        evaluate = SimEvaluator(task, config, run.folder / "rollouts", progress)
        assert evaluate(policy(angle=(20, 30)), 1) is not None
    # chunks of 6 in 8 steps: 2 inferences a rollout, of both cameras; a video of the first camera, 9 images
    assert Counter(drawn) == {("angle", (20, 30)): 9 + 2, ("top", (24, 32)): 2 + 2}


def test_several_tasks_give_their_means_and_the_success_of_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aloha_kit.sim import SimEnv

    task = dataclasses.replace(load(TaskConfig, "tasks", "sim_transfer_cube"), episode_len=4)
    other = dataclasses.replace(task, name="other", episode_len=6)
    successes = iter([True, True, False, True])  # two rollouts in each
    monkeypatch.setattr(SimEnv, "succeeded", lambda env, outcome: next(successes))
    run = Run.create(tmp_path / "run", {})
    columns = Columns.of(policy(), (task, other))
    with Progress(run, first_step=0, num_steps=10, columns=columns, show=False) as progress:
        config = dataclasses.replace(TRAINING, eval_rollouts=2)
        found = TasksEvaluator((task, other), config, run.folder / "rollouts", progress)(policy(), 5)
        assert found is not None
        progress.report(5, found)
    expected = {"success_rate": 0.75, "rollout_steps": 5.0}
    expected |= {"success_rate/sim_transfer_cube": 1.0, "success_rate/other": 0.5}
    assert found.items() >= expected.items()
    assert read_metrics(run.folder / "metrics.csv")[0].items() >= expected.items()
    assert sorted(file.relative_to(run.folder / "rollouts").as_posix() for file in run.folder.rglob("*.mp4")) == [
        "other/step_5.mp4",
        "sim_transfer_cube/step_5.mp4",
    ]


def test_a_policy_for_another_rig_is_refused(tmp_path: Path) -> None:
    task = load(TaskConfig, "tasks", "sim_transfer_cube")
    run = Run.create(tmp_path / "run", {})
    with Progress(run, first_step=0, num_steps=10, columns=COLUMNS, show=False) as progress:
        evaluate = SimEvaluator(task, TRAINING, run.folder / "rollouts", progress)
        with pytest.raises(ContractError, match=r"the policy does not fit the simulation of .*\n  rate: 30 Hz"):
            evaluate(policy(rate_hz=30.0), 1)


def test_a_request_to_stop_ends_the_rollouts_without_a_verdict(tmp_path: Path) -> None:
    task = dataclasses.replace(load(TaskConfig, "tasks", "sim_transfer_cube"), episode_len=4)
    run = Run.create(tmp_path / "run", {})
    requested: list[bool] = []

    def stop() -> bool:
        requested.append(True)
        return len(requested) > 2

    with Progress(run, first_step=0, num_steps=10, columns=COLUMNS, show=False) as progress:
        evaluate = SimEvaluator(task, TRAINING, run.folder / "rollouts", progress, stop)
        assert evaluate(policy(), 1) is None
    assert len(requested) == 3
