"""A rat on its way to a target: contract, reward terms, senses against MuJoCo's state, what the head's camera shows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import mujoco
import numpy as np
import pytest

from aloha_kit.config import load, RigConfig, TaskConfig
from aloha_kit.core import ConfigError, EpisodeError
from aloha_kit.core.plugins import resolve
from aloha_kit.envs import connect
from aloha_kit.locomotion import GoToTarget, WalkerOptions
from aloha_kit.locomotion.walker_model import WALKERS
from aloha_kit.loop.capabilities import DeltaActions, RewardTerms, TargetBands
from aloha_kit.testing.environments import check_environment

CAMERAS = {"egocentric": (32, 32), "overview": (48, 64)}


class SmallRat(resolve("walkers", "rat", WALKERS)):  # type: ignore[misc]
    """A walker of a user's own."""


@pytest.fixture(scope="module")
def env() -> Iterator[GoToTarget]:
    made = GoToTarget("target_dense", cameras=CAMERAS, episode_len=20)
    yield made
    made.close()


def random_step(env: GoToTarget, rng: np.random.Generator) -> object:
    return env.step(rng.uniform(-1, 1, len(env.contract.action_names)))


def test_keeps_the_environment_contract() -> None:
    check_environment(lambda: GoToTarget(cameras={"egocentric": (16, 16)}, episode_len=4), episode_len=4)


def test_it_has_what_reinforcement_learning_needs(env: GoToTarget) -> None:
    assert isinstance(env, TargetBands)
    assert isinstance(env, RewardTerms)
    assert not isinstance(env, DeltaActions), "its actions are controls, not targets in the units of its state"
    assert len(env.contract.action_names) == 38
    assert set(env.limits.state_index) == {None}
    np.testing.assert_array_equal([env.limits.lower, env.limits.upper], [[-1] * 38, [1] * 38])


def test_targets_are_in_their_band_ahead_of_the_rat(env: GoToTarget) -> None:
    head, body = env.physics.bind(env._model.walker.head), env.physics.bind(env._model.walker.root_body)
    env.lazy_images = True
    for band, (nearest, farthest) in enumerate(env.bands):
        env.band = band
        distances, angles = [], []
        for seed in range(60):
            env.seed(seed)
            env.reset()
            target = env.physics.named.data.xpos["target"] - head.xpos
            distances.append(np.linalg.norm(target))
            assert env.target_distance == pytest.approx(distances[-1], abs=1e-9)
            along, across = target @ body.xmat.reshape(3, 3)[:, :2]
            angles.append(np.arctan2(across, along))
        assert nearest <= min(distances) < nearest + 0.1 * (farthest - nearest)
        assert farthest - 0.1 * (farthest - nearest) < max(distances) <= farthest
        assert -0.81 < min(angles) < -0.6
        assert 0.6 < max(angles) < 0.81
    env.band, env.lazy_images = None, False


def test_senses_are_those_of_the_head(env: GoToTarget) -> None:
    """The angular velocity by the turn within a physics step, the linear velocity by the way of the head's origin."""
    walker, rng = env._model.walker, np.random.default_rng(0)
    env.seed(0)
    env.reset()
    for _ in range(8):
        observation = random_step(env, rng).observation
    senses = observation["sensors"]["vestibular"].astype(float).reshape(4, 3)
    head = env.physics.bind(walker.head)
    turn, place = head.xmat.reshape(3, 3).copy(), head.xpos.copy()
    np.testing.assert_allclose(senses[3], turn[2], atol=1e-6)
    np.testing.assert_allclose(
        observation["sensors"]["target"], turn.T @ (env.physics.named.data.xpos["target"] - place), atol=1e-6
    )
    ids = env.physics.bind(walker.observable_joints)
    np.testing.assert_allclose(observation["qpos"], ids.qpos, atol=1e-6)
    np.testing.assert_allclose(observation["qvel"], ids.qvel, atol=1e-5)
    seconds, model, data = 1e-6, env.physics.model.ptr, env.physics.data.ptr
    qpos = data.qpos.copy()
    mujoco.mj_integratePos(model, data.qpos, data.qvel, seconds)
    mujoco.mj_kinematics(model, data)
    later, moved = head.xmat.reshape(3, 3).copy(), head.xpos.copy()
    data.qpos[:] = qpos
    np.testing.assert_allclose(senses[2], turn.T @ (moved - place) / seconds, atol=1e-4)
    spin = turn.T @ (later - turn) / seconds
    np.testing.assert_allclose(senses[0], [spin[2, 1], spin[0, 2], spin[1, 0]], atol=1e-2)
    assert np.abs(senses[:3]).max() > 0.1, "it moves"


def test_a_rat_at_rest_feels_gravity() -> None:
    long = GoToTarget(episode_len=400)
    long.reset()
    for _ in range(150):
        step = long.step(long.rest_action)
    senses = step.observation["sensors"]["vestibular"].reshape(4, 3)
    np.testing.assert_allclose(senses[1], 9.81 * senses[3], atol=0.1)
    np.testing.assert_allclose(senses[[0, 2]], 0, atol=1e-2)
    long.close()


