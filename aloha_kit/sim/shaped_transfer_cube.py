"""Transfer of the cube with a reward for every step, for reinforcement learning."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from aloha_kit.sim.tasks import SceneState, TransferCube


class ShapedTransferCube(TransferCube):
    """`TransferCube` with the distances that are left in the reward; starts and success are the same.

    Reward terms, of each step: `stage`, as in `TransferCube`; `reach`, minus the distance from the right gripper to the
    cube; `handover`, minus that from the left gripper, both in m. Both are 0 from stage 3 on, when the left fingers
    touch the cube, so that the highest reward is 4 too.
    """

    min_reward: ClassVar[float] = -np.inf

    def reward_terms(self, state: SceneState) -> dict[str, float]:
        terms, cube = super().reward_terms(state), state.object_poses()["cube"][:3]
        held = terms["stage"] >= 3
        for name, arm in (("reach", "right"), ("handover", "left")):
            terms[name] = 0.0 if held else -float(np.linalg.norm(cube - state.gripper_position(arm)))
        return terms
