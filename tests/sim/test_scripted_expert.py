"""The scripted experts: they succeed, hold what they have, repeat themselves, and vary with noise."""

from __future__ import annotations

import numpy as np
import pytest

from aloha_kit.core import ConfigError, VX300S
from aloha_kit.loop import run_episode
from aloha_kit.sim import SimEnv


def plan(scene: str, seed: int, noise: float, expert_seed: int = 0) -> np.ndarray:
    env = SimEnv(scene, cameras={}, seed=seed)
    observation = env.reset().observation
    expert = env.expert(noise=noise, seed=expert_seed)
    expert.reset()
    return np.array([expert.act(observation) for _ in range(env.episode_len)])


@pytest.mark.parametrize("scene", ["transfer_cube", "insertion"])
@pytest.mark.parametrize(("noise", "seeds"), [(0.0, range(40, 43)), (1.0, range(50, 53))])
def test_it_succeeds_and_holds(scene: str, noise: float, seeds: range) -> None:
    env = SimEnv(scene, cameras={}, seed=seeds[0])
    expert = env.expert(noise=noise, seed=5)

    class Rewards:
        def on_reset(self, timestep) -> None:
            self.rewards = []

        def on_step(self, action, timestep) -> None:
            self.rewards.append(timestep.reward)

        def on_end(self, outcome) -> None:
            pass

    rewards = Rewards()
    for _ in seeds:
        outcome = run_episode(env, expert, [rewards])
        assert outcome.final_reward == env.max_reward == 4
        assert min(rewards.rewards[-60:]) == 4, "held, not touched in passing"


def test_corners_of_the_spawn_regions() -> None:
    env = SimEnv("transfer_cube", cameras={})
    expert = env.expert()
    for x in (0.0, 0.2):
        for y in (0.4, 0.6):
            step = env.reset_to({"cube": [x, y, 0.02, 1, 0, 0, 0]})
            expert.reset()
            while not step.last():
                step = env.step(expert.act(step.observation))
            assert step.reward == 4, (x, y)


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_the_plan_repeats_from_state_and_seed(noise: float) -> None:
    np.testing.assert_array_equal(plan("transfer_cube", 3, noise, 8), plan("transfer_cube", 3, noise, 8))


def test_noise_varies_the_motion_and_its_absence_does_not() -> None:
    calm = plan("insertion", 3, 0.0, 1)
    np.testing.assert_array_equal(calm, plan("insertion", 3, 0.0, 2))
    one, two = plan("insertion", 3, 1.0, 1), plan("insertion", 3, 1.0, 2)
    assert np.abs(one - two).max() > 0.05
    assert np.abs(one - calm).max() > 0.05
    env = SimEnv("insertion", cameras={}, seed=3)
    observation = env.reset().observation
    expert = env.expert(noise=1.0)
    takes = []
    for _ in range(2):
        expert.reset()
        takes.append(np.array([expert.act(observation) for _ in range(400)]))
    assert np.abs(takes[0] - takes[1]).max() > 0.05, "each reset of one expert differs"


@pytest.mark.parametrize("scene", ["transfer_cube", "insertion"])
def test_commands_are_smooth_and_within_limits(scene: str) -> None:
    actions = plan(scene, 6, 1.0).reshape(400, 2, 7)
    joints = actions[..., :6]
    assert (joints >= np.array(VX300S.lower) - 1e-5).all()
    assert (joints <= np.array(VX300S.upper) + 1e-5).all()
    assert actions[..., 6].min() >= 0
    assert actions[..., 6].max() <= 1
    velocity = np.abs(np.diff(joints, axis=0)).max() * 50
    assert velocity < VX300S.velocity, f"{velocity} rad/s"
    start = SimEnv(scene, cameras={}).reset().observation["qpos"].reshape(2, 7)
    assert np.abs(joints[0] - start[:, :6]).max() < 0.01, "no jump from the start pose"


def test_after_the_plan_it_holds_still() -> None:
    env = SimEnv("transfer_cube", cameras={}, episode_len=400)
    observation = env.reset().observation
    expert = env.expert()
    expert.reset()
    actions = [expert.act(observation) for _ in range(420)]
    np.testing.assert_array_equal(actions[-1], actions[399])


def test_mistakes_are_named() -> None:
    env = SimEnv("transfer_cube", cameras={})
    with pytest.raises(ConfigError, match="motion noise must be at least 0, given -1"):
        env.expert(noise=-1)
    with pytest.raises(ConfigError, match=r"no 'transfer_cubes' among the scripts\. Did you mean 'transfer_cube'\?"):
        SimEnv("transfer_cube", cameras={}, script="transfer_cubes")
    env.reset_to({"cube": [0.1, 3.0, 0.02, 1, 0, 0, 0]})
    with pytest.raises(ValueError, match="the right gripper does not reach"):
        env.expert().reset()


@pytest.mark.parametrize(
    ("peg", "socket"), [(-0.01, 0.0), (0.01, 0.0), (0.0, -0.008), (-0.008, 0.008), (0.008, -0.008)]
)
def test_an_insertion_has_room_for_a_grasp_that_is_off(peg: float, socket: float) -> None:
    """Parts that lie elsewhere (m along x) than the plan believes are grasped off centre; it still succeeds."""
    env = SimEnv("insertion", cameras={}, seed=4)
    expert = env.expert()
    env.reset()
    expert.reset()
    poses = env.object_poses()
    poses["peg"][0] += peg
    poses["socket"][0] += socket
    step = env.reset_to(poses)
    while not step.last():
        step = env.step(expert.act(step.observation))
    assert step.reward == 4
