"""The steps before the present one, as a policy that reads several gets them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from aloha_kit.control.execution import ChunkExecutor
from aloha_kit.control.history import ObservationHistory, with_history
from aloha_kit.core import ContractError, Observation
from aloha_kit.core.inputs import window


class Reader:
    """A source of chunks of two actions that keeps what it is given."""

    def __init__(self) -> None:
        self.windows: list[list[float]] = []
        self.given: list[Observation] = []

    def reset(self) -> None: ...

    def predict_chunk(self, observation: Observation) -> np.ndarray:
        self.given.append(observation)
        self.windows.append([float(step["qpos"][0]) for step in window(observation, 3)])
        return np.zeros((2, 1), np.float32)


class DrawnNow(Mapping[str, Any]):
    """Images that can be drawn until the next step only, as a lazy simulation's."""

    def __init__(self) -> None:
        self.past = False
        self.drawn: list[str] = []

    def __getitem__(self, name: str) -> np.ndarray:
        assert not self.past, "too late"
        self.drawn.append(name)
        return np.zeros((2, 2, 3), np.uint8)

    def __iter__(self) -> Iterator[str]:
        return iter(("top", "side"))

    def __len__(self) -> int:
        return 2


def observation(value: float, **more: Any) -> Observation:
    return {"qpos": np.array([value], np.float32), "images": {}, "stamps": {}, **more}  # type: ignore[typeddict-item]


def test_every_step_is_remembered_and_the_first_is_repeated_before_it() -> None:
    reader = Reader()
    policy = ObservationHistory(ChunkExecutor(reader), 3, ())
    for episode in (0, 10):
        policy.reset()
        for step in range(5):
            policy.act(observation(episode + step))
    assert reader.windows == [[0, 0, 0], [0, 1, 2], [2, 3, 4], [10, 10, 10], [10, 11, 12], [12, 13, 14]]
    assert policy.provenance is not None
    assert policy.provenance.step == 4


def test_images_are_taken_while_they_can_be_drawn() -> None:
    reader, images = Reader(), DrawnNow()
    policy = ObservationHistory(ChunkExecutor(reader), 3, ("top",))
    policy.reset()
    policy.act(observation(0, images=images))
    images.past = True
    for step in (1, 2):
        policy.act(observation(step, images={"top": np.ones((2, 2, 3), np.uint8)}))
    assert images.drawn == ["top"]
    assert reader.given[-1]["history"][0]["images"]["top"].sum() == 0


def test_a_cameras_own_jpeg_is_not_decoded() -> None:
    reader, images = Reader(), DrawnNow()
    policy = ObservationHistory(ChunkExecutor(reader), 3, ("top",))
    policy.reset()
    policy.act(observation(0, images=images, images_jpeg={"top": b"jpeg"}))
    assert images.drawn == []


def test_a_policy_of_one_step_stays_as_it_is() -> None:
    executor = ChunkExecutor(Reader())
    assert with_history(executor, 1, ("top",)) is executor


def test_a_missing_history_is_an_error() -> None:
    with pytest.raises(ContractError, match="this policy reads 3 observations, given 1"):
        window(observation(0), 3)
