"""Scripted motions of the arms: waypoints of the grippers for every scene, and their variation.

Times are in seconds, places in metres in the world frame. Both arms' scripts share one clock, so a
handover stays in order however its pace is varied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from pyquaternion import Quaternion

from aloha_kit.sim.kinematics import Pose

Array = npt.NDArray[np.float64]

OPEN, CLOSED = 1.0, 0.1  # normalised; what is between the fingers keeps them from closing so far
DOWN = np.deg2rad(60.0)  # a grasp from above: steep enough to clear the table, flat enough for a handover
MEETING = np.array([0.0, 0.5, 0.25])
PUSH = 0.02  # m beyond where a peg is seated: a learner grasps a centimetre off, and parts slide in a grip


@dataclass(frozen=True)
class Waypoint:
    """A gripper at a time: it comes to rest here.

    `straight`: the way here is a straight line in space. `free`: motion noise may move it.
    """

    time: float
    pose: Pose
    gripper: float
    free: bool = False
    straight: bool = True


@dataclass(frozen=True)
class Script:
    """Waypoints of each arm after the start pose, in order of time."""

    left: tuple[Waypoint, ...]
    right: tuple[Waypoint, ...]

    @property
    def arms(self) -> dict[str, tuple[Waypoint, ...]]:
        """{arm: its waypoints}"""
        return {"left": self.left, "right": self.right}


SCRIPTS = {
    "transfer_cube": "aloha_kit.sim.scripts:transfer_cube",
    "insertion": "aloha_kit.sim.scripts:insertion",
    "transfer_cube_human": "aloha_kit.sim.human_scripts:transfer_cube",
    "insertion_human": "aloha_kit.sim.human_scripts:insertion",
}
"""{name: a function of the objects' poses {object: (7,)} that gives a `Script`}."""


def toward(arm: str, pitch: float, roll: float = 0.0) -> Quaternion:
    """A gripper that points from its arm's side to the other's, `pitch` rad down, then rolled (rad)."""
    yaw = 0.0 if arm == "left" else np.pi
    return (
        Quaternion(axis=(0, 0, 1), angle=yaw)
        * Quaternion(axis=(0, 1, 0), angle=pitch)
        * Quaternion(axis=(1, 0, 0), angle=roll)
    )


def transfer_cube(poses: Mapping[str, Array]) -> Script:
    """The right arm takes the cube by its near and far sides, the left arm then by its top and bottom."""
    cube = poses["cube"][:3]
    down = toward("right", DOWN)
    level = toward("left", -0.2, np.pi / 2)
    back = down.rotate(np.array([-0.09, 0.0, 0.0]))
    home = MEETING + (-0.12, 0.0, 0.0)
    return Script(
        right=(
            Waypoint(1.3, Pose(cube + back + (0, 0, 0.02), down), OPEN, free=True, straight=False),
            Waypoint(2.0, Pose(cube, down), OPEN),
            Waypoint(2.4, Pose(cube, down), CLOSED),
            Waypoint(3.7, Pose(MEETING, down), CLOSED),
            Waypoint(5.2, Pose(MEETING, down), CLOSED),
            Waypoint(5.6, Pose(MEETING, down), OPEN),
            Waypoint(6.4, Pose(MEETING + (0.13, 0.0, 0.10), down), OPEN, free=True),
        ),
        left=(
            Waypoint(1.5, Pose(home + (-0.03, 0.0, 0.0), level), 0.3, free=True, straight=False),
            Waypoint(3.5, Pose(home, level), OPEN, free=True),
            Waypoint(4.6, Pose(MEETING, level), OPEN),
            Waypoint(5.0, Pose(MEETING, level), CLOSED),
            Waypoint(5.7, Pose(MEETING, level), CLOSED),
            Waypoint(6.7, Pose(home, level), CLOSED, free=True),
        ),
    )


def insertion(poses: Mapping[str, Array]) -> Script:
    """Each arm takes its part from above, both meet in the air, the peg goes in until it meets the pin."""
    peg, socket = poses["peg"][:3], poses["socket"][:3]
    peg_hand, socket_hand = toward("right", DOWN), toward("left", DOWN)
    mouth = np.array([-0.08, 0.5, 0.2])  # centre of the socket while the peg goes in
    seated = mouth + (0.10, 0.0, 0.0)  # centre of the peg: pin's half and peg's half
    apart = seated + (0.08, 0.0, 0.0)
    outward = np.array([0.02, 0.0, 0.0])  # grasp away from the ends that meet

    def arm(hand: Quaternion, part: Array, grasp: Array, *after: tuple[float, Array]) -> tuple[Waypoint, ...]:
        above = hand.rotate(np.array([-0.09, 0.0, 0.0])) + (0, 0, 0.02)
        return (
            Waypoint(1.4, Pose(part + grasp + above, hand), OPEN, free=True, straight=False),
            Waypoint(2.2, Pose(part + grasp, hand), OPEN),
            Waypoint(2.6, Pose(part + grasp, hand), CLOSED),
            *(Waypoint(time, Pose(place + grasp, hand), CLOSED) for time, place in after),
        )

    return Script(
        right=arm(peg_hand, peg, outward, (4.2, apart), (4.6, apart), (5.8, seated - (PUSH, 0.0, 0.0))),
        left=arm(socket_hand, socket, -outward, (4.2, mouth)),
    )


def vary(script: Script, noise: float, rng: np.random.Generator) -> Script:
    """Random variation of a script: `noise` 1 shifts free waypoints by up to 3 cm and 0.15 rad and
    bends the common clock by up to 0.15 s; 0 changes nothing."""
    knots = np.arange(0.0, 8.1, 2.0)
    bent = knots + np.concatenate([[0.0], rng.uniform(-0.15, 0.15, len(knots) - 1)]) * noise

    def moved(waypoint: Waypoint) -> Waypoint:
        shift, turn = rng.uniform(-0.03, 0.03, 3) * noise, rng.uniform(-0.15, 0.15, 3) * noise
        time = float(np.interp(waypoint.time, knots, bent))
        if not waypoint.free:
            return replace(waypoint, time=time)
        small = Quaternion(axis=turn, radians=float(np.linalg.norm(turn))) if turn.any() else Quaternion()
        pose = Pose(waypoint.pose.position + shift, waypoint.pose.turn * small)
        return replace(waypoint, time=time, pose=pose)

    return Script(left=tuple(map(moved, script.left)), right=tuple(map(moved, script.right)))
