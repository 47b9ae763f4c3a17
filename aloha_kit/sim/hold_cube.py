"""Task that starts as the transfer of the cube does and ends otherwise, so that the instruction alone decides."""

from __future__ import annotations

from collections.abc import Mapping

from aloha_kit.sim.scripts import Script, transfer_cube
from aloha_kit.sim.tasks import Array, Touching, TransferCube

HEIGHT = 0.15
"""Least height of the cube's centre in m; it rests at 0.02 and is handed over at 0.25."""


class HoldCube(TransferCube):
    """The red cube is picked up by the right arm and held up; the left arm stays where it is.

    Reward: 1 the right fingers touch the cube, 2 and it is off the table, 4 and it is held above `HEIGHT`; at most 1
    while the left fingers touch it.
    """

    def reward(self, touching: Touching, poses: Mapping[str, Array]) -> int:
        if ("cube", "right_fingers") not in touching:
            return 0
        if ("cube", "left_fingers") in touching or ("cube", "table") in touching:
            return 1
        return 4 if poses["cube"][2] > HEIGHT else 2

    def script(self, poses: Mapping[str, Array]) -> Script:
        handover = transfer_cube(poses)
        return Script(right=handover.right[:5], left=())
