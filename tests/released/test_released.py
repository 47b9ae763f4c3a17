"""Files that earlier versions wrote give the values that they gave then."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aloha_kit.policies import checkpoint
from aloha_kit.storage.recovery import recover
from tests.released.make import actions, episode_values, POLICIES, processor, ROWS

VERSIONS = sorted(path.parent for path in Path(__file__).parent.glob("*/expected.npz"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread, as where the files were made: the number of threads changes the order of sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name)
def version(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of one version's files."""
    return Path(shutil.copytree(request.param, tmp_path / request.param.name))


def expected(version: Path, name: str) -> dict[str, Any]:
    with np.load(version / "expected.npz") as values:
        return {key.removeprefix(f"{name}/"): values[key] for key in values.files if key.startswith(f"{name}/")}


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Assert that an episode's values are those expected, and that the contract is written as that version reads it."""
    assert found.keys() == wanted.keys()
    contract, before = json.loads(found.pop("contract")), json.loads(str(wanted.pop("contract")))
    assert {key: contract[key] for key in before} == before
    for key, value in wanted.items():
        assert np.array_equal(found[key], value), key


def assert_predicted(found: np.ndarray, wanted: np.ndarray, version: Path) -> None:
    """Assert equal bits where the same kernels computed both; other processors and other versions of torch round
    differently, and version 0.1.0 did not record its processor."""
    with np.load(version / "expected.npz") as values:
        same_kernels = "processor" in values and str(values["processor"]) == processor()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    assert not same_kernels or np.array_equal(found, wanted)


def test_there_is_at_least_one() -> None:
    assert VERSIONS


@pytest.mark.parametrize("name", ["jpeg", "raw"])
def test_an_episode_reads_bit_equal(version: Path, name: str) -> None:
    wanted, found = expected(version, name), episode_values(version / name / "episode_0.hdf5")
    assert_same(found, wanted)


def test_a_journal_is_recovered_whole(version: Path) -> None:
    wanted = expected(version, "jpeg")
    (journal,) = (version / "killed").glob("*.partial")
    recover(journal)
    found = episode_values(version / "killed" / "episode_0.hdf5")
    assert len(found["action"]) == ROWS
    assert_same(found, wanted)


@pytest.mark.parametrize("name", ["act", "cnnmlp"])
def test_a_checkpoint_predicts_the_same(version: Path, name: str) -> None:
    wanted = expected(version, name)
    network = checkpoint.load(version / name)
    images = {key.removeprefix("images/"): torch.from_numpy(v) for key, v in wanted.items() if key.startswith("images")}
    with torch.inference_mode():
        found = network.predict({"qpos": torch.from_numpy(wanted["qpos"]), "images": images})
    assert_predicted(found.numpy(), wanted["prediction"], version)
    assert checkpoint.notes(version / name) == {"step": 7}


DEPLOYED = [
    path.parent for path in sorted(Path(__file__).parent.glob("*/*/config.json")) if path.parent.name in POLICIES
]


@pytest.mark.parametrize("folder", DEPLOYED, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_checkpoint_gives_the_same_actions(folder: Path) -> None:
    found = actions(checkpoint.load(folder), folder.parent / "jpeg")
    for executor, wanted in expected(folder.parent, folder.name).items():
        assert_predicted(found[executor], wanted, folder.parent)


def test_there_are_such_checkpoints() -> None:
    assert {path.name for path in DEPLOYED} == set(POLICIES)
