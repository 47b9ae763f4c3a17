"""A scene without episodes: time goes on, servos can be let go, objects come back under the arms."""

from __future__ import annotations

import numpy as np
import pytest

from aloha_kit.core import ConfigError
from aloha_kit.sim import SimEnv
from aloha_kit.sim.live import LiveScene

FOLDED = np.array([0, -1.85, 1.55, 0, 0.8, 0, 0.03] * 2)
ON, OFF = np.ones(14), np.zeros(14)


@pytest.fixture
def scene() -> LiveScene:
    live = LiveScene("transfer_cube", seed=3)
    live.pose(FOLDED)
    return live


def test_it_moves_as_the_environment_does() -> None:
    env = SimEnv("transfer_cube", cameras={}, rate_hz=100, seed=3)
    action = env.reset().observation["qpos"].copy()
    live = LiveScene("transfer_cube", seed=3)
    targets = live.joints
    action[1], targets[1] = action[1] - 0.2, targets[1] - 0.2
    for _ in range(50):
        observation = env.step(action).observation
        live.command(targets, ON)
        live.advance(0.01)
    np.testing.assert_allclose(live.joints[:6], observation["qpos"][:6], atol=1e-6)
    np.testing.assert_allclose(live.velocities[:6], observation["qvel"][:6], atol=1e-5)
    np.testing.assert_allclose(live.forces[:6], observation["effort"][:6], atol=1e-4)


def test_objects_are_those_of_the_environments_seed(scene: LiveScene) -> None:
    for seed in (3, 11):
        scene.place(seed)
        env = SimEnv("transfer_cube", cameras={}, seed=seed)
        env.reset()
        np.testing.assert_array_equal(scene.object_poses()["cube"], env.object_poses()["cube"])


def test_putting_objects_back_leaves_the_arms_moving(scene: LiveScene) -> None:
    scene.command(FOLDED + 0.05, ON)
    scene.advance(0.05)
    joints, velocities = scene.joints, scene.velocities
    assert np.abs(velocities).max() > 0.1
    scene.place(8)
    np.testing.assert_array_equal(scene.joints, joints)
    np.testing.assert_array_equal(scene.velocities, velocities)


def test_an_arm_without_torque_sinks_and_the_other_holds(scene: LiveScene) -> None:
    start = np.array([0, -0.96, 1.16, 0, -0.3, 0, 0.03] * 2)
    scene.pose(start)
    stiffness = np.concatenate([OFF[:7], ON[:7]])
    for _ in range(100):
        scene.command(start, stiffness)
        scene.advance(0.01)
    sunk = scene.joints - start
    assert sunk[2] > 0.1, "gravity takes the elbow"
    assert np.abs(sunk[7:]).max() < 0.01
    for _ in range(300):
        scene.command(start, ON)
        scene.advance(0.01)
    assert np.abs(scene.joints - start).max() < 0.01, "torque brings it back"


def test_a_place_is_restored_whole(scene: LiveScene) -> None:
    scene.place(21)
    scene.advance(0.1)
    other = LiveScene("transfer_cube")
    other.restore(scene.qpos)
    np.testing.assert_array_equal(other.qpos, scene.qpos)
    with pytest.raises(ConfigError, match=r"qpos is \(23,\) finite numbers, given \(3,\)"):
        other.restore(np.zeros(3))
