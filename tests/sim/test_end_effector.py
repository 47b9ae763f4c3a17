"""Gripper poses as actions: the environment contract, frames and units, joint limits, and the expert in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from aloha_kit.config import load, RigConfig, TaskConfig
from aloha_kit.core import aloha_limits, ConfigError, Contract, joint_names, VX300S
from aloha_kit.core.end_effector import action_space
from aloha_kit.envs import connect
from aloha_kit.loop import run_episode, SafetyGuard
from aloha_kit.sim import EndEffectorEnv, SimEnv
from aloha_kit.sim.end_effector import change, moved, pose_entries, pose_matrix
from aloha_kit.testing.environments import check_environment
from tests.sim.test_kinematics import product_of_exponentials

SPACES = ["ee", "ee_delta"]
START = np.array([0, -0.96, 1.16, 0, -0.3, 0])


def environment(space: str, **keywords) -> EndEffectorEnv:
    return EndEffectorEnv("transfer_cube", space=space, cameras={}, **keywords)


def turned(axis: int, angle: float) -> np.ndarray:
    """(3, 3) rotation about a coordinate axis."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
    return matrix


@pytest.mark.parametrize("space", SPACES)
def test_keeps_the_environment_contract(space: str) -> None:
    check_environment(lambda: environment(space, episode_len=6), episode_len=6)


@pytest.mark.parametrize(("space", "size"), [("ee", 20), ("ee_delta", 14)])
def test_the_contract_names_entries_and_units(space: str, size: int) -> None:
    contract = environment(space).contract
    state, action = contract.features[:2]
    assert (state.shape, action.shape) == ((32,), (size,))
    assert contract.state_names[:14] == joint_names()
    units = dict(zip(action.entries, action.units, strict=True)) | dict(zip(state.entries, state.units, strict=True))
    assert (units["left_x"], units["right_rot6d_6"], units["left_waist"]) == ("m", "1", "rad")
    assert units["left_gripper"].startswith("0 closed")
    if space == "ee_delta":
        assert (units["left_dx"], units["right_drz"]) == ("m", "rad")
    assert action_space(Contract.from_json(contract.to_json())) == space
    assert action_space(SimEnv("transfer_cube", cameras={}).contract) is None


def test_the_state_is_the_pose_in_the_world() -> None:
    env = environment("ee")
    qpos = env.reset().observation["qpos"]
    for i, arm in enumerate(("left", "right")):
        wanted = product_of_exponentials(arm, START)
        np.testing.assert_allclose(qpos[14 + 9 * i :][:9], pose_entries(wanted), atol=2e-5)
        np.testing.assert_allclose(qpos[14 + 9 * i :][3:6], wanted[:3, 0], atol=2e-5)
        np.testing.assert_allclose(qpos[14 + 9 * i :][6:9], wanted[:3, 1], atol=2e-5)


@pytest.mark.parametrize("space", SPACES)
def test_a_gripper_goes_where_it_is_sent(space: str) -> None:
    """4 cm along the world's y and z and 0.3 rad about its z, in 30 steps; the arm comes to rest there."""
    env = environment(space, episode_len=90)
    env.reset()
    wanted = product_of_exponentials("left", START)
    other = product_of_exponentials("right", START)
    steps, shift, turn = 30, np.array([0, 0.04, 0.04]), 0.3
    for k in range(90):
        share = min(k + 1, steps) / steps
        if space == "ee":
            now = wanted.copy()
            now[:3, 3] += share * shift
            now[:3, :3] = turned(2, share * turn) @ wanted[:3, :3]
            rows = [[*pose_entries(now), 0.5], [*pose_entries(other), 0.2]]
        else:
            moves = k < steps
            rows = [[*(moves * shift / steps), 0, 0, moves * turn / steps, 0.5], [0, 0, 0, 0, 0, 0, 0.2]]
        qpos = env.step(np.ravel(rows).astype(np.float32)).observation["qpos"]
    np.testing.assert_allclose(qpos[14:17], wanted[:3, 3] + shift, atol=1e-3)
    np.testing.assert_allclose(pose_matrix(qpos[14:23])[:3, :3], turned(2, turn) @ wanted[:3, :3], atol=3e-3)
    np.testing.assert_allclose(qpos[23:32], pose_entries(other), atol=3e-3)
    np.testing.assert_allclose(qpos[[6, 13]], [0.5, 0.2], atol=0.02)
    np.testing.assert_allclose(qpos[14:23], pose_entries(product_of_exponentials("left", qpos[:6])), atol=2e-5)


