"""SimEnv keeps the environment contract; units, rates and mistakes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from aloha_kit.core import ConfigError, VirtualClock, VX300S
from aloha_kit.sim import SimEnv
from aloha_kit.testing.environments import check_environment


@pytest.mark.parametrize("scene", ["transfer_cube", "insertion"])
def test_keeps_the_environment_contract(scene: str) -> None:
    cameras = {"top": (24, 32), "left_wrist": (16, 16)}
    check_environment(lambda: SimEnv(scene, cameras=cameras, episode_len=6, quality="draft"), episode_len=6)


def test_keeps_the_contract_without_cameras_and_at_another_rate() -> None:
    check_environment(lambda: SimEnv("transfer_cube", cameras={}, episode_len=4, rate_hz=25), episode_len=4)


def test_an_episode_begins_in_the_start_pose_at_rest() -> None:
    env = SimEnv("transfer_cube", cameras={})
    observation = env.reset().observation
    arm = [0, -0.96, 1.16, 0, -0.3, 0, (0.02239 - 0.01844) / (0.058 - 0.01844)]
    np.testing.assert_allclose(observation["qpos"], arm * 2, atol=1e-6)
    np.testing.assert_array_equal(observation["qvel"], np.zeros(14))
    np.testing.assert_allclose(observation["effort"], np.zeros(14), atol=1e-5)


def test_objects_lie_in_acts_spawn_regions() -> None:
    regions = {
        "transfer_cube": [((0.0, 0.2), (0.4, 0.6))],
        "insertion": [((0.1, 0.2), (0.4, 0.6)), ((-0.2, -0.1), (0.4, 0.6))],
    }
    for scene, boxes in regions.items():
        env = SimEnv(scene, cameras={})
        states = np.array([env.reset().observation["environment_state"] for _ in range(60)]).reshape(60, -1, 7)
        for i, ((x0, x1), (y0, y1)) in enumerate(boxes):
            x, y = states[:, i, 0], states[:, i, 1]
            assert x0 <= x.min() < x0 + 0.2 * (x1 - x0), "the region is used from end to end"
            assert x1 - 0.2 * (x1 - x0) < x.max() <= x1
            assert y0 <= y.min() < y0 + 0.04
            assert y1 - 0.04 < y.max() <= y1
            np.testing.assert_array_equal(states[:, i, 3:], np.tile([1, 0, 0, 0], (60, 1)))


def test_objects_rest_where_they_are_put() -> None:
    env = SimEnv("insertion", cameras={}, episode_len=50)
    begin = env.reset()
    step = begin
    while not step.last():
        step = env.step(begin.observation["qpos"])
    moved = step.observation["environment_state"] - begin.observation["environment_state"]
    assert np.abs(moved).max() < 5e-4


def test_grippers_are_normalised_and_both_fingers_move() -> None:
    env = SimEnv("transfer_cube", cameras={}, episode_len=60)
    action = env.reset().observation["qpos"].copy()
    action[[6, 13]] = [0.9, 0.4]
    for _ in range(60):
        observation = env.step(action).observation
    np.testing.assert_allclose(observation["qpos"][[6, 13]], [0.9, 0.4], atol=1e-3)
    for arm, opening in (("left", 0.9), ("right", 0.4)):
        metres = 0.01844 + 0.03956 * opening
        fingers = [env.physics.data.joint(f"vx300s_{arm}/{side}_finger").qpos[0] for side in ("left", "right")]
        np.testing.assert_allclose(fingers, [metres, -metres], atol=1e-4)


@pytest.mark.parametrize(("requested", "metres"), [(3.0, 0.057), (-3.0, 0.021)])
def test_a_gripper_commanded_too_far_goes_as_far_as_it_can(requested: float, metres: float) -> None:
    env = SimEnv("transfer_cube", cameras={}, episode_len=60)
    action = env.reset().observation["qpos"].copy()
    action[6] = requested
    for _ in range(60):
        observation = env.step(action).observation
    assert VX300S.finger.unnormalise(observation["qpos"][6]) == pytest.approx(metres, abs=1.5e-3)


def test_effort_is_what_the_servos_push_in_newton_metres() -> None:
    """An arm at rest holds its own weight: torque by finite differences of its potential energy."""
    env = SimEnv("transfer_cube", cameras={}, episode_len=200)
    action = env.reset().observation["qpos"]
    for _ in range(150):
        observation = env.step(action).observation
    physics, model = env.physics, env.physics.model
    arm = [i for i in range(model.nbody) if model.body(i).name.startswith("vx300s_left")]

    def energy(joint: str, shift: float) -> float:
        with physics.reset_context():
            physics.data.qpos[:] = rest
            physics.data.joint(f"vx300s_left/{joint}").qpos[0] += shift
        heights = physics.data.xipos[arm, 2]
        return float(9.81 * (model.body_mass[arm] * heights).sum())

    rest = physics.data.qpos.copy()
    for index, joint in ((1, "shoulder"), (2, "elbow"), (4, "wrist_angle")):
        torque = (energy(joint, 1e-4) - energy(joint, -1e-4)) / 2e-4
        assert observation["effort"][index] == pytest.approx(torque, abs=0.02), joint
    assert abs(observation["effort"][2]) > 1.0, "the elbow has something to hold"


def test_time_is_the_clocks_and_lateness_shows() -> None:
    class SlowStart(VirtualClock):
        """The third wait takes 5 ms too long."""

        waits = 0

        def sleep_until(self, deadline_ns: int) -> None:
            self.waits += 1
            super().sleep_until(deadline_ns + (5_000_000 if self.waits == 3 else 0))

    env = SimEnv("transfer_cube", cameras={"top": (8, 8)}, quality="draft", clock=SlowStart(1_000))
    observation = env.reset().observation
    stamps = [observation["stamps"]]
    for _ in range(4):
        stamps.append(env.step(observation["qpos"]).observation["stamps"])
    deadlines = [1_000 + k * 20_000_000 for k in range(5)]
    assert [each["deadline"] for each in stamps] == deadlines
    assert [each["images/top"] - due for each, due in zip(stamps, deadlines, strict=True)] == [0, 0, 0, 5_000_000, 0]
    env.close()


def test_simulated_time_is_the_physics_time() -> None:
    env = SimEnv("transfer_cube", cameras={}, rate_hz=25)
    action = env.reset().observation["qpos"]
    for _ in range(3):
        env.step(action)
    assert env.physics.data.time == pytest.approx(3 / 25)


def test_an_episode_can_be_redone_from_recorded_poses() -> None:
    env = SimEnv("insertion", cameras={})
    peg, socket = np.array([0.15, 0.45, 0.01, 1, 0, 0, 0]), np.array([-0.15, 0.55, 0.022, 1, 0, 0, 0])
    observation = env.reset_to({"socket": socket, "peg": peg}).observation
    np.testing.assert_allclose(observation["environment_state"], np.concatenate([peg, socket]), atol=1e-7)
    np.testing.assert_allclose(env.object_poses()["socket"], socket)
    with pytest.raises(ConfigError, match=r"no object 'pegg' in scene 'insertion'. Did you mean 'peg'\?"):
        env.reset_to({"pegg": peg, "socket": socket})
    with pytest.raises(ConfigError, match="needs a pose of: socket"):
        env.reset_to({"peg": peg})


def test_it_describes_itself_for_the_episode() -> None:
    env = SimEnv("transfer_cube", cameras={}, seed=11, randomise={"light": 0.2})
    env.reset()
    env.reset()
    described = json.loads(json.dumps(env.describe()))
    assert described["scene"] == "transfer_cube"
    assert described["seed"] == 12
    assert described["randomise"] == {"light": 0.2}
    assert described["quality"] == "fast"
    names = env.contract.privileged[0].entries
    assert names == tuple(f"cube_{axis}" for axis in ("x", "y", "z", "qw", "qx", "qy", "qz"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scene": "transfer_cub"}, "no 'transfer_cub' among the scenes. Did you mean 'transfer_cube'?"),
        ({"cameras": {"tpo": (8, 8)}}, "no simulated camera 'tpo'. Did you mean 'top'?"),
        ({"cameras": {"top": (0, 8)}}, "camera 'top' needs (height, width) from 1 to 4096 pixels, given (0, 8)"),
        ({"cameras": {"top": (8, 8, 3)}}, "camera 'top' needs (height, width)"),
        ({"quality": "fst"}, "no image quality 'fst'. Did you mean 'fast'?"),
        ({"randomise": {"lihgt": 1.0}}, "no randomisation 'lihgt'. Did you mean 'light'?"),
        ({"randomise": {"light": -1.0}}, "randomisation 'light' needs an amount of at least 0, given -1.0"),
        ({"rate_hz": 60.0}, "60 Hz is no whole number of 2 ms physics steps"),
        ({"rate_hz": 0.0}, "rate_hz must be positive, given 0"),
        ({"episode_len": 0}, "an episode needs at least 1 step, given episode_len 0"),
    ],
)
def test_mistakes_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        SimEnv(**{"scene": "transfer_cube", "cameras": {}, **arguments})
    assert message in str(error.value)
