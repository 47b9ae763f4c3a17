"""Reaching with one arm: bands, reward terms, senses against a kinematics of its own, images, expert."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from aloha_kit.config import load, RigConfig, TaskConfig
from aloha_kit.core import ConfigError, START_ARM_POSE, VX300S
from aloha_kit.envs import connect
from aloha_kit.loop.capabilities import DeltaActions, Demonstrator, RewardTerms, TargetBands
from aloha_kit.loop.guard import SafetyGuard
from aloha_kit.sim import ReachEnv, SimEnv
from aloha_kit.sim.assets import folder
from aloha_kit.sim.reach import START, within_reach
from aloha_kit.testing.environments import check_environment

RATE = 20.0


def make(scene: str = "reach", episode_len: int = 5, **keywords: object) -> ReachEnv:
    return ReachEnv(
        scene, **{"cameras": {}, "rate_hz": RATE, "episode_len": episode_len, "quality": "draft", **keywords}
    )


@pytest.fixture(scope="module")
def env() -> Iterator[ReachEnv]:
    made = make(episode_len=60)
    yield made
    made.close()


def pinch_point(joints: np.ndarray) -> np.ndarray:
    """(3,) m: the point between the pads, by the lengths of the arm's own file, a rotation for each joint."""
    text = (folder() / "vx300s_right.xml").read_text()
    links = {
        "waist": ((0, 0, 0.079), "z"),
        "shoulder": ((0, 0, 0.04805), "y"),
        "elbow": ((0.05955, 0, 0.3), "y"),
        "forearm_roll": ((0.2, 0, 0), "x"),
        "wrist_angle": ((0.1, 0, 0), "y"),
        "wrist_rotate": ((0.069744, 0, 0), "x"),
    }
    for (x, y, z), _ in links.values():
        assert f'pos="{x:g} {y:g} {z:g}"' in text, "the lengths are the arm's"
    position, turn = np.array([0.469, 0.5, 0.0]), Rotation.from_euler("z", np.pi)
    for (offset, axis), angle in zip(links.values(), joints, strict=True):
        position = position + turn.apply(offset)
        turn = turn * Rotation.from_euler(axis, angle)
    return position + turn.apply([0.1437, 0.0, 0.0])


def test_keeps_the_environment_contract() -> None:
    check_environment(lambda: make("reach_dense", cameras={"right_wrist": (16, 16), "top": (16, 24)}), episode_len=5)


def test_it_has_what_reinforcement_learning_needs(env: ReachEnv) -> None:
    for protocol in (TargetBands, RewardTerms, DeltaActions, Demonstrator):
        assert isinstance(env, protocol)
    assert env.contract.action_names == tuple(f"right_{name}" for name in VX300S.names)
    units = {f.name: dict(zip(f.entries, f.units, strict=True)) for f in env.contract.sensors}
    assert units["sensors/target"] == dict.fromkeys(("target_x", "target_y", "target_z"), "m")
    senses = {"gyro": "rad/s", "accelerometer": "m/s^2", "velocimeter": "m/s", "z_axis": "1"}
    assert units["sensors/vestibular"] == {f"{s}_{a}": unit for s, unit in senses.items() for a in "xyz"}


def test_start_distance_and_target_agree_with_the_lengths_of_the_arm(env: ReachEnv) -> None:
    np.testing.assert_allclose(START, pinch_point(START_ARM_POSE), atol=2e-4)
    rng, step = np.random.default_rng(0), env.reset()
    action = env.limits.present(step.observation["qpos"])
    for _ in range(30):
        action = np.clip(action + env.action_delta * rng.uniform(-1, 1, 7), env.limits.lower, env.limits.upper)
        step = env.step(action)
        observed = step.observation
        wanted = observed["environment_state"][:3] - pinch_point(observed["qpos"][:6])
        np.testing.assert_allclose(observed["sensors"]["target"], wanted, atol=1e-5)
        assert env.target_distance == pytest.approx(np.linalg.norm(wanted), abs=1e-5)


def test_targets_are_in_their_band_within_reach_and_everywhere_around(env: ReachEnv) -> None:
    for band, (nearest, farthest) in enumerate(env.bands):
        env.band = band
        places = []
        for seed in range(200):
            env.seed(seed)
            observation = env.reset().observation
            places.append(observation["environment_state"][:3] - START)
            assert nearest <= env.target_distance <= farthest
            assert within_reach(observation["environment_state"][:3].astype(float))
        distances = np.linalg.norm(places, axis=1)
        assert distances.min() < nearest + 0.05 * (farthest - nearest)
        assert distances.max() > farthest - 0.05 * (farthest - nearest)
        assert (np.array(places).min(axis=0) < 0).all()
        assert (np.array(places).max(axis=0) > 0).all()
    env.band = None
    bands = {next(i for i, (a, b) in enumerate(env.bands) if a <= d <= b) for d in distances_of(env, 40)}
    assert bands == {0, 1, 2, 3}, "all of them, without a band"


def distances_of(env: ReachEnv, seeds: int) -> list[float]:
    distances = []
    for seed in range(seeds):
        env.seed(seed)
        env.reset()
        distances.append(env.target_distance)
    return distances


