"""Depth of a rig behind ROS: recorded from the drivers' topics, trained on, and read by the policy that drives it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from aloha_kit import envs
from aloha_kit.config import load, RigConfig, TaskConfig, to_mapping
from aloha_kit.core import ContractError, Observation
from aloha_kit.deploy.__main__ import main as deploy
from aloha_kit.deploy.local_policy import TimedChunkPolicy
from aloha_kit.episode import Episode, list_episodes
from aloha_kit.train.__main__ import main as train
from tests.commands import failure
from tests.ros.master import Ros
from tests.ros.small_rig import simulated, write_task
from tests.tiny import ACT, write_policy

COLOUR, DEPTH = (48, 64), (40, 64)
RIG = "rig_aloha.yaml"
STEPS = 20
TINY = ("--no_preflight", "--include_failed")  # one failed episode is enough data for two steps


@dataclass(frozen=True)
class Trained:
    """A task whose rig is up, an episode of it, and a run trained on that."""

    task: Path
    episode: Path
    run: Path


def change_cameras(rig: Path, changed: Path, **values: Any) -> None:
    """Write a rig's file with other values of its camera."""
    config = load(RigConfig, "rigs", rig)
    cameras = {"cam_high": replace(config.cameras["cam_high"], **values)}
    changed.write_text(yaml.safe_dump(to_mapping(replace(config, cameras=cameras))))


@pytest.fixture(scope="module")
def trained(session_ros: Ros, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("depth")
    task = write_task(folder, "aloha", cameras=("cam_high",), episode_len=STEPS)
    change_cameras(folder / RIG, folder / RIG, depth_topic="/cam_high/depth/image_raw", depth_size=(400, 640))
    with simulated(session_ros, task):
        recorder = session_ros.quick(
            "aloha_kit.record", "--task", str(task), "--num_episodes", "1", "--auto", "--countdown", "0"
        )
        recorder.wait_for("saved /", 90)  # as a failure: the cube is handed over in more than 20 steps
        recorder.stop()
        episode = list_episodes(folder / "data/failed")[0]
        policy = write_policy(folder / "policy.yaml", ACT, depth_cameras=["cam_high"], depth_max_m=2.0)
        given = {
            "policy": policy, "task": task, "dataset_dir": episode.parent, "ckpt_dir": folder / "run",
            "cache_dir": folder / "cache", "device": "cpu", "num_steps": 2, "batch_size": 2,
        }  # fmt: skip
        train([*(str(word) for name, value in given.items() for word in (f"--{name}", value)), *TINY])
        yield Trained(task, episode, folder / "run")


def test_what_was_recorded_is_the_cameras_depth(trained: Trained) -> None:
    with Episode.open(trained.episode) as episode:
        assert episode.depth_cameras == ("cam_high",)
        assert episode.image("cam_high", 0).shape == (*COLOUR, 3)
        depth = np.stack([episode.depth("cam_high", i) for i in range(episode.frames)])
    assert (depth.shape, depth.dtype) == ((STEPS + 1, *DEPTH), np.uint16)
    assert 400 < np.median(depth[depth > 0]) < 1500, "the table is that many millimetres away"


def test_the_policy_is_given_the_depth_that_its_rollout_keeps(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Observation] = []
    predict = TimedChunkPolicy.predict_chunk

    def keep(policy: TimedChunkPolicy, observation: Observation) -> Any:
        given.append(observation)
        return predict(policy, observation)

    monkeypatch.setattr(TimedChunkPolicy, "predict_chunk", keep)
    words = [
        "--ckpt",
        trained.run,
        "--task",
        trained.task,
        "--output",
        tmp_path,
        "--num_rollouts",
        1,
        "--device",
        "cpu",
    ]
    deploy([str(word) for word in (*words, "--engine", "eager")])
    (rollout,) = list_episodes(tmp_path)
    with Episode.open(rollout) as episode:
        assert episode.frames == STEPS + 1
        kept = [episode.depth("cam_high", i) for i in range(episode.frames)]
    seen = [observation["images_depth"]["cam_high"] for observation in given if observation["stamps"]]
    assert len(seen) > 2
    assert all(any(np.array_equal(depth, row) for row in kept) for depth in seen)


def test_a_rig_without_that_depth_is_refused_by_name(trained: Trained, tmp_path: Path) -> None:
    rig, task = tmp_path / "rig.yaml", tmp_path / "task.yaml"
    change_cameras(trained.task.parent / RIG, rig, depth_topic="", depth_size=None)
    task.write_text(yaml.safe_dump({**yaml.safe_load(trained.task.read_text()), "rig": str(rig)}))
    text = failure(deploy, ["--ckpt", str(trained.run), "--task", str(task), "--engine", "eager"])
    assert "depth 'images_depth/cam_high' is missing" in text


def test_depth_of_another_size_is_named_with_both(trained: Trained) -> None:
    task = load(TaskConfig, "tasks", trained.task)
    rig = load(RigConfig, "rigs", task.rig)
    camera = replace(rig.cameras["cam_high"], depth_size=None)
    env = envs.connect(task, replace(rig, cameras={"cam_high": camera}))
    with (
        contextlib.closing(env),
        pytest.raises(ContractError, match=r"sends depth of 40 x 64 .* configured are 48 x 64"),
    ):
        env.reset()
