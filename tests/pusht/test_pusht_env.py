"""Push-T: the contract of environments, gym-pusht's own values, and every command."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import pytest
import torch._dynamo  # noqa: F401 - before any OpenGL context: the commands run in this process

from aloha_kit.config import load, RigConfig, TaskConfig
from aloha_kit.core import ConfigError
from aloha_kit.envs import connect
from aloha_kit.pusht import PushT
from aloha_kit.testing.environments import check_environment

TASKS = ("pusht_state", "pusht_keypoints", "pusht_image")


def environment(name: str, **changes: object) -> PushT:
    task = replace(load(TaskConfig, "tasks", name), **changes)
    env = connect(task, load(RigConfig, "rigs", task.rig))
    assert isinstance(env, PushT)
    return env


@pytest.mark.parametrize("name", TASKS)
def test_it_keeps_the_contract_of_environments(name: str) -> None:
    check_environment(lambda: environment(name, episode_len=5), episode_len=5)


@pytest.mark.parametrize(
    ("name", "obs_type", "feature", "key"),
    [
        ("pusht_state", "state", "environment_state", None),
        ("pusht_keypoints", "environment_state_agent_pos", "environment_state", "environment_state"),
        ("pusht_image", "pixels_agent_pos", "images", "pixels"),
    ],
)
def test_a_seed_gives_the_values_of_gym_pusht(name: str, obs_type: str, feature: str, key: str | None) -> None:
    env, theirs = environment(name), gymnasium.make("gym_pusht/PushT-v0", obs_type=obs_type)
    env.seed(12)
    step, (observed, _) = env.reset(), theirs.reset(seed=12)
    for action in np.random.default_rng(0).uniform(100, 400, (6, 2)):
        wanted = observed[2:] if key is None else observed[key]
        found = step.observation[feature]
        np.testing.assert_array_equal(found["top"] if key == "pixels" else found, np.asarray(wanted, found_type(found)))
        position = observed[:2] if key is None else observed["agent_pos"]
        np.testing.assert_array_equal(step.observation["qpos"], np.float32(position))
        step, (observed, reward, *_) = env.step(action), theirs.step(action)
        assert step.reward == reward


def found_type(found: object) -> type:
    return np.uint8 if isinstance(found, dict) else np.float32


def test_a_block_on_its_goal_ends_the_episode_as_a_success() -> None:
    env = environment("pusht_state")
    env.place((50, 50), (256, 256, np.pi / 4))
    step = env.step((50, 50))
    assert (step.last(), step.discount, step.reward) == (True, 0.0, 1.0)
    assert env.step((50, 50)).first()
    # a bar of 120 x 30 and a stem of 30 x 90, moved 5 px along the bar: what the bar and the stem lose at their ends
    env.place((50, 50), (256 + 5 * np.cos(np.pi / 4), 256 + 5 * np.sin(np.pi / 4), np.pi / 4))
    step = env.step((50, 50))
    assert step.mid()
    assert step.reward == pytest.approx((1 - 5 * (30 + 90) / (120 * 30 + 30 * 90)) / 0.95, abs=1e-6)


def test_a_block_is_placed_at_the_pose_that_is_given() -> None:
    env = environment("pusht_state")
    step = env.place((100, 200), (300, 250, 1.0))
    np.testing.assert_allclose(step.observation["environment_state"], (300, 250, 1.0), rtol=1e-6)
    np.testing.assert_array_equal(step.observation["qpos"], (100, 200))


def test_the_contract_has_units_in_pixels() -> None:
    features = {feature.name: feature for feature in environment("pusht_state").contract.features}
    assert features["qpos"].units == features["action"].units == ("px", "px")
    assert features["environment_state"].units == ("px", "px", "rad")
    features = {feature.name: feature for feature in environment("pusht_keypoints").contract.features}
    assert features["environment_state"].units == ("px",) * 16


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scene": "keypoint_image"}, "Push-T has no scene 'keypoint_image'. .*Known|Did you mean"),
        ({"rate_hz": 50.0}, "Push-T runs at 10 Hz, given rate_hz 50"),
        ({"randomise": {"light": 1.0}}, "task 'pusht_state' on rig 'pusht': Push-T has no randomise"),
    ],
)
def test_what_it_lacks_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        environment("pusht_state", **changes)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Run a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda command, flags: importlib.import_module(f"aloha_kit.{command}.__main__").main(flags.split())


@pytest.mark.parametrize("task", ["pusht_keypoints", "pusht_image"])
def test_it_records_trains_evaluates_deploys_replays_and_is_diagnosed(
    task: str, here: Callable[[str, str], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = task == "pusht_image"
    here("record", f"--task {task} --num_episodes 3 --workers 1")
    file = tmp_path / "data" / task / "episode_0.hdf5"
    with h5py.File(file) as episode:
        assert (bool(episode.attrs["success"]), bool(episode.attrs["sim"])) == (True, True)
        assert episode["reward"][-1] == 1.0
        steps = len(episode["action"])
        assert 20 < steps < 300
        assert episode["observations/qpos"].shape == (steps + 1, 2)
        assert episode["observations/environment_state"].shape == (steps + 1, 3 if images else 16)
    here("episode", f"validate data/{task}")
    small = "--chunk_size 8 --down_dims 16 32 --time_embedding 16 --num_steps 4 --batch_size 4 --val_every 2"
    read = "--backbone_width 16 --backbone_layers 2" if images else "--no_use_images --use_environment_state"
    rollouts = "--eval_every 4 --eval_rollouts 1"
    here("train", f"--task {task} --policy mip {small} {read} {rollouts} --device cpu --ckpt_dir run")
    here("eval", f"--task {task} --ckpt run --num_rollouts 2 --workers 1 --output eval --device cpu --episode_len 20")
    report = json.loads((tmp_path / "eval" / "eval.json").read_text())["checkpoints"][0]
    best = [rollout["max_reward"] for rollout in report["rollouts"]]
    assert report["mean_max_reward"] == pytest.approx(np.mean(best))
    here("deploy", f"--task {task} --ckpt run --num_rollouts 1 --output out --device cpu --episode_len 20")
    assert (tmp_path / "out" / "episode_0.mp4").exists()
    capsys.readouterr()
    here("replay", f"{file} --execute --output replayed")
    text = capsys.readouterr().out
    assert "executed: success, final reward 1 (agree)" in text
    assert "px" in text
    here("diagnose", "out --ckpt run")
