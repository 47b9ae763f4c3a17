"""Policy inputs: the contract's features of an observation, checked, over a window of observations. numpy only.

This and `policies.collate`, which makes a network's batch of it, are the only places that do this: executors, shared
memory and remote policies pass on their results.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.core.contract import Contract
from aloha_kit.core.errors import ContractError
from aloha_kit.core.features import DEPTH, DEPTHS, Feature, IMAGE, IMAGES, Observation, value_of
from aloha_kit.core.lang import Message


def read(observation: Observation, contract: Contract, n_obs_steps: int = 1) -> dict[str, npt.NDArray[Any]]:
    """{input: its values}: of the feature's shape, or (n_obs_steps, *shape) oldest first where several steps are read.

    Raises:
        ContractError: the observation lacks something, its size is not the contract's, or its history is not as long as
            the policy reads; names it.
    """
    steps = window(observation, n_obs_steps)
    return {
        feature.name: values[0] if n_obs_steps == 1 else np.stack(values)
        for feature in contract.inputs
        for values in [[_checked(step, feature) for step in steps]]
    }


def window(observation: Observation, n_obs_steps: int) -> list[Observation]:
    """The observations that a policy reads, oldest first.

    Raises:
        ContractError: the observation's history has another length.
    """
    history = list(observation.get("history", ()))
    if len(history) != n_obs_steps - 1:
        raise ContractError(
            "this policy reads {n_obs_steps} observations, given {given}: n_obs_steps is {n_obs_steps}",
            n_obs_steps=n_obs_steps,
            given=len(history) + 1,
        )
    return [*history, observation]


def shape_of(feature: Feature, n_obs_steps: int) -> tuple[int, ...]:
    """Shape of the array that `read` returns for a feature."""
    return feature.shape if n_obs_steps == 1 else (n_obs_steps, *feature.shape)


def blank(contract: Contract, n_obs_steps: int = 1) -> Observation:
    """An observation that is zero in every input, with its history."""
    nothing = assembled({feature.name: np.zeros(feature.shape, feature.dtype) for feature in contract.inputs})
    if n_obs_steps > 1:
        nothing["history"] = [nothing.copy()] * (n_obs_steps - 1)
    return nothing


def assembled(values: Mapping[str, Any]) -> Observation:
    """The observation of {feature: its values}; without stamps."""
    observation: dict[str, Any] = {"images": {}, "stamps": {}}
    for name, value in values.items():
        key, _, inner = name.partition("/")
        if inner:
            observation.setdefault(key, {})[inner] = value
        else:
            observation[key] = value
    return observation  # type: ignore[return-value]


def _checked(observation: Observation, feature: Feature) -> npt.NDArray[Any]:
    value, name = value_of(observation, feature.name), feature.name
    if feature.role in (IMAGE, DEPTH):
        camera = Message("camera '{name}'", name=name.removeprefix(IMAGES))
        if feature.role == DEPTH:
            camera = Message("depth of camera '{name}'", name=name.removeprefix(DEPTHS))
        if value is None:
            there: Any = observation.get(name.partition("/")[0]) or {}
            raise ContractError(
                "{camera} is missing; there are: {there}", camera=camera, there=", ".join(there) or Message("(none)")
            )
        if value.shape != feature.shape or value.dtype != np.dtype(feature.dtype):
            raise ContractError(
                "{camera} must be {expected_shape} {expected_dtype} as in training, given {given} {dtype}",
                camera=camera,
                expected_shape=feature.shape,
                expected_dtype=feature.dtype,
                given=value.shape,
                dtype=value.dtype,
            )
        return np.ascontiguousarray(value)
    return vector(value, feature, observation)


def vector(value: Any, feature: Feature, there: Iterable[str]) -> npt.NDArray[np.float32]:
    """A vector of an observation as float32, a copy.

    Raises:
        ContractError: it is None, which is missing among the keys that are `there`, or not of the feature's size.
    """
    if value is None:
        raise ContractError(
            "the observation has no '{name}'; it has: {there}", name=feature.name, there=", ".join(map(str, there))
        )
    array = np.array(value, np.float32)
    if array.shape != feature.shape:
        named = f" ({feature.entries[0]} … {feature.entries[-1]})" if feature.entries else ""
        raise ContractError(
            "{name} must have {entries} entries{named}, given shape {shape}",
            name=feature.name,
            entries=feature.shape[0],
            named=named,
            shape=array.shape,
        )
    return array
