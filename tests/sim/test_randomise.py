"""Randomised looks: seeded, bounded, from the same model each time, and never in the physics."""

from __future__ import annotations

import numpy as np
import pytest

from aloha_kit.sim import SimEnv
from aloha_kit.sim.randomise import OPTIONS

SIZE = {"top": (36, 48)}


def image(env: SimEnv, seed: int) -> np.ndarray:
    env.seed(seed)
    return env.reset().observation["images"]["top"]


@pytest.mark.parametrize("option", sorted(OPTIONS))
def test_each_option_changes_the_image_by_its_seed_alone(option: str) -> None:
    poses = {"cube": np.array([0.1, 0.5, 0.02, 1, 0, 0, 0])}
    amount = 0.02 if option == "camera_jitter" else 0.3
    plain = SimEnv("transfer_cube", cameras=SIZE, quality="fast")
    varied = SimEnv("transfer_cube", cameras=SIZE, quality="fast", randomise={option: amount})

    def at(env: SimEnv, seed: int) -> np.ndarray:
        env.seed(seed)
        env.reset()  # the seed is what the next pose is drawn with as well
        return env.reset_to(poses).observation["images"]["top"]

    one, two, one_again = at(varied, 1), at(varied, 2), at(varied, 1)
    np.testing.assert_array_equal(one, one_again)
    assert np.abs(one.astype(int) - two).mean() > 0.2
    assert np.abs(one.astype(int) - at(plain, 1)).mean() > 0.2
    np.testing.assert_array_equal(at(plain, 1), at(plain, 2))
    varied.close()
    plain.close()


def test_objects_and_motion_are_those_without_it() -> None:
    plain = SimEnv("insertion", cameras={}, seed=9)
    varied = SimEnv("insertion", cameras={}, seed=9, randomise=dict.fromkeys(OPTIONS, 0.1))
    for env in (plain, varied):
        action = env.reset().observation["qpos"] + 0.05
        for _ in range(5):
            env.step(action.astype(np.float32))
    np.testing.assert_array_equal(plain.physics.data.qpos, varied.physics.data.qpos)


def test_amounts_bound_the_change_and_do_not_add_up() -> None:
    plain = SimEnv("transfer_cube", cameras={})
    env = SimEnv("transfer_cube", cameras={}, randomise={"camera_jitter": 0.01, "colour": 0.1, "light": 0.2})
    base, model = plain.physics.model, env.physics.model
    moved = []
    for _ in range(30):
        env.reset()
        shift = model.cam_pos - base.cam_pos
        assert np.abs(shift).max() <= 0.01 + 1e-12
        turn = 2 * np.arccos(np.clip(np.abs((model.cam_quat * base.cam_quat).sum(axis=1)), 0, 1))
        assert turn.max() <= 0.04 * np.sqrt(3) + 1e-6
        assert np.abs(model.mat_rgba - base.mat_rgba).max() <= 0.1 + 1e-6
        np.testing.assert_array_equal(model.mat("table").rgba, base.mat("table").rgba)
        assert (np.abs(model.light_diffuse / base.light_diffuse - 1) <= 0.2 + 1e-6).all()
        moved.append(shift)
    spread = np.std(moved, axis=0)
    assert (spread > 0.003).all(), "uniform over ±1 cm has a deviation of 5.8 mm"