@pytest.mark.parametrize("space", SPACES)
def test_no_action_exceeds_the_joint_limits_or_speed(space: str) -> None:
    env = environment(space, episode_len=60)
    limits = aloha_limits(SimEnv("transfer_cube", cameras={}).contract)
    rng = np.random.default_rng(3)
    for _ in range(3):
        env.reset()
        before = env.physics.data.ctrl.copy()
        action = env.limits.present(env.reset().observation["qpos"])
        for _ in range(60):
            action = rng.uniform(env.limits.lower, env.limits.upper) if rng.random() < 0.1 else action
            env.step(action.astype(np.float32))
            command = env.physics.data.ctrl.copy()
            joints = np.r_[0:6, 7:13]
            assert (command[joints] >= np.tile(VX300S.lower, 2) - 1e-6).all()
            assert (command[joints] <= np.tile(VX300S.upper, 2) + 1e-6).all()
            # what makes up for gravity, at most 0.06 rad, changes with the pose too
            assert (np.abs(command - before)[joints] <= limits.step[joints] + 0.06).all()
            before = command


def test_a_gripper_out_of_reach_stands_still() -> None:
    """A pose 40 cm beyond the left arm's reach: it stretches towards it, comes to rest, and returns."""
    env = environment("ee", episode_len=400)
    qpos = env.reset().observation["qpos"]
    home = env.limits.present(qpos).astype(np.float32)
    far = home.copy()
    far[:3] = [0.1, 1.3, 0.9]
    for _ in range(200):
        observation = env.step(far).observation
    assert np.abs(observation["qvel"][:6]).max() < 1e-6
    assert observation["qpos"][15] > 0.9, "stretched towards it"
    for _ in range(150):
        observation = env.step(home).observation
    np.testing.assert_allclose(observation["qpos"][14:32], qpos[14:32], atol=0.01)


def test_changes_do_not_wind_up() -> None:
    """2 m beyond the reach, away from the other arm, then back: the arm moves back at once."""
    env = environment("ee_delta", episode_len=300)
    env.reset()
    out = np.zeros(14, np.float32)
    out[1] = -0.02
    for _ in range(100):
        stretched = env.step(out).observation["qpos"][15]
    for _ in range(10):
        back = env.step(-out).observation["qpos"][15]
    assert back - stretched > 0.04


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("scene", ["transfer_cube", "insertion"])
def test_the_expert_succeeds_within_the_guards_limits(scene: str, space: str) -> None:
    env = EndEffectorEnv(scene, space=space, cameras={}, seed=11)
    guard = SafetyGuard(env.expert(noise=1.0, seed=2), env.limits)
    assert run_episode(env, guard).final_reward == 4
    assert guard.report()["limited"] == 0


def test_changes_of_a_pose() -> None:
    pose = product_of_exponentials("right", np.array([0.2, -0.4, 0.8, 0.1, 0.5, 0.2]))
    after = moved(pose, [0.01, -0.02, 0.03, 0.0, 0.2, 0.0])
    np.testing.assert_allclose(after[:3, 3] - pose[:3, 3], [0.01, -0.02, 0.03], atol=1e-12)
    np.testing.assert_allclose(after[:3, :3], turned(1, 0.2) @ pose[:3, :3], atol=1e-12)
    np.testing.assert_allclose(change(pose, after), [0.01, -0.02, 0.03, 0.0, 0.2, 0.0], atol=1e-12)


def test_axes_of_a_prediction_are_made_a_rotation() -> None:
    x, y = np.array([0.0, 3.0, 0.0]), np.array([0.5, 7.0, 0.0])  # neither of unit length nor orthogonal
    matrix = pose_matrix([1, 2, 3, *x, *y])
    np.testing.assert_allclose(matrix, [[0, 1, 0, 1], [1, 0, 0, 2], [0, 0, -1, 3], [0, 0, 0, 1]], atol=1e-12)
    for axes in (np.zeros(6), np.r_[x, x], np.r_[x, -x], np.r_[np.zeros(3), y]):
        turn = pose_matrix([0, 0, 0, *axes])[:3, :3]
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(turn) == pytest.approx(1)


def test_only_a_simulation_of_arms_has_a_choice() -> None:
    task = load(TaskConfig, "tasks", "sim_transfer_cube")
    rig = load(RigConfig, "rigs", "sim")
    env = connect(replace(task, action_space="ee_delta", cameras=()), rig)
    assert action_space(env.contract) == "ee_delta"
    env.close()
    with pytest.raises(ConfigError, match=r"rig 'sim' has no action space 'eef'; there are: joints, ee, ee_delta"):
        connect(replace(task, action_space="eef"), rig)
    with pytest.raises(ConfigError, match=r"'pusht' has no action space 'ee'; its actions are as they are"):
        connect(replace(task, action_space="ee", cameras=()), replace(rig, name="pusht", kind="pusht"))
