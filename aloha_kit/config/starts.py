"""Start poses of objects from a file, for rollouts that begin where another evaluation's began."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.config.load import read
from aloha_kit.core import ConfigError, UsageError
from aloha_kit.core.errors import reason
from aloha_kit.core.files import special_file
from aloha_kit.core.lang import Message

_MOST_BYTES = 16 << 20
_REACH = {"x": (-0.6, 0.6), "y": (0.0, 1.0), "z": (0.0, 0.5)}  # m; what stands outside is not on the table
_FORM = Message("rows of x y z qw qx qy qz for each object (m, unit quaternion): 7 for the cube, 14 for peg and socket")


def read_starts(path: Path) -> npt.NDArray[np.float64]:
    """(N, 7 · objects) poses, a row a rollout, from .npy, .json, .csv, or .yaml with the rows under `poses`.

    Raises:
        ConfigError: not such a file, another width, a value that is not finite, an object off the table, or a
            quaternion whose length is not 1; names the row.
    """
    try:
        if special := special_file(path):
            raise ValueError(Message("it is {special}", special=special))
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(Message("it has {size} bytes", size=path.stat().st_size))
        poses = np.asarray(_read(path), np.float64)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(
            "{path} cannot be read as start poses: {why}; expected {form}", path=path, why=reason(error), form=_FORM
        ) from error
    if poses.ndim == 1:
        poses = poses[None]
    if poses.ndim == 3 and poses.shape[2] == 7:
        poses = poses.reshape(len(poses), -1)
    if poses.ndim != 2 or not poses.size or poses.shape[1] % 7:
        raise ConfigError(
            "{path} has numbers of shape {shape}; expected {form}", path=path, shape=poses.shape, form=_FORM
        )
    for row, objects in enumerate(poses.reshape(len(poses), -1, 7)):
        for pose in objects:
            if why := _impossible(pose):
                raise ConfigError("{path}, row {row}: {why}", path=path, row=row, why=why)
    return poses


def starts_by_seed(path: Path | None, seed: int, rollouts: int | None) -> dict[int, npt.NDArray[np.float64]]:
    """{seed of a rollout: its poses (7 · objects,)}, counting up from `seed`; empty without a file.

    Args:
        rollouts: how many are wanted; None wants them all.

    Raises:
        ConfigError: as `read_starts`.
        UsageError: the file has fewer rows.
    """
    if path is None:
        return {}
    rows = read_starts(path)
    if rollouts is not None and rollouts > len(rows):
        raise UsageError(
            "--num_rollouts {rollouts}, but {path} has {count} starts, one a rollout",
            rollouts=rollouts,
            path=path,
            count=len(rows),
        )
    return {seed + i: row for i, row in enumerate(rows[:rollouts])}


def _impossible(pose: npt.NDArray[np.float64]) -> str:
    """Reason that an object cannot start at `pose` (7,); empty if it can."""
    if not np.isfinite(pose).all():
        return Message("a pose that is not finite: {pose}", pose=pose.tolist())
    for value, (axis, (low, high)) in zip(pose, _REACH.items(), strict=False):
        if not low <= value <= high:
            return Message(
                "an object at {axis} = {value:g} m; the table is {low:g} to {high:g} m",
                axis=axis,
                value=value,
                low=low,
                high=high,
            )
    if abs(np.linalg.norm(pose[3:]) - 1) > 1e-2:
        return Message("{quaternion} is no unit quaternion (w x y z)", quaternion=pose[3:].tolist())
    return ""


def _read(path: Path) -> Any:
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if path.suffix in (".yaml", ".yml"):
        return read(path).get("poses")
    if path.suffix not in (".json", ".csv", ".txt"):
        raise ValueError(Message("a '{suffix}' file; known: .npy, .json, .yaml, .csv", suffix=path.suffix))
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return json.loads(text)
    lines = [line.replace(",", " ").split() for line in text.splitlines() if line.strip() and line[0] != "#"]
    return [[float(word) for word in line] for line in lines]
