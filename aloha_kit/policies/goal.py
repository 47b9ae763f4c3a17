"""Goal observation of a policy that reads one, in front of the observations of each batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.core import ContractError, UsageError
from aloha_kit.policies.network import ChunkNetwork


def set_goal(network: ChunkNetwork, place: str | None, policy: object, flag: str = "--goal") -> None:
    """Set a network's goal to an observation of an episode, `PLACE[:EPISODE][@STEP]`, see `formats.goal.read_goal`.

    Args:
        policy, flag: what messages call it, and the flag that gives `place`.

    Raises:
        UsageError: a policy without a goal that is given one, or the reverse, or an episode or step that is not there.
        EpisodeError: no such episode, or one that is damaged.
        ContractError: the episode lacks what the policy reads, or has other sizes.
    """
    if place is not None and not network.config.reads_goal:
        raise UsageError(
            "{policy} reads no goal observation (goal_mode none), given {flag} {place}",
            policy=policy,
            flag=flag,
            place=place,
        )
    if network.config.reads_goal:
        if place is None:
            raise UsageError(
                "{policy} reads a goal observation: name one with {flag} PLACE[:EPISODE][@STEP]",
                policy=policy,
                flag=flag,
            )
        from aloha_kit.formats.goal import read_goal  # needs h5py, which evaluation without a goal does without

        network.goal = read_goal(place, network.contract, flag)


def with_goal(network: ChunkNetwork, arrays: Mapping[str, npt.NDArray[Any]]) -> Mapping[str, npt.NDArray[Any]]:
    """{input: (B, …)} of `core.inputs.read`, with the goal in front where one is read: (B, 1 + n_obs_steps, …).

    Raises:
        ContractError: the network reads a goal and none is set.
    """
    if not network.config.reads_goal:
        return arrays
    if network.goal is None:
        raise ContractError("the policy reads a goal observation, and none is set")
    joined = {}
    for name, values in arrays.items():
        goal = network.goal[name]
        steps = values.reshape(len(values), network.config.n_obs_steps, *goal.shape)
        joined[name] = np.concatenate([np.broadcast_to(goal, (len(values), 1, *goal.shape)), steps], axis=1)
    return joined
