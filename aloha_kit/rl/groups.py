"""Observation groups: named parts of an observation that a policy reads, as gymnasium spaces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from aloha_kit.core import ConfigError, Contract, did_you_mean, Feature, Observation
from aloha_kit.core.features import ACTION, IMAGE, IMAGES, SENSORS, value_of

JOINTS = "joints"
_JOINTS = ("qpos", "qvel")
IMAGE_GROUP = "_image"
"""End of the name of a camera's group."""
_LEAST = 36  # pixels of the smallest image that SB3's NatureCNN takes

Values = dict[str, npt.NDArray[Any]]


class ObservationGroups:
    """Observation groups of a contract.

    A group is `joints` (qpos, and qvel where there is one), a feature by its name (`effort`, `vestibular` for
    `sensors/vestibular`), or the images of a camera, `wrist_image`.

    Args:
        cameras: of the rig, for the list of groups in an error: the contract has only those that are read.

    Attributes:
        names: of the groups, in order.
        cameras: that the groups read.
        vectors: those of the groups that are no images.

    Raises:
        ConfigError: no such group, or images below 36 x 36; lists the groups that there are.
    """

    def __init__(self, names: Sequence[str], contract: Contract, cameras: Iterable[str] = ()) -> None:
        there = groups_of(contract)
        for name in names:
            if name not in there:
                known = dict.fromkeys((*there, *(f"{camera}{IMAGE_GROUP}" for camera in cameras)))
                raise ConfigError("no observation group '{name}'. {known}", name=name, known=did_you_mean(name, known))
        self.names = tuple(dict.fromkeys(names))
        self._features = {name: there[name] for name in self.names}
        self._images = {name for name, (first, *_) in self._features.items() if first.role == IMAGE}
        self.vectors = tuple(name for name in self.names if name not in self._images)
        for name in self._images:
            if min(self._features[name][0].shape[:2]) < _LEAST:
                raise ConfigError(
                    "images of {least} x {least} pixels or more are needed for group '{name}'", least=_LEAST, name=name
                )

    @property
    def space(self) -> spaces.Dict:
        """The observation space: vectors as float32, images as (3, H, W) uint8."""
        return spaces.Dict({name: self._box(name) for name in self.names})

    def read(self, observation: Observation) -> Values:
        """{group: its values} of an observation; an image is rendered only if a group reads it."""
        return {name: self._value(name, observation) for name in self.names}

    def _box(self, name: str) -> spaces.Box:
        features = self._features[name]
        if name in self._images:
            height, width, channels = features[0].shape
            return spaces.Box(0, 255, (channels, height, width), np.uint8)
        return spaces.Box(-np.inf, np.inf, (sum(feature.shape[0] for feature in features),), np.float32)

    def _value(self, name: str, observation: Observation) -> npt.NDArray[Any]:
        values = [value_of(observation, feature.name) for feature in self._features[name]]
        if name in self._images:
            return np.ascontiguousarray(np.moveaxis(values[0], -1, 0))
        return np.concatenate(values).astype(np.float32)


def groups_of(contract: Contract) -> dict[str, tuple[Feature, ...]]:
    """{name of a group: its features} that a contract has."""
    features = {feature.name: feature for feature in contract.features if feature.role != ACTION}
    joints = tuple(features[name] for name in _JOINTS if name in features)
    found: dict[str, tuple[Feature, ...]] = {JOINTS: joints}
    for name, feature in features.items():
        if feature.role == IMAGE:
            found[f"{name.removeprefix(IMAGES)}{IMAGE_GROUP}"] = (feature,)
        elif len(feature.shape) == 1:
            found[name.removeprefix(SENSORS)] = (feature,)
    return found


def cameras_of(names: Sequence[str], cameras: Mapping[str, Any]) -> tuple[str, ...]:
    """Cameras of a rig whose images the groups of these names read, each once."""
    wanted = {name.removesuffix(IMAGE_GROUP) for name in names if name.endswith(IMAGE_GROUP)}
    return tuple(name for name in cameras if name in wanted)
