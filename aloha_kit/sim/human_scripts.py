"""Human-like demonstrations: the scripts of the scenes at varied speed, with pauses, detours and second grasps.

They are for trying a recipe on other motions than those that its values were chosen on. They are no person's motions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np
from pyquaternion import Quaternion

from aloha_kit.sim import scripts
from aloha_kit.sim.kinematics import Pose
from aloha_kit.sim.scripts import Array, CLOSED, OPEN, Script, Waypoint

DURATION = (0.75, 1.35)  # factor, drawn for the time between any two waypoints
PAUSE, PAUSE_SHARE = (0.1, 0.5), 0.25  # s, and its probability at a waypoint
DETOUR, TILT = 0.02, 0.1  # m along each axis and rad about each, at waypoints that are free
SECOND_GRASP_SHARE = 0.3  # probability, of each arm
RELEASE, RETREAT, RETURN, CLOSE = 0.35, 0.5, 0.5, 0.4  # s, the parts of a second grasp
BACK = (0.03, 0.05)  # m, how far it retreats


def transfer_cube(poses: Mapping[str, Array]) -> Script:
    """Handover of the cube, human-like; the same motion for the same start."""
    return human_like(scripts.transfer_cube(poses), _generator(poses))


def insertion(poses: Mapping[str, Array]) -> Script:
    """Insertion of the peg, human-like; the same motion for the same start."""
    return human_like(scripts.insertion(poses), _generator(poses))


def human_like(script: Script, rng: np.random.Generator) -> Script:
    """A script with another speed between any two waypoints, pauses, detours and second grasps.

    Both arms keep one clock: while one of them pauses or grasps again the other waits or moves more slowly, so a
    handover stays in order.
    """
    grasps = {arm: _first_grasp(waypoints) for arm, waypoints in script.arms.items()}
    again = {arm: grasp for arm, grasp in grasps.items() if grasp is not None and rng.random() < SECOND_GRASP_SHARE}
    knots = np.unique([0.0, *(waypoint.time for waypoints in script.arms.values() for waypoint in waypoints)])
    spans = np.diff(knots) * rng.uniform(*DURATION, len(knots) - 1)
    spans += np.where(rng.random(len(spans)) < PAUSE_SHARE, rng.uniform(*PAUSE, len(spans)), 0.0)
    repeated = [script.arms[arm][grasp].time for arm, grasp in again.items()]
    spans[1:] += np.where(np.isin(knots[1:-1], repeated), RELEASE + RETREAT + RETURN + CLOSE, 0.0)
    times = np.concatenate([[0.0], np.cumsum(spans)])

    def of(arm: str) -> tuple[Waypoint, ...]:
        moved = [_moved(waypoint, float(np.interp(waypoint.time, knots, times)), rng) for waypoint in script.arms[arm]]
        if arm in again:
            after = again[arm] + 1
            moved[after:after] = _second_grasp(moved[again[arm]], rng)
        return tuple(moved)

    return Script(left=of("left"), right=of("right"))


def _first_grasp(waypoints: tuple[Waypoint, ...]) -> int | None:
    """Index of the waypoint at which the gripper has closed for the first time."""
    pairs = enumerate(pairwise(waypoints), 1)
    return next((i for i, (a, b) in pairs if (a.gripper, b.gripper) == (OPEN, CLOSED)), None)


def _moved(waypoint: Waypoint, time: float, rng: np.random.Generator) -> Waypoint:
    if not waypoint.free:
        return replace(waypoint, time=time)
    turn = rng.uniform(-TILT, TILT, 3)
    tilted = waypoint.pose.turn * Quaternion(axis=turn, radians=float(np.linalg.norm(turn)))
    return replace(waypoint, time=time, pose=Pose(waypoint.pose.position + rng.uniform(-DETOUR, DETOUR, 3), tilted))


def _second_grasp(grasp: Waypoint, rng: np.random.Generator) -> list[Waypoint]:
    """Release of what was grasped, a retreat along the gripper's axis, the return and the grasp."""
    retreat = grasp.pose.turn.rotate(np.array([-rng.uniform(*BACK), 0.0, 0.0]))
    apart = Pose(grasp.pose.position + retreat, grasp.pose.turn)
    times = grasp.time + np.cumsum([RELEASE, RETREAT, RETURN, CLOSE])
    poses = (grasp.pose, apart, grasp.pose, grasp.pose)
    grippers = (OPEN, OPEN, OPEN, CLOSED)
    return [
        replace(grasp, time=float(time), pose=pose, gripper=gripper)
        for time, pose, gripper in zip(times, poses, grippers, strict=True)
    ]


def _generator(poses: Mapping[str, Array]) -> np.random.Generator:
    """Random numbers that are a function of where the objects start (to 0.1 mm)."""
    places = np.concatenate([poses[name][:3] for name in sorted(poses)])
    return np.random.default_rng([int(number) for number in np.round(1e4 * places) + 100_000])
