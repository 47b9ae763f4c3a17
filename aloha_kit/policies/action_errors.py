"""Errors of predicted actions against demonstrated ones, in the units of the actions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from aloha_kit.core.arm_models import by_arm


class Mean(NamedTuple):
    """A mean over `weight` items, so that batches and processes can be averaged exactly."""

    value: Tensor  # ()
    weight: float


def joint_groups(names: Sequence[str]) -> dict[str, list[int]]:
    """{group: places in a vector}: each arm's joints, each gripper, and a base; `all` where names contain no arm."""
    groups: dict[str, list[int]] = {}
    for arm, places in by_arm(names).items():
        for place in places:
            gripper = names[place].endswith("gripper")
            group = "_".join(filter(None, (arm, "gripper"))) if gripper else arm or "all"
            groups.setdefault(group, []).append(place)
    return groups


def error_columns(names: Sequence[str], chunk_size: int) -> tuple[str, ...]:
    """Names of what `action_errors` gives."""
    ends = ("", "_first", "_last") if chunk_size > 1 else ("",)
    return tuple(f"val_error_{group}{end}" for group in joint_groups(names) for end in ends)


def action_errors(predicted: Tensor, actions: Tensor, is_pad: Tensor, names: Sequence[str]) -> dict[str, Mean]:
    """Mean absolute error of each group of joints over the chunk, and at its first and last action.

    Args:
        predicted, actions: (B, K, A), in raw units (rad, gripper opening, m/s …).
        is_pad: (B, K), True on rows that do not count.
        names: of the A entries.
    """
    error, valid = (predicted.float() - actions).abs(), (~is_pad).to(actions.dtype)
    found = {}
    for column in error_columns(names, actions.shape[1]):
        group, rows = column.removeprefix("val_error_"), slice(None)
        for end, span in (("_first", slice(0, 1)), ("_last", slice(-1, None))):
            if group.endswith(end):
                group, rows = group.removesuffix(end), span
        counts = valid[:, rows]
        weight = float(counts.sum())
        total = (error[:, rows, joint_groups(names)[group]].mean(-1) * counts).sum()
        found[column] = Mean(total / max(weight, 1.0), weight)
    return found
