"""The wrapper: spaces, absolute commands, terminations, images, bands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from aloha_kit.core import ConfigError, Outcome, time_step
from aloha_kit.rl.environment import EnvironmentSetup
from aloha_kit.rl.gym import EPISODE, GymEnv

Make = Any


def made(*groups: str, seed: int = 0) -> tuple[GymEnv, Any]:
    setup = EnvironmentSetup.of("reach.yaml", groups, (36, 40))
    env: Any = setup.connect()
    return GymEnv(env, groups, seed=seed), env


def test_it_keeps_the_contract_of_gymnasium(here: Path) -> None:
    gym, _ = made("joints", "target", "top_image")
    check_env(gym, skip_render_check=True)
    assert {name: box.shape for name, box in gym.observation_space.items()} == {
        "joints": (2,),
        "target": (2,),
        "top_image": (3, 36, 40),
    }
    assert gym.action_space.shape == (2,)


def test_deltas_become_absolute_commands_behind_the_guard(here: Path) -> None:
    gym, env = made("joints", "target")
    commands: list[Any] = []
    usual = env.step
    env.step = lambda action: commands.append(action.copy()) or usual(action)
    first, _ = gym.reset(seed=3)
    np.testing.assert_array_equal(first["joints"], [0, 0])
    for _ in range(3):
        observed, *_ = gym.step(np.array([1.0, -0.2], np.float32))
    # a step of the limits is 0.1 m, their ramp a third of it, which is below the 0.05 m of the environment
    np.testing.assert_allclose(np.array(commands)[:, 0], [0.1 / 3, 0.2 / 3, 0.1], atol=1e-6)
    np.testing.assert_allclose(np.array(commands)[:, 1], [-0.02 / 3, -0.04 / 3, -0.02], atol=1e-6)
    np.testing.assert_allclose(observed["joints"], commands[-1])
    np.testing.assert_allclose(observed["target"], env.goal - commands[-1], atol=1e-6)
    for _ in range(30):  # beyond 1 m it stays
        gym.step(np.array([5.0, 0.0], np.float32))
    assert max(command[0] for command in commands) <= 1.0


def test_an_image_is_rendered_only_where_a_group_reads_it(here: Path) -> None:
    gym, env = made("joints")
    gym.reset()
    gym.step(np.zeros(2, np.float32))
    assert env.contract.cameras == {}
    assert env.drawn == []
    gym, env = made("side_image", "joints")
    observed, _ = gym.reset()
    assert env.contract.cameras == {"side": (36, 40)}
    assert observed["side_image"].shape == (3, 36, 40)
    np.testing.assert_array_equal(np.moveaxis(observed["side_image"], 0, -1), env._image(36, 40))


@pytest.mark.parametrize(("success", "ended"), [(True, (True, False)), (False, (False, True))])
def test_only_discount_0_is_a_termination(here: Path, success: bool, ended: tuple[bool, bool]) -> None:
    gym, env = made("joints")
    usual = env.step
    env.step = lambda action: time_step(0.25, usual(action).observation, last=True, success=success)
    gym.reset()
    _, reward, terminated, truncated, info = gym.step(np.zeros(2, np.float32))
    assert (reward, terminated, truncated) == (0.25, *ended)
    assert info[EPISODE]["terminated"] is success
    assert info[EPISODE]["steps"] == 1


def test_an_episode_is_summed_up(here: Path) -> None:
    gym, env = made("joints", "target")
    gym.set_bands((0.0, 1.0))
    observed, _ = gym.reset(seed=5)
    assert 0.3 <= np.linalg.norm(observed["target"]) <= 0.6
    rewards, terms, distances = [], {"inside": 0.0, "motion": 0.0}, [np.linalg.norm(env.goal)]
    done = False
    while not done:
        way = np.clip(observed["target"] / 0.04, -1, 1)
        observed, reward, terminated, done, info = gym.step(way.astype(np.float32))
        assert not terminated
        rewards.append(reward)
        distances.append(np.linalg.norm(observed["target"]))
        terms = {name: value + env.terms[name] for name, value in terms.items()}
    summary = info[EPISODE]
    assert (summary["band"], summary["success"], summary["steps"], summary["paid"]) == (1, True, 20, True)
    assert summary["returned"] == pytest.approx(sum(rewards))
    assert summary["terms"] == pytest.approx(terms)
    assert summary["distance"] == pytest.approx(distances[-1], abs=1e-6)
    assert summary["nearest"] == pytest.approx(min(distances), abs=1e-6)
    assert env.succeeded(Outcome(20, rewards[-1], 1.0, "complete"))


def test_unknown_groups_cameras_and_small_images_are_named(here: Path) -> None:
    with pytest.raises(ConfigError, match=r"no observation group 'targets'. Did you mean 'target'\? Known: joints"):
        made("targets")
    setup = EnvironmentSetup.of("reach.yaml", ("top_image",), (20, 20))
    with pytest.raises(ConfigError, match="images of 36 x 36 pixels or more"):
        GymEnv(setup.connect(), ("top_image",))
    with pytest.raises(ConfigError, match=r"rig 'point' has no camera 'tip'. Did you mean 'top'\?"):
        setup.with_cameras(("tip",))
    nothing = replace(setup, task=replace(setup.task, cameras=()))
    with pytest.raises(ConfigError, match="no observation group 'top_image'"):
        GymEnv(nothing.connect(), ("top_image",))
