"""One instance of a scene looking as another does: the simulated rig's cameras live in a node of their own."""

from __future__ import annotations

import numpy as np
import pytest

from aloha_kit.core import ConfigError
from aloha_kit.sim import SimEnv, workcell

SIZE = (60, 80)
LOOKS = {"light": 0.4, "colour": 0.3, "camera_jitter": 0.02}


def test_another_instance_looks_the_same_at_any_moment_and_seed() -> None:
    acting = SimEnv("transfer_cube", cameras={"top": SIZE, "left_wrist": SIZE}, randomise=LOOKS)
    watching = SimEnv("transfer_cube", cameras={}, randomise=LOOKS, seed=77)
    for seed in (3, 4):
        acting.seed(seed)
        step, expert = acting.reset(), acting.expert()
        expert.reset()
        for _ in range(60):
            step = acting.step(expert.act(step.observation))
        images = watching.show(acting.physics.data.qpos, seed)
        for camera, image in step.observation["images"].items():
            np.testing.assert_array_equal(images.draw(camera, SIZE), image)
    other = watching.show(acting.physics.data.qpos, 3).draw("top", SIZE)
    assert not np.array_equal(other, step.observation["images"]["top"]), "the seed decides the looks"
    # an environment that was shown something else begins its own episodes as ever
    watching.seed(4)
    acting.seed(4)
    np.testing.assert_array_equal(
        watching.step(np.zeros(14, np.float32)).observation["environment_state"],
        acting.reset().observation["environment_state"],
    )
    with pytest.raises(ConfigError, match=r"scene 'transfer_cube' has 23 coordinates, given \(5,\)"):
        watching.show(np.zeros(5), 0)
    acting.close()
    watching.close()


def test_depth_is_along_the_cameras_axis() -> None:
    """By a pinhole camera worked out here; the sky is nowhere."""
    cube, (height, width) = np.array([0.12, 0.56, 0.02]), (120, 160)
    env = SimEnv("transfer_cube", cameras={})
    env.reset_to({"cube": [*cube, 1, 0, 0, 0]})
    images = env.show(env.physics.data.qpos, 0)
    depth = images.draw_depth("top", (height, width))
    assert depth.dtype == np.uint16
    described = workcell.CAMERAS["top"]
    eye, target = np.array(described.position), np.array(described.target)
    assert abs(depth[60, 80] - 1000 * np.linalg.norm(target - eye)) < 3, "the axis meets the table at the target"
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0, 0, 1]) / np.linalg.norm(np.cross(forward, [0, 0, 1]))
    focal, ray = height / 2 / np.tan(np.deg2rad(described.fovy) / 2), cube + [0, 0, 0.02] - eye
    column = width / 2 + focal * (ray @ right) / (ray @ forward)
    row = height / 2 + focal * (ray @ np.cross(forward, right)) / (ray @ forward)
    assert abs(depth[round(row), round(column)] - 1000 * (ray @ forward)) < 3, "the cube's upper face"
    assert images.draw_depth("angle", (height, width))[0, 0] == 0
    assert images.draw("top", (height, width)).std() > 10, "depth leaves colour as it was"
    env.close()
