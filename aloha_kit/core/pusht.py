"""Push-T's names and units (Chi et al., 2023): agent and block in a plane of 512 x 512 px, x to the right, y down."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from aloha_kit.core.contract import Contract
from aloha_kit.core.features import Feature, PRIVILEGED

RATE_HZ = 10.0
SIZE = 512.0
"""Width and height of the plane in px."""
AGENT = ("agent_x", "agent_y")
SCENES: dict[str, tuple[str, ...]] = {
    "state": ("block_x", "block_y", "block_angle"),
    "keypoints": tuple(f"keypoint{i}_{axis}" for i in range(8) for axis in "xy"),
}
"""{scene: entries of `environment_state`}: the block's pose, or the four corners of its bar and of its stem."""
CORNERS = np.array(((-60, 0), (60, 0), (60, 30), (-60, 30), (-15, 30), (15, 30), (15, 120), (-15, 120)), np.float64)
"""(8, 2) those corners in the block's frame, px."""


def contract(scene: str, cameras: Mapping[str, tuple[int, int]]) -> Contract:
    """The contract of a scene with some cameras, {name: (height, width)}."""
    entries = SCENES[scene]
    units = ["rad" if name.endswith("angle") else "px" for name in entries]
    block = Feature.vector("environment_state", PRIVILEGED, entries, units)
    return Contract.of(AGENT, AGENT, dict(cameras), RATE_HZ, units={"joints": "px"}, sensors=(block,))


def corners(block: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """(…, 8, 2) px, the corners of blocks at poses (…, 3): x, y (px), angle (rad)."""
    pose = np.asarray(block, np.float64)
    cos, sin = np.cos(pose[..., 2]), np.sin(pose[..., 2])
    turn = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], -2)  # (…, 2, 2), for rows of points
    found: npt.NDArray[np.float64] = CORNERS @ turn + pose[..., None, :2]
    return found
