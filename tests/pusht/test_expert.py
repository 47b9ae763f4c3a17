"""The expert of Push-T: it succeeds, an action depends on the poses alone, and its physics are gym-pusht's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from aloha_kit.core import ConfigError, Environment
from aloha_kit.core.pusht import corners
from aloha_kit.loop import Outcome, RolloutRecorder, run_episode
from aloha_kit.pusht import PushT
from aloha_kit.pusht.expert import distance, PhysicsCopy, PushOutcomes
from aloha_kit.pusht.outline import Outline, PlanarPose


def demonstrate(env: Environment, seed: int, noise: float = 0.0, noise_seed: int = 0) -> tuple[Outcome, str]:
    recorder = RolloutRecorder()
    env.seed(seed)
    assert isinstance(env, PushT)
    outcome = run_episode(env, env.expert(noise=noise, seed=noise_seed), [recorder])
    return outcome, recorder.actions


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_it_pushes_the_block_to_the_goal_from_random_starts(noise: float) -> None:
    env = PushT()
    for seed in range(200, 206):
        outcome, _ = demonstrate(env, seed, noise)
        assert env.succeeded(outcome), (seed, outcome)
        assert outcome.steps < 300


def test_it_repeats_itself_and_varies_with_noise() -> None:
    env, other = PushT(), PushT()
    first = demonstrate(env, 5)
    assert demonstrate(other, 5) == first == demonstrate(env, 5, noise_seed=1)
    noisy = demonstrate(env, 5, noise=0.5)
    assert demonstrate(other, 5, noise=0.5) == noisy != first
    assert demonstrate(env, 5, noise=0.5, noise_seed=1) != noisy
    with pytest.raises(ConfigError, match="motion noise must be at least 0, given -1"):
        env.expert(noise=-1)


def test_an_action_depends_on_the_poses_alone_also_with_noise() -> None:
    """A new expert, placed where another one is in the middle of an episode with noise, takes the same action."""
    env, other = PushT(), PushT()
    expert = env.expert(noise=1.0)
    env.seed(7)
    step = env.reset()
    expert.reset()
    for number in range(60):
        block = env.physics.block
        pose, agent = (*block.position, block.angle), tuple(env.physics.agent.position)
        action = expert.act(step.observation)
        if number % 6 == 0:
            there = other.place(agent, pose)
            np.testing.assert_allclose(other.expert().act(there.observation), action, atol=0.01)
        step = env.step(action)


def test_the_copy_moves_as_gym_pusht_does() -> None:
    """Through a long push that turns the block."""
    env, copy = PushT(), PhysicsCopy()
    start = (270.0, 220.0, 0.3)
    env.place((256, 150), start)
    copy.load(start, (256, 150))
    for step in range(20):
        target = np.array([250.0, 150 + 10 * step])
        env.step(target)
        copy.step(target)
    assert abs(env.physics.block.angle - 0.3) > 0.2
    np.testing.assert_allclose(corners(copy.pose()), keypoints(env), atol=0.1)


def test_a_gain_is_that_of_the_push_in_the_environment() -> None:
    """For the best straight push of 38 px, in a pose that no outcome was computed in."""
    env, outline = PushT(), Outline.of_block()
    pose = PlanarPose(np.array([200.0, 300.0]), 2.0)
    gains = PushOutcomes.computed().gains(pose)[:, 3, 12]
    contact = int(np.argmax(gains))
    agent, direction = pose(outline.contacts[contact]), pose.rotated(-outline.normals[contact])
    env.place(agent, (*pose.position, pose.angle))
    before = distance(pose)
    assert before == pytest.approx(np.sqrt(np.square(keypoints(env) - corners((256, 256, np.pi / 4))).sum(1).mean()))
    for step in range(1, 11):
        env.step(agent + direction * 3.8 * step)
    for _ in range(10):
        env.step(agent + direction * 38)
    block = env.physics.block
    after = distance(PlanarPose(np.array(block.position), block.angle))
    assert gains[contact] == pytest.approx(np.log((before + 1) / (after + 1)), abs=0.01)
    assert gains[contact] > 0.2


def keypoints(env: PushT) -> np.ndarray:
    """(8, 2) px, the block's corners as gym-pusht computes them."""
    return np.array(env.physics.get_keypoints(env.physics._block_shapes))


def test_ways_go_round_the_block() -> None:
    outline = Outline.of_block()
    for start in ((200.0, 60.0), (-100.0, -40.0), (0.0, 170.0)):
        for contact in range(len(outline.contacts)):
            way = np.array(outline.route(np.array(start), contact))
            assert tuple(way[-1]) == tuple(outline.contacts[contact])
            points = np.concatenate([np.linspace(a, b, 50) for a, b in itertools.pairwise(way)])
            bar = np.maximum(np.abs(points - (0, 15)) - (60, 15), 0)
            stem = np.maximum(np.abs(points - (0, 75)) - (15, 45), 0)
            assert min(np.hypot(*bar.T).min(), np.hypot(*stem.T).min()) > 14.5 - 1e-6  # the agent's radius, touching
