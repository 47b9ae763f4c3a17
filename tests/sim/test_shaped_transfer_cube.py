"""The shaped reward of the transfer along a demonstration, from the places of pads and cube."""

from __future__ import annotations

import numpy as np
import pytest

from aloha_kit.config import load, RigConfig, TaskConfig
from aloha_kit.envs import connect
from aloha_kit.sim import SimEnv
from aloha_kit.testing.environments import check_environment


def test_terms_are_distances_until_the_left_fingers_touch_the_cube() -> None:
    task = load(TaskConfig, "tasks", "sim_transfer_cube_shaped")
    env = connect(task, load(RigConfig, "rigs", task.rig))
    assert isinstance(env, SimEnv)
    env.seed(1)
    expert, step, stages = env.expert(), env.reset(), []
    expert.reset()
    while not step.last():
        step = env.step(expert.act(step.observation))
        terms = dict(env.reward_terms)
        stages.append(terms["stage"])
        for name, arm in (("reach", "right"), ("handover", "left")):
            pads = [env.physics.data.geom(f"{arm}_{side}_pad").xpos for side in ("left", "right")]
            away = np.linalg.norm(np.mean(pads, axis=0) - env.physics.data.geom("cube").xpos)
            assert terms[name] == pytest.approx(
                0 if stages[-1] >= 3 else -away, abs=0.025
            )  # from the middle of the pads
        assert step.reward == pytest.approx(sum(terms.values()))
        assert env.is_highest(step.reward) == (stages[-1] == 4)
    assert {0, 1, 2, 4} <= set(stages)
    assert stages[-1] == 4


def test_keeps_the_environment_contract() -> None:
    check_environment(lambda: SimEnv("transfer_cube_shaped", cameras={}, episode_len=5), episode_len=5)
