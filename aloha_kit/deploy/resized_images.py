"""Images of a robot, resized to what its policy reads as `episode resize` resizes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from aloha_kit.core import Contract, Observation
from aloha_kit.core.features import IMAGES, Subset
from aloha_kit.core.policy import ChunkSource
from aloha_kit.deploy.policy_source import PolicySource
from aloha_kit.storage.codec import Image, resize

Sizes = Mapping[str, tuple[int, int]]
"""{camera: (height, width)}."""


def resizable(policy: Contract, robot: Contract) -> Sizes:
    """The policy's sizes of those cameras that the robot has larger, with the same proportions (1 %)."""
    sizes = {}
    for name, (height, width) in policy.cameras.items():
        high, wide = robot.cameras.get(name, (0, 0))
        if high * wide > height * width and abs(high * width - wide * height) <= 0.01 * high * width:
            sizes[name] = (height, width)
    return sizes


def with_resized_images(source: PolicySource, robot: Contract) -> PolicySource:
    """The policy on the robot's images of its `resizable` cameras; other differences stay."""
    sizes = resizable(source.contract, robot)
    own = {f"{IMAGES}{name}": (*robot.cameras[name], 3) for name in sizes}
    features = (replace(each, shape=own.get(each.name, each.shape)) for each in source.contract.features)
    return replace(
        source,
        contract=replace(source.contract, features=tuple(features)),
        about={**source.about, "resized_images": {name: list(size) for name, size in sizes.items()}},
        timed=lambda measure: ResizedImages(source.timed(measure), sizes),
    )


class ResizedImages:
    """A source of chunks that gets the images of some cameras in another size, also those of the steps before."""

    def __init__(self, source: ChunkSource, sizes: Sizes) -> None:
        self._source, self._sizes = source, sizes

    def reset(self) -> None:
        self._source.reset()

    def predict_chunk(self, observation: Observation) -> npt.NDArray[np.float32]:
        found = self._resized(observation)
        if "history" in observation:
            found["history"] = [self._resized(step) for step in observation["history"]]
        return self._source.predict_chunk(found)

    def _resized(self, observation: Observation) -> Observation:
        jpegs = observation.get("images_jpeg", {})  # of a resized camera it is another image
        kept = {name: jpeg for name, jpeg in jpegs.items() if name not in self._sizes}
        return {**observation, "images": _Resized(observation["images"], self._sizes), "images_jpeg": kept}


class _Resized(Subset[Image]):
    """Images by camera, decoded and resized when they are read."""

    def __init__(self, images: Mapping[str, Image], sizes: Sizes) -> None:
        super().__init__(images, images)
        self._sizes = sizes

    def __getitem__(self, name: str) -> Image:
        image = super().__getitem__(name)
        return resize(image, self._sizes[name]) if name in self._sizes else image
