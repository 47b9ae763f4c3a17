"""Rewards against an independent test of which boxes overlap, along whole demonstrations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from aloha_kit.sim import SimEnv, tasks

CORNERS = np.array(list(itertools.product((-1, 1), repeat=3)), float)


def separation(a: tuple, b: tuple) -> float:
    """How far two boxes (centre, rotation, half sizes) are apart along the axis that separates them best.

    The separating axis theorem: faces' normals and the cross products of edges. Negative: they overlap.
    """
    axes = [*a[1].T, *b[1].T, *(np.cross(u, v) for u in a[1].T for v in b[1].T)]
    best = -np.inf
    for axis in axes:
        length = np.linalg.norm(axis)
        if length > 1e-6:
            axis = axis / length
            reach = np.abs(a[1].T @ axis) @ a[2] + np.abs(b[1].T @ axis) @ b[2]
            best = max(best, abs(axis @ (a[0] - b[0])) - reach)
    return float(best)


class Geometry:
    """Boxes of a scene by name, and which overlap now."""

    def __init__(self, env: SimEnv) -> None:
        self.env = env

    def box(self, name: str) -> tuple:
        geom = self.env.physics.data.geom(name)
        return geom.xpos.copy(), geom.xmat.reshape(3, 3).copy(), self.env.physics.model.geom(name).size.copy()

    def apart(self, some: tuple[str, ...], others: tuple[str, ...]) -> float:
        return min(separation(self.box(a), self.box(b)) for a in some for b in others)


FINGERS = {arm: tuple(f"{arm}_{side}_{part}" for side in ("left", "right") for part in ("pad", "knuckle"))
           for arm in ("left", "right")}  # fmt: skip
SOCKET = ("socket_floor", "socket_roof", "socket_far", "socket_near")


def transfer_cube(geometry: Geometry) -> tuple[list[float], int]:
    left = geometry.apart(FINGERS["left"], ("cube",))
    right = geometry.apart(FINGERS["right"], ("cube",))
    table = geometry.apart(("cube",), ("table",))
    reward = (4 if table > 0 else 3) if left < 0 else (2 if table > 0 else 1) if right < 0 else 0
    return [left, right, table], reward


def hold_cube(geometry: Geometry) -> tuple[list[float], int]:
    right, table = geometry.apart(FINGERS["right"], ("cube",)), geometry.apart(("cube",), ("table",))
    above = geometry.box("cube")[0][2] - 0.15
    reward = 0 if right > 0 else 1 if table < 0 else 4 if above > 0 else 2
    return [right, table, above], reward


def insertion(geometry: Geometry) -> tuple[list[float], int]:
    left = geometry.apart(FINGERS["left"], SOCKET)
    right = geometry.apart(FINGERS["right"], ("peg",))
    peg_table, socket_table = geometry.apart(("peg",), ("table",)), geometry.apart(SOCKET, ("table",))
    walls, pin = geometry.apart(("peg",), SOCKET), geometry.apart(("peg",), ("pin",))
    lifted = peg_table > 0 and socket_table > 0
    if pin < 0:
        reward = 4
    elif walls < 0 and lifted:
        reward = 3
    else:
        reward = (2 if lifted else 1) if left < 0 and right < 0 else 0
    return [left, right, peg_table, socket_table, walls, pin], reward


@pytest.mark.parametrize(
    ("scene", "expected"), [("transfer_cube", transfer_cube), ("hold_cube", hold_cube), ("insertion", insertion)]
)
def test_rewards_follow_the_geometry(scene: str, expected) -> None:
    env = SimEnv(scene, cameras={}, seed=1)
    expert, geometry = env.expert(), Geometry(env)
    step = env.reset()
    expert.reset()
    seen, compared = set(), 0
    while not step.last():
        step = env.step(expert.act(step.observation))
        distances, reward = expected(geometry)
        if min(abs(d) for d in distances) > 1e-6:  # within a micrometre, rounding decides
            assert step.reward == reward, distances
            seen.add(reward)
            compared += 1
    assert compared > 300
    assert {0, 1, 2, 4} <= seen


@pytest.mark.parametrize(
    ("scene", "touching", "reward"),
    [
        ("transfer_cube", [], 0),
        ("transfer_cube", [("cube", "table")], 0),
        ("transfer_cube", [("cube", "right_fingers"), ("cube", "table")], 1),
        ("transfer_cube", [("cube", "right_fingers")], 2),
        ("transfer_cube", [("cube", "left_fingers"), ("cube", "right_fingers"), ("cube", "table")], 3),
        ("transfer_cube", [("cube", "left_fingers")], 4),
        ("insertion", [("peg", "right_fingers"), ("peg", "table"), ("socket", "table")], 0),
        ("insertion", [("peg", "right_fingers"), ("left_fingers", "socket"), ("peg", "table")], 1),
        ("insertion", [("peg", "right_fingers"), ("left_fingers", "socket")], 2),
        ("insertion", [("peg", "socket"), ("peg", "right_fingers"), ("left_fingers", "socket")], 3),
        ("insertion", [("peg", "socket"), ("socket", "table")], 0),
        ("insertion", [("peg", "pin"), ("peg", "socket")], 4),
    ],
)
def test_stages(scene: str, touching: list[tuple[str, str]], reward: int) -> None:
    assert tasks.scene(scene).reward(frozenset(touching), {}) == reward


@pytest.mark.parametrize(
    ("touching", "height", "reward"),
    [
        ([("cube", "table")], 0.3, 0),
        ([("cube", "left_fingers")], 0.3, 0),
        ([("cube", "right_fingers"), ("cube", "table")], 0.02, 1),
        ([("cube", "left_fingers"), ("cube", "right_fingers")], 0.3, 1),
        ([("cube", "right_fingers")], 0.15, 2),
        ([("cube", "right_fingers")], 0.151, 4),
    ],
)
def test_a_cube_is_held_by_the_right_arm_alone_and_high(
    touching: list[tuple[str, str]], height: float, reward: int
) -> None:
    pose = np.array([0, 0.5, height, 1, 0, 0, 0])
    assert tasks.scene("hold_cube").reward(frozenset(touching), {"cube": pose}) == reward


def test_a_cube_dropped_at_the_end_is_no_success() -> None:
    """The highest reward is 4, yet the last step, with the cube back on the table, is what counts."""
    env = SimEnv("transfer_cube", cameras={}, seed=2, episode_len=400)
    expert = env.expert()
    step = env.reset()
    expert.reset()
    rewards = []
    while not step.last():
        action = expert.act(step.observation)
        # turn the fingers from above and below the cube to its sides, then let go
        action[5] -= np.clip((len(rewards) - 290) / 40, 0.0, 1.0) * np.pi / 2
        if len(rewards) > 345:
            action[6] = 1.0
        step = env.step(action)
        rewards.append(step.reward)
    assert max(rewards) == 4
    assert rewards[-1] == 0
    assert env.object_poses()["cube"][2] < 0.04
