"""Human-like scripts: they succeed, vary from start to start, and keep places and order of the scenes' own scripts."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from aloha_kit.config import load, RigConfig, TaskConfig
from aloha_kit.loop import run_episode
from aloha_kit.sim import connect, SimEnv
from aloha_kit.sim.human_scripts import human_like
from aloha_kit.sim.scripts import CLOSED, insertion, OPEN, Script, transfer_cube, Waypoint

CUBE = {"cube": np.array([0.1, 0.5, 0.02, 1.0, 0, 0, 0])}
PARTS = {"peg": np.array([0.15, 0.5, 0.01, 1.0, 0, 0, 0]), "socket": np.array([-0.15, 0.45, 0.022, 1.0, 0, 0, 0])}


def changes(waypoints: tuple[Waypoint, ...], gripper: float) -> list[float]:
    """Times at which a gripper has come to an opening from another one."""
    return [b.time for a, b in pairwise(waypoints) if a.gripper != b.gripper == gripper]


def end(script: Script) -> float:
    return max(waypoint.time for waypoints in script.arms.values() for waypoint in waypoints)


@pytest.mark.parametrize("scene", ["transfer_cube", "insertion"])
def test_the_expert_succeeds(scene: str) -> None:
    env = SimEnv(scene, cameras={}, episode_len=500, script=f"{scene}_human", seed=703)
    expert = env.expert()
    assert [run_episode(env, expert, []).final_reward for _ in range(2)] == [4, 4]


def test_speed_pauses_and_second_grasps_vary() -> None:
    made = [human_like(insertion(PARTS), np.random.default_rng(seed)) for seed in range(300)]
    ends = np.array([end(script) for script in made])
    assert ends.min() > 0.75 * 5.8
    assert ends.max() < 10.0, "an episode of 500 steps holds it"
    assert ends.std() > 0.5
    for arm in ("left", "right"):
        grasps = np.array([len(changes(script.arms[arm], CLOSED)) for script in made])
        assert set(grasps) == {1, 2}
        assert 0.2 < np.mean(grasps == 2) < 0.4
    second = next(script for script in made if len(changes(script.right, CLOSED)) == 2)
    at = [waypoint.pose.position for waypoint in second.right]
    assert np.ptp([place[2] for place in at[2:6]]) > 0.02, "the gripper retreats between its two grasps"


def test_places_that_matter_stay() -> None:
    base = insertion(PARTS)
    for seed in range(20):
        script = human_like(base, np.random.default_rng(seed))
        for arm, waypoints in base.arms.items():
            kept = [w.pose.position for w in waypoints if not w.free]
            mine = [w.pose.position for w in script.arms[arm] if not w.free]
            assert all(any(np.array_equal(place, other) for other in mine) for place in kept)
            times = [w.time for w in script.arms[arm]]
            assert (np.diff(times) > 0).all()


def test_the_handover_stays_in_order() -> None:
    for seed in range(100):
        script = human_like(transfer_cube(CUBE), np.random.default_rng(seed))
        released = changes(script.right, OPEN)[-1]
        assert changes(script.left, CLOSED)[-1] < released, "the left gripper holds before the right one lets go"


@pytest.mark.parametrize("task", ["sim_insertion_human", "sim_transfer_cube_human"])
def test_the_tasks_of_that_name_are_recorded_with_it(task: str) -> None:
    env = connect(load(TaskConfig, "tasks", task, cameras=()), load(RigConfig, "rigs", "sim"))
    assert isinstance(env, SimEnv)
    env.seed(4)
    env.reset()
    one, again = env.script(), env.script()
    assert end(one) == end(again), "a start has one motion"
    env.reset()
    assert end(env.script()) != end(one)
