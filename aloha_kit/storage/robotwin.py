"""Layouts of RoboTwin's raw files and XPolicyLab's trajectory files, with other paths than the ALOHA family's.

RoboTwin 2 stores one series of joints, `joint_action`: the arms' commands in each row. Its own converters take a
row as the state and the next row as its action, and so does this module. XPolicyLab stores `state` and `action`.
Sources: RoboTwin-Platform/RoboTwin (`envs/utils/pkl2hdf5.py`) and XPolicyLab/XPolicyLab (`README.md`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

ROBOTWIN, XPOLICYLAB = "robotwin", "xpolicylab"

_ROBOTWIN_HZ = 15.0  # as its converter to XPolicyLab's files writes; its raw files contain no rate
_XPOLICYLAB_HZ = 25.0  # where `additional_info/frequency` is missing
_SIDES = ("left_", "right_", "")  # the last: XPolicyLab's single arm


@dataclass(frozen=True)
class Place:
    """Paths of the data in such a file; fields as in `Layout`."""

    name: str
    state: tuple[str, ...]
    action: tuple[str, ...]
    action_from: int  # the row of the action's data sets that the first action is
    cameras: dict[str, str]
    depth: dict[str, str]
    names: tuple[str, ...]
    rate_hz: float
    recorded: tuple[str, ...]
    notes: tuple[str, ...]


def place_of(file: Any) -> Place | None:
    """Paths of the data in a RoboTwin or XPolicyLab file; None for any other file."""
    if _has(file, "joint_action") and _has(file, "observation"):
        return _robotwin(file)
    if _has(file, "state") and _has(file, "action") and _has(file, "vision"):
        return _xpolicylab(file)
    return None


def _robotwin(file: Any) -> Place | None:
    found = list(_parts(file, "joint_action", "arm", "gripper"))
    if not found and _width(file, "joint_action/vector") == 14:  # the same, already side by side
        names = [f"{side}_{joint}" for side in ("left", "right") for joint in (*_joints(6), "gripper")]
        found = [("joint_action/vector", names)]
    if not found:
        return None
    note = "joint_action is read as the state of its row and as the action of the row before it, as its converters do"
    parts = tuple(path for path, _ in found)
    cameras, depth = _images(file, "observation", "rgb", "depth")
    columns = tuple(name for _, names in found for name in names)
    return Place(ROBOTWIN, parts, parts, 1, cameras, depth, columns, _ROBOTWIN_HZ, ("joints",), (note,))


def _xpolicylab(file: Any) -> Place | None:
    state = list(_parts(file, "state", "arm_joint_states", "ee_joint_states"))
    action = list(_parts(file, "action", "arm_joint_states", "ee_joint_states"))
    if not state or [names for _, names in state] != [names for _, names in action]:
        return None
    cameras, depth = _images(file, "vision", "colors", "depths")
    rate, recorded = _XPOLICYLAB_HZ, ["joints"]
    given = file.get("additional_info/frequency")
    if getattr(given, "size", 0) == 1 and given.dtype.kind in "iuf" and np.ravel(given[()])[0] > 0:
        rate, recorded = float(np.ravel(given[()])[0]), [*recorded, "rate"]
    notes = ["state/mobile is not read"] if _has(file, "state/mobile") else []
    return Place(
        XPOLICYLAB,
        tuple(path for path, _ in state),
        tuple(path for path, _ in action),
        0,
        cameras,
        depth,
        tuple(name for _, some in state for name in some),
        rate,
        tuple(recorded),
        tuple(notes),
    )


def _parts(file: Any, group: str, arm: str, gripper: str) -> Iterator[tuple[str, list[str]]]:
    """The data sets of both arms, or of one, in the order of the vector, each with the names of its columns."""
    for side in _SIDES:
        joints, fingers = f"{group}/{side}{arm}", f"{group}/{side}{gripper}"
        if width := _width(file, joints):
            yield joints, [f"{side}{name}" for name in _joints(width)]
            if width := _width(file, fingers):
                yield fingers, [f"{side}gripper"] if width == 1 else [f"{side}gripper{i}" for i in range(width)]


def _joints(width: int) -> list[str]:
    return [f"joint{i}" for i in range(width)]


def _width(file: Any, path: str) -> int:
    """Columns of a table of numbers, (rows,) counting as one; 0 where there is none."""
    data = file.get(path)
    shape: tuple[int, ...] = getattr(data, "shape", None) or ()
    if len(shape) not in (1, 2) or data.dtype.kind not in "iuf":
        return 0
    return int(shape[1]) if len(shape) == 2 else 1


def _images(file: Any, group: str, colour: str, depth: str) -> tuple[dict[str, str], dict[str, str]]:
    found: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for camera in file[group]:
        for kind, into in zip((colour, depth), found, strict=True):
            if getattr(file.get(f"{group}/{camera}/{kind}"), "shape", None):
                into[camera] = f"{group}/{camera}/{kind}"
    return found


def _has(file: Any, group: str) -> bool:
    return group in file and hasattr(file[group], "keys")
