"""Lift in the environment that `make robosuite` builds; elsewhere these tests are skipped (`make test-robosuite`)."""

from __future__ import annotations

import dataclasses
import importlib.util
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from aloha_kit.config import load, RigConfig, TaskConfig
from aloha_kit.convert.__main__ import main as convert
from aloha_kit.core import ConfigError, EpisodeError
from aloha_kit.core.source import EpisodeData
from aloha_kit.envs import connect
from aloha_kit.formats import open_source
from aloha_kit.loop import run_episode
from aloha_kit.record.__main__ import main as record
from aloha_kit.testing.environments import check_environment

if importlib.util.find_spec("robosuite") is None:
    pytest.skip("robosuite is not in this environment", allow_module_level=True)


from aloha_kit.lift import Lift


@pytest.fixture(scope="module")
def lift() -> Lift:
    return Lift()


def test_it_keeps_the_contract_of_environments() -> None:
    cameras = {"agentview": (32, 40), "robot0_eye_in_hand": (24, 24)}
    check_environment(lambda: Lift(cameras=cameras, episode_len=5), episode_len=5)


def test_an_action_of_one_is_a_target_5_cm_away(lift: Lift) -> None:
    lift.seed(1)
    start = lift.reset().observation["qpos"]
    action = np.zeros(7, np.float32)
    action[1] = 1
    moved = [lift.step(action).observation["qpos"] for _ in range(20)][-1] - start
    assert 0.15 < moved[1] < 1.0  # it follows the target with a delay
    assert abs(moved[0]) < 0.03
    assert abs(moved[2]) < 0.03


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_the_expert_lifts_every_cube(lift: Lift, noise: float) -> None:
    for seed in range(5):
        lift.seed(seed)
        outcome = run_episode(lift, lift.expert(noise=noise, seed=seed), [])
        assert lift.succeeded(outcome), f"seed {seed}"
        assert outcome.steps < 100


def test_a_recorded_episode_gives_its_simulator_states_again(lift: Lift) -> None:
    """In the model of the record, its states have the end effector and the cube where the observations have them.

    robosuite observes one step of 2 ms before the end of a control step, in which they move by less than 2 mm.
    """
    import mujoco  # once aloha_kit.lift has settled how it draws

    expert, qpos, poses, actions = lift.expert(noise=0.5, seed=3), [], [], []
    lift.seed(3)
    expert.reset()
    step, described = lift.reset(), lift.describe()
    while not step.last():
        qpos.append(step.observation["qpos"])
        poses.append(step.observation["environment_state"])
        actions.append(expert.act(step.observation))
        step = lift.step(actions[-1])
    episode = EpisodeData("a", lift.contract, np.array(actions), np.array(qpos), _no_image, describe=described)
    record = lift.simulate_again(episode)
    assert record.env_args == described["env_args"]
    model = mujoco.MjModel.from_xml_string(record.model)
    data = mujoco.MjData(model)
    assert record.states.shape == (len(actions), 1 + model.nq + model.nv)
    for state, robot, objects in zip(record.states, qpos, poses, strict=True):
        data.qpos[:] = state[1 : 1 + model.nq]
        mujoco.mj_forward(model, data)
        np.testing.assert_allclose(data.site("gripper0_right_grip_site").xpos, robot[:3], atol=2e-3)
        np.testing.assert_allclose(data.body("cube_main").xpos, objects[:3], atol=2e-3)
    episode.qpos[5] += 0.01
    with pytest.raises(EpisodeError, match=r"does not come out again in the simulator \(robosuite .*: at step 5"):
        lift.simulate_again(episode)
    with pytest.raises(EpisodeError, match="records no seed"):
        lift.simulate_again(dataclasses.replace(episode, describe={}))


def test_its_episodes_are_exported_with_states_and_played_back(tmp_path: Path) -> None:
    flags = ["--task", "lift", "--num_episodes", "2", "--workers", "1", "--dataset_dir", str(tmp_path / "lift")]
    record(flags)
    convert([str(tmp_path / "lift"), str(tmp_path / "out"), "--format", "robomimic_states"])
    with closing(open_source(tmp_path / "out" / "low_dim.hdf5", kind="robomimic_states").open(1)) as episode:
        image = episode.image("agentview", episode.length - 1)
        red, green = image[..., 0].astype(int), image[..., 1].astype(int)
        assert (red > green + 60).sum() > 50  # the cube


def _no_image(camera: str, i: int, at_least: tuple[int, int] | None) -> npt.NDArray[np.uint8]:
    raise AssertionError


def test_what_it_lacks_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Lift has no camera 'agentveiw'. Did you mean 'agentview'\?"):
        Lift(cameras={"agentveiw": (8, 8)})
    with pytest.raises(ConfigError, match="motion noise must be at least 0"):
        Lift.expert(None, noise=-1.0)  # type: ignore[arg-type]


def test_a_task_of_the_table_is_this_environment() -> None:
    task = load(TaskConfig, "tasks", "lift")
    with closing(connect(task, load(RigConfig, "rigs", task.rig))) as env:
        assert isinstance(env, Lift)
        assert env.contract.rate_hz == task.rate_hz
        assert env.contract.cameras == {}