@pytest.mark.parametrize("scene", ["reach", "reach_dense"])
def test_reward_terms_are_what_they_are_called(scene: str) -> None:
    env = make(scene, episode_len=60)
    env.band = 1
    expert, step = env.expert(), env.reset()
    expert.reset()
    inside = []
    while not step.last():
        step = env.step(expert.act(step.observation))
        terms, joints = env.reward_terms, step.observation["qpos"][:6].astype(float)
        inside.append(bool(env.target_distance < 0.03))
        shares = (joints - START_ARM_POSE) / (np.array(VX300S.upper) - VX300S.lower)
        assert terms["inside"] == inside[-1]
        assert terms["posture"] == pytest.approx(-0.05 * np.mean(shares**2), abs=1e-7)
        assert ("distance" in terms) == (scene == "reach_dense")
        assert terms.get("distance", -env.target_distance) == pytest.approx(-env.target_distance)
        assert step.reward == pytest.approx(sum(terms.values()))
        assert env.is_highest(step.reward) == inside[-1]
    assert not inside[0]
    assert inside[-1]


def test_a_wrist_at_rest_feels_gravity_and_a_moving_one_its_turning() -> None:
    env = make(episode_len=300)
    step = env.reset()
    action = np.array(step.observation["qpos"])
    for _ in range(100):
        step = env.step(action)
    senses = step.observation["sensors"]["vestibular"].reshape(4, 3)
    up = Rotation.from_euler("y", -START_ARM_POSE[[1, 2, 4]].sum()).apply([0, 0, 1])
    np.testing.assert_allclose(senses[3], up, atol=2e-2)
    np.testing.assert_allclose(senses[1], 9.81 * senses[3], atol=1e-3)
    np.testing.assert_allclose(senses[[0, 2]], 0, atol=1e-4)
    for _ in range(20):
        action[0] += 0.02
        step = env.step(action)
    senses = step.observation["sensors"]["vestibular"].reshape(4, 3)
    speed = step.observation["qvel"][0]
    assert speed > 0.1
    np.testing.assert_allclose(senses[0], speed * senses[3], atol=0.02)
    radius = 0.469 - pinch_point(START_ARM_POSE)[0] - 0.1437 * up[2]
    np.testing.assert_allclose(senses[2], [0, speed * radius, 0], atol=0.01)


def test_the_expert_reaches_every_band_through_the_guard(env: ReachEnv) -> None:
    guard = SafetyGuard(env.expert(noise=1.0), env.limits)
    for band in range(len(env.bands)):
        env.band = band
        for seed in range(3):
            env.seed(seed)
            step = env.reset()
            guard.reset()
            while not step.last():
                step = env.step(guard.act(step.observation))
            assert env.is_highest(step.reward)
            assert step.discount == 1
    env.band = None
    assert guard.report()["limited"] == 0


def test_deltas_pass_the_guard_unchanged(env: ReachEnv) -> None:
    class Given:
        action = np.zeros(7)

        def reset(self) -> None: ...

        def act(self, _observation: object) -> np.ndarray:
            return self.action

    policy, rng = Given(), np.random.default_rng(1)
    guard = SafetyGuard(policy, env.limits)  # type: ignore[arg-type]
    step = env.reset()
    guard.reset()
    action = env.limits.present(step.observation["qpos"]).astype(np.float32)
    for _ in range(40):
        action = np.clip(action + env.action_delta * rng.choice([-1, 1], 7), env.limits.lower, env.limits.upper)
        policy.action = action = action.astype(np.float32)
        np.testing.assert_allclose(guard.act(step.observation), action, atol=1e-6)
        step = env.step(action)


def test_the_target_is_in_the_images() -> None:
    env = make(cameras={"angle": (48, 64), "right_wrist": (32, 32)})
    env.seed(1)
    images = env.reset().observation["images"]
    env.physics.data.joint("target").qpos[2] = -5.0
    env.physics.forward()
    for camera, size in env.contract.cameras.items():
        without = env._renderer.draw(camera, size).astype(int)
        changed = np.abs(images[camera].astype(int) - without).max(axis=2) > 30
        assert changed.any() or camera == "right_wrist"
        if changed.any():
            red, green, blue = images[camera][changed].mean(axis=0)
            assert red > 2 * max(green, blue)
    assert mujoco.mj_name2id(env.physics.model.ptr, mujoco.mjtObj.mjOBJ_CAMERA, "left_wrist") == -1


def test_the_wrist_camera_shows_targets_ahead_of_the_gripper() -> None:
    env = make(cameras={"right_wrist": (32, 32)})
    ahead = Rotation.from_euler("zy", [np.pi, START_ARM_POSE[[1, 2, 4]].sum()]).apply([0.08, 0, 0])
    image = env.reset_to({"target": [*(START + ahead), 1, 0, 0, 0]}).observation["images"]["right_wrist"].astype(int)
    assert (image[..., 0] > image[..., 1:].max(axis=2) + 60).sum() > 4


def test_configurations_connect() -> None:
    rig = load(RigConfig, "rigs", "vx300s")
    for name in ("reach", "reach_dense", "reach_image"):
        env = connect(load(TaskConfig, "tasks", name), rig)
        assert isinstance(env, ReachEnv)
        assert env.contract.cameras == ({"right_wrist": (64, 64)} if name == "reach_image" else {})
        env.close()
    with pytest.raises(ConfigError, match=r"needs a scene of reaching.*given scene 'insertion'"):
        connect(replace(load(TaskConfig, "tasks", "reach"), scene="insertion"), rig)
    with pytest.raises(ConfigError, match="no simulated camera 'left_wrist'"):
        make(cameras={"left_wrist": (8, 8)})
    with pytest.raises(ConfigError, match="action space 'ee' needs both arms; scene 'reach' has: right"):
        connect(
            replace(load(TaskConfig, "tasks", "reach"), rig="sim", action_space="ee"), load(RigConfig, "rigs", "sim")
        )


def test_both_arms_keep_their_terms() -> None:
    env = SimEnv("transfer_cube", cameras={}, episode_len=3)
    env.reset()
    assert env.reward_terms == {"stage": 0.0}
    assert env.step(env.rest_action).reward == sum(env.reward_terms.values())
