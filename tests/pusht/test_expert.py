"""The expert of Push-T: it succeeds, repeats itself, and its copy of the physics is gym-pusht's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from aloha_kit.core import ConfigError, Environment
from aloha_kit.loop import Outcome, RolloutRecorder, run_episode
from aloha_kit.pusht import PushT
from aloha_kit.pusht.expert import PhysicsCopy
from aloha_kit.pusht.outline import Outline


def demonstrate(env: Environment, seed: int, noise: float = 0.0, noise_seed: int = 0) -> tuple[Outcome, str]:
    recorder = RolloutRecorder()
    env.seed(seed)
    assert isinstance(env, PushT)
    outcome = run_episode(env, env.expert(noise=noise, seed=noise_seed), [recorder])
    return outcome, recorder.actions


def test_it_pushes_the_block_to_the_goal_from_random_starts() -> None:
    env = PushT()
    for seed in range(200, 206):
        outcome, _ = demonstrate(env, seed)
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


def test_the_copy_moves_as_gym_pusht_does() -> None:
    """Through a long push that turns the block."""
    env, copy = PushT(), PhysicsCopy()
    env.place((256, 150), (270, 220, 0.3))
    copy.load(env.physics, np.array(env.physics.agent.position), np.array(env.physics.agent.velocity))
    for step in range(20):
        target = np.array([250.0, 150 + 10 * step])
        env.step(target)
        copy.step(target)
    assert abs(env.physics.block.angle - 0.3) > 0.2
    assert copy.distance() == pytest.approx(corner_distance(env), abs=0.05)


def corner_distance(env: PushT) -> float:
    """Mean distance of the corners from those of a block on the goal."""
    corners = env.physics.get_keypoints(env.physics._block_shapes)
    goal = PushT()
    goal.place((50, 50), (256, 256, np.pi / 4))
    wanted = goal.physics.get_keypoints(goal.physics._block_shapes)
    return float(np.linalg.norm(corners - wanted, axis=1).mean())


def test_ways_go_round_the_block() -> None:
    outline = Outline.of_block()
    for start in ((200.0, 60.0), (-100.0, -40.0), (0.0, 170.0)):
        for contact in range(len(outline.contacts)):
            way = np.array(outline.route(np.array(start), contact))
            points = np.concatenate([np.linspace(a, b, 50) for a, b in itertools.pairwise(way)])
            bar = np.maximum(np.abs(points - (0, 15)) - (60, 15), 0)
            stem = np.maximum(np.abs(points - (0, 75)) - (15, 45), 0)
            assert min(np.hypot(*bar.T).min(), np.hypot(*stem.T).min()) > 15 - 1e-6  # the agent's radius
