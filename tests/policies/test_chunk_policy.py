"""From an observation to a chunk, and what happens when the observation is not what was trained on."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from aloha_kit.control.execution import TemporalEnsemble
from aloha_kit.core import ContractError, Observation
from aloha_kit.data.batch import Batch
from aloha_kit.policies.chunk_policy import ChunkPolicy
from aloha_kit.testing.policies import contract_of
from tests.policies.test_networks import act, network_of, TWO

CONTRACT = contract_of(TWO, base=True, poses=("cube_x", "cube_y"))


@pytest.fixture
def policy() -> ChunkPolicy:
    torch.manual_seed(0)
    return ChunkPolicy(network_of(act(use_environment_state=True, dropout=0.3), CONTRACT))


def observation() -> Observation:
    rng = np.random.default_rng(0)
    return {
        "qpos": rng.normal(size=14).astype(np.float32),
        "images": {name: rng.integers(0, 256, (*size, 3), dtype=np.uint8) for name, size in TWO.items()},
        "environment_state": np.array([0.1, 0.5], np.float32),
        "stamps": {},
    }


def test_the_chunk_is_the_networks_prediction(policy: ChunkPolicy) -> None:
    seen = observation()
    chunk = policy.predict_chunk(seen)
    assert chunk.shape == (5, 16)
    assert chunk.dtype == np.float32
    batch = Batch(
        qpos=torch.from_numpy(seen["qpos"])[None],
        images={
            name: torch.from_numpy(image.transpose(2, 0, 1).copy())[None] for name, image in seen["images"].items()
        },
        environment_state=torch.from_numpy(seen["environment_state"])[None],
    )
    with torch.inference_mode():
        np.testing.assert_allclose(chunk, policy.network.predict(batch)[0], atol=1e-6)
    np.testing.assert_array_equal(chunk, policy.predict_chunk(seen))


def test_a_camera_it_was_not_trained_on_changes_nothing(policy: ChunkPolicy) -> None:
    seen, more = observation(), observation()
    more["images"]["extra"] = np.zeros((8, 8, 3), np.uint8)
    np.testing.assert_array_equal(policy.predict_chunk(seen), policy.predict_chunk(more))


def test_images_that_are_views_or_mirrored_are_read_as_they_look(policy: ChunkPolicy) -> None:
    plain, view = observation(), observation()
    mirrored = plain["images"]["top"][:, ::-1]
    plain["images"]["top"] = mirrored.copy()
    view["images"]["top"] = mirrored
    np.testing.assert_array_equal(policy.predict_chunk(plain), policy.predict_chunk(view))


def test_it_works_under_temporal_ensembling(policy: ChunkPolicy) -> None:
    ensemble = TemporalEnsemble(policy)
    ensemble.reset()
    seen = observation()
    chunk = policy.predict_chunk(seen)
    first, second = ensemble.act(seen), ensemble.act(seen)
    np.testing.assert_allclose(first, chunk[0], atol=1e-6)
    older, newer = 1 / (1 + np.exp(-0.01)), np.exp(-0.01) / (1 + np.exp(-0.01))
    np.testing.assert_allclose(second, older * chunk[1] + newer * chunk[0], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"qpos": np.zeros(7)}, "qpos must have 14 entries (left_waist … right_gripper), given shape (7,)"),
        ({"images": {}}, "camera 'left_wrist' is missing; there are: (none)"),
        (
            {"images": {"left_wrist": np.zeros((40, 32, 3), np.uint8), "top": np.zeros((48, 32, 3), np.uint8)}},
            "camera 'top' must be (32, 48, 3) uint8 as in training, given (48, 32, 3) uint8",
        ),
        (
            {"images": {"left_wrist": np.zeros((40, 32, 3)), "top": np.zeros((32, 48, 3), np.uint8)}},
            "camera 'left_wrist' must be (40, 32, 3) uint8 as in training, given (40, 32, 3) float64",
        ),
        (
            {"environment_state": np.zeros(3)},
            "environment_state must have 2 entries (cube_x … cube_y), given shape (3,)",
        ),
    ],
)
def test_what_does_not_fit_is_named(policy: ChunkPolicy, change: Observation, text: str) -> None:
    with pytest.raises(ContractError, match=re.escape(text)):
        policy.predict_chunk({**observation(), **change})


def test_what_is_missing_is_named(policy: ChunkPolicy) -> None:
    seen = observation()
    del seen["environment_state"]
    with pytest.raises(ContractError, match="the observation has no 'environment_state'; it has: qpos, images, stamps"):
        policy.predict_chunk(seen)
