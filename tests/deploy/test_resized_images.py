"""Which images are resized for a policy, and what it then sees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aloha_kit.core import Contract
from aloha_kit.deploy.policy_source import PolicySource
from aloha_kit.deploy.resized_images import resizable, with_resized_images

SMALL, LARGE = (24, 32), (48, 64)


def contract(**cameras: tuple[int, int]) -> Contract:
    return Contract.of(("left_waist",), ("left_waist",), cameras, 50.0)


@pytest.mark.parametrize(
    ("camera", "found"),
    [
        ((48, 64), True),
        ((480, 640), True),
        ((100, 133), True),  # of 24x32 within a pixel
        ((24, 32), False),
        ((12, 16), False),
        ((48, 85), False),
        ((64, 48), False),
    ],
)
def test_larger_images_of_the_same_proportions_are_resizable(camera: tuple[int, int], found: bool) -> None:
    assert resizable(contract(top=SMALL), contract(top=camera)) == ({"top": SMALL} if found else {})
    assert resizable(contract(top=SMALL), contract(other=camera)) == {}


class Undecoded(dict[str, Any]):
    """Images of which `wrist` must not be read."""

    def __getitem__(self, name: str) -> Any:
        assert name != "wrist", "decoded"
        return super().__getitem__(name)


class Seen:
    def __init__(self) -> None:
        self.observations: list[Any] = []
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1

    def predict_chunk(self, observation: Any) -> Any:
        self.observations.append(observation)
        return np.zeros((5, 1), np.float32)


def test_the_policy_sees_them_resized_in_every_step_that_it_reads() -> None:
    seen, robot = Seen(), contract(top=LARGE, wrist=SMALL)
    source = PolicySource(contract(top=SMALL, wrist=SMALL), 5, "seen", None, {"kind": "x"}, lambda measure: seen)
    fitted = with_resized_images(source, robot)
    fitted.contract.require(robot, mine="policy", theirs="robot")
    assert fitted.about == {"kind": "x", "resized_images": {"top": [24, 32]}}
    rng = np.random.default_rng(0)
    tops = rng.integers(0, 256, (2, *LARGE, 3)).astype(np.uint8)
    wrist = np.ones((*SMALL, 3), np.uint8)
    jpegs = {"top": b"large", "wrist": b"as it was sent"}
    earlier, present = ({"images": Undecoded(top=top, wrist=wrist), "images_jpeg": jpegs} for top in tops)
    chunks = fitted.timed(lambda stage: None)  # type: ignore[arg-type, return-value]
    chunks.reset()
    chunks.predict_chunk({**present, "history": [earlier]})  # type: ignore[typeddict-item]
    (got,) = seen.observations
    for step, top in ((got, tops[1]), (got["history"][0], tops[0])):
        mean = top.reshape(24, 2, 32, 2, 3).mean((1, 3))
        assert np.abs(step["images"]["top"] - mean).max() <= 0.5
        assert step["images_jpeg"] == {"wrist": b"as it was sent"}
        assert set(step["images"]) == {"top", "wrist"}
    assert present["images_jpeg"] is jpegs
    assert jpegs["top"] == b"large"
    chunks.predict_chunk(present)  # type: ignore[arg-type]
    assert "history" not in seen.observations[1]
    assert seen.resets == 1
