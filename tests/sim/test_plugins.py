"""Scenes, scripts and cameras of one's own in the workcell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np
import pytest

from aloha_kit.config import ViewConfig
from aloha_kit.core import ConfigError
from aloha_kit.sim import scripts, SimEnv
from aloha_kit.sim.tasks import box, free_body, Scene, Spawn, TransferCube


class Tower(Scene):
    """Rewarded by height alone; nobody shows how."""

    objects = {"cube": Spawn((0.1, 0.1), (0.5, 0.5), 0.02)}  # noqa: RUF012
    max_reward = 0.2

    def build(self, spec: mujoco.MjSpec) -> None:
        spec.add_material(name="cube", rgba=(1, 0, 0, 1))
        box(free_body(spec, "cube", self.objects["cube"]), "cube", (0.02, 0.02, 0.02), (0, 0, 0), "cube", 0.05)

    def reward(self, touching: Any, poses: Mapping[str, Any]) -> float:
        return float(poses["cube"][2])


def resting(poses: Mapping[str, Any]) -> scripts.Script:
    """Nobody moves."""
    return scripts.Script(left=(), right=())


def test_a_scene_of_ones_own_is_rewarded_by_where_its_objects_are() -> None:
    env = SimEnv(f"{__name__}:Tower", cameras={}, quality="draft", episode_len=3)
    env.reset_to({"cube": [0.1, 0.5, 0.12, 1, 0, 0, 0]})
    step = env.step(env.rest_action)
    assert env.max_reward == 0.2
    assert step.reward == pytest.approx(0.12 - 9.81 * 0.02**2 / 2, abs=5e-4)  # it has fallen for one period
    with pytest.raises(ConfigError, match=r"^scene Tower has no script; give the task one"):
        env.expert().reset()


def test_a_script_of_ones_own_replaces_the_scenes() -> None:
    env = SimEnv("transfer_cube", cameras={}, quality="draft", episode_len=20, script=f"{__name__}:resting")
    first = env.reset()
    expert = env.expert()
    expert.reset()
    actions = [expert.act(first.observation) for _ in range(20)]
    np.testing.assert_array_equal(actions[0], actions[-1])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"scene": "aloha_kit.sim:SimEnv"}, r"must be a class derived from WorkcellScene, found <class"),
        (
            {"scene": "transfer_cube", "script": "hand_over"},
            r"no 'hand_over' among the scripts\. Known: insertion, insertion_human, tran",
        ),
        ({"scene": "transfer_cube", "cameras": {"side": (9, 9)}}, r"no simulated camera 'side'\. .*Known: angle, "),
    ],
)
def test_what_does_not_exist_is_named(arguments: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SimEnv(**arguments)


def test_a_camera_stands_and_looks_where_its_view_states() -> None:
    """The model's own camera frame: -z is where it looks."""
    views = {
        "side": ViewConfig((0.9, 0.2, 0.5), (0.1, 0.5, 0.05), 40.0),
        "top": ViewConfig((0.1, 0.5, 1.0), (0.1, 0.5, 0.0), 30.0),  # straight down
        "palm": ViewConfig((0.0, 0.0, 0.1), (0.2, 0.0, 0.0), 70.0, mount="right_gripper"),
    }
    env = SimEnv("transfer_cube", cameras=dict.fromkeys(views, (24, 32)), quality="draft", views=views)
    image = env.reset().observation["images"]
    data, model = env.physics.data, env.physics.model
    hand = data.body("vx300s_right/gripper_link")
    for name, view in views.items():
        turn, origin = (np.eye(3), np.zeros(3)) if view.mount == "world" else (hand.xmat.reshape(3, 3), hand.xpos)
        place, target = (origin + turn @ np.array(point) for point in (view.position, view.target))
        camera = data.camera(name)
        np.testing.assert_allclose(camera.xpos, place, atol=1e-9)
        way = (target - place) / np.linalg.norm(target - place)
        np.testing.assert_allclose(-camera.xmat.reshape(3, 3)[:, 2], way, atol=1e-9)
        assert model.cam(name).fovy == view.fovy
        assert image[name].shape == (24, 32, 3)
        assert image[name].std() > 5


def test_views_leave_the_workcells_own_cameras_alone() -> None:
    plain, more = (
        SimEnv("transfer_cube", cameras={"angle": (24, 32)}, quality="draft", views=views)
        for views in (None, {"side": ViewConfig((0.9, 0.2, 0.5), (0.1, 0.5, 0.05))})
    )
    images = [env.reset().observation["images"]["angle"] for env in (plain, more)]
    np.testing.assert_array_equal(*images)
    assert isinstance(plain.task, TransferCube)