def test_reward_terms_are_what_they_are_called(env: GoToTarget) -> None:
    rng = np.random.default_rng(1)
    env.band = 0
    env.reset()
    assert set(env.reward_terms.values()) == {0.0}
    step = random_step(env, rng)
    upright = env.physics.bind(env._model.walker.root_body).xmat[8]
    assert env.reward_terms == {
        "inside": 0.0,
        "posture": pytest.approx(-0.05 * (1 - upright) / 2),
        "distance": pytest.approx(-env.target_distance),
        "fallen": 0.0,
    }
    assert step.reward == pytest.approx(sum(env.reward_terms.values()))
    assert not env.is_highest(step.reward)
    env._model.place_target(env._model.head_position() + [0.01, 0, 0])
    step = env.step(env.rest_action)
    assert env.reward_terms["inside"] == 1
    assert env.is_highest(step.reward)
    env.band = None


def test_only_lying_upside_down_ends_an_episode_and_never_pays(env: GoToTarget) -> None:
    env.reset()
    for _ in range(2):
        step = env.step(env.rest_action)
    assert step.mid()
    standing = step.reward
    env.physics.data.qpos[2] = 0.15
    env.physics.data.qpos[3:7] = [0.0, 1.0, 0.0, 0.0]
    env.physics.forward()
    step = env.step(env.rest_action)
    assert step.last()
    assert step.discount == 0
    assert env.reward_terms["fallen"] == pytest.approx(
        17 * (env.reward_terms["posture"] + env.reward_terms["distance"])
    )
    assert step.reward < 18 * standing, "standing there until the end costs less"


def test_the_egocentric_image_is_what_the_observable_renders_and_shows_the_target(env: GoToTarget) -> None:
    camera = env._model.walker.observables.egocentric_camera
    camera.height, camera.width = CAMERAS["egocentric"]
    env.band = 0
    for seed in range(3):
        env.seed(seed)
        image = env.reset().observation["images"]["egocentric"]
        np.testing.assert_array_equal(image, camera.observation_callable(env.physics)())
        red = image[..., 0].astype(int) - image[..., 1:].max(axis=2) > 60
        assert red.any()
        aside = env._model.to_target()[1]
        columns = np.flatnonzero(red.any(axis=0))
        assert (columns.mean() < 16) == (aside > 0), "a target on the left is on the left"
    raw = env.physics.render(*CAMERAS["egocentric"], camera_id="walker/egocentric")
    assert (raw != image).any(), "without the observable's option the snout is in the image"
    env.band = None


def test_a_seed_decides_the_episode_and_the_model_stays_the_same(env: GoToTarget) -> None:
    model, ends = env.physics.model.ptr, []
    for seed in (3, 4, 3):
        env.seed(seed)
        env.reset()
        rng = np.random.default_rng(0)
        for _ in range(5):
            step = random_step(env, rng)
        ends.append((step.observation["sensors"]["target"], step.observation["qpos"]))
        assert env.physics.model.ptr is model
    np.testing.assert_array_equal(ends[0][0], ends[2][0])
    np.testing.assert_array_equal(ends[0][1], ends[2][1])
    assert (ends[0][0] != ends[1][0]).any()


def test_unstable_physics_is_one_clear_error(env: GoToTarget) -> None:
    env.seed(9)
    env.reset()
    env.physics.data.qvel[:] = np.nan
    with pytest.raises(EpisodeError, match=r"step 0 of seed 9: .*; a smaller physics_timestep"):
        env.step(env.rest_action)
    assert env.step(env.rest_action).first()


def test_configurations_connect_a_walker_of_ones_own() -> None:
    rig, task = load(RigConfig, "rigs", "rat"), load(TaskConfig, "tasks", "rat_target_image")
    own = replace(rig, options={"walker": f"{__name__}:SmallRat", "bands": [[0.2, 0.3], [0.3, 0.5]], "reached": 0.1})
    with_own = connect(task, own)
    assert isinstance(with_own, GoToTarget)
    assert isinstance(with_own._model.walker, SmallRat)
    assert with_own.bands == ((0.2, 0.3), (0.3, 0.5))
    assert with_own.contract.cameras == {"egocentric": (64, 64)}
    with_own.close()
    with pytest.raises(ConfigError, match="no 'rats' among the walkers"):
        connect(task, replace(rig, options={"walker": "rats"}))
    with pytest.raises(ConfigError, match="no scene 'targets' of walkers"):
        connect(replace(task, scene="targets"), rig)
    with pytest.raises(ConfigError, match="no camera 'egocentrc' of the walker"):
        GoToTarget(cameras={"egocentrc": (8, 8)})
    with pytest.raises(ValueError, match="near to far"):
        WalkerOptions(bands=((0.3, 0.2),))


def test_it_needs_no_labmaze_and_leaves_logging_to_the_program() -> None:
    """As on Python 3.13, for which labmaze has no build."""
    code = (
        "import logging, sys; sys.modules['labmaze'] = None; from aloha_kit.locomotion import GoToTarget; "
        "GoToTarget().reset(); assert not logging.getLogger().handlers"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
