"""End-effector actions: names, units and frame of gripper poses, and of their changes, in a vector.

Frame: the world's, x from the left arm to the right one, y away from the viewer, z up from the table top. A pose is
that of the pinch point between a gripper's pads; its x axis points out of the gripper, y is the direction in which the
fingers close.
"""

from __future__ import annotations

from collections.abc import Sequence

from aloha_kit.core.contract import Contract

POSE = ("x", "y", "z", *(f"rot6d_{i}" for i in range(1, 7)))
"""Entries of a pose: position (m), then the x and the y axis of the gripper, the first two columns of its rotation
matrix (Zhou et al., "On the continuity of rotation representations in neural networks", CVPR 2019)."""

DELTA = ("dx", "dy", "dz", "drx", "dry", "drz")
"""Entries of a change of a pose in one step: position (m), then a rotation vector (rad), along the world's axes."""

EE, EE_DELTA = "ee", "ee_delta"
_ENTRIES = {EE: POSE, EE_DELTA: DELTA}


def pose_names(arms: Sequence[str] = ("left", "right")) -> tuple[str, ...]:
    """Names of the poses of both arms in a state, `left_x … left_rot6d_6, right_x …`."""
    return tuple(f"{arm}_{entry}" for arm in arms for entry in POSE)


def action_names(space: str, arms: Sequence[str] = ("left", "right")) -> tuple[str, ...]:
    """Names of an end-effector action: of each arm its pose (`ee`) or change (`ee_delta`), then its gripper."""
    return tuple(f"{arm}_{entry}" for arm in arms for entry in (*_ENTRIES[space], "gripper"))


def entry_units(space: str, arms: Sequence[str] = ("left", "right")) -> dict[str, str]:
    """{entry of a pose or of an action: its unit}, without the grippers."""
    units = dict.fromkeys(("x", "y", "z"), "m") | dict.fromkeys(POSE[3:], "1")
    if space == EE_DELTA:
        units |= dict.fromkeys(DELTA[:3], "m") | dict.fromkeys(DELTA[3:], "rad")
    return {f"{arm}_{entry}": unit for arm in arms for entry, unit in units.items()}


def action_space(contract: Contract) -> str | None:
    """The end-effector action space that a contract's actions are in; None for any other."""
    return next((space for space in _ENTRIES if contract.action_names == action_names(space)), None)
