"""Diffusion Policy's replay buffer of Push-T, written here with zarr in the layout of the published file."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from aloha_kit.core import ConfigError, EpisodeError
from aloha_kit.formats import open_source, ReadOptions
from aloha_kit.pusht import PushT
from aloha_kit.testing.sources import check_source

LENGTHS = (7, 4, 9)


def arrays() -> dict[str, Any]:
    rng, rows = np.random.default_rng(0), sum(LENGTHS)
    return {
        "data/action": rng.uniform(0, 512, (rows, 2)).astype(np.float32),
        "data/state": np.column_stack([rng.uniform(100, 400, (rows, 4)), rng.uniform(0, 6, rows)]).astype(np.float32),
        "data/img": rng.integers(0, 256, (rows, 96, 96, 3)).astype(np.float32),
        "data/keypoint": rng.uniform(0, 512, (rows, 9, 2)).astype(np.float32),
        "data/n_contacts": np.ones((rows, 1), np.float32),
        "meta/episode_ends": np.cumsum(LENGTHS).astype(np.int64),
    }


def write(folder: Path, values: dict[str, Any]) -> Path:
    place = folder / "pusht_cchi_v7_replay.zarr"
    new = zarr.__version__ >= "3"
    root: Any = zarr.open_group(str(place), mode="w", **({"zarr_format": 2} if new else {}))
    for name, value in values.items():
        chunks = (8, *value.shape[1:])  # several episodes share one
        if new:
            root.create_array(name, data=value, chunks=chunks)
        else:
            root.create_dataset(name, data=value, chunks=chunks)
    return place


def test_it_keeps_the_contract_of_sources_and_has_the_rows_of_each_episode(tmp_path: Path) -> None:
    values, place = arrays(), write(tmp_path, arrays())
    source = open_source(place, kind="pusht")
    check_source(source)
    assert (place / "data" / "state" / ".zarray").exists()  # zarr's format 2, as published
    assert len(source) == 3
    with closing(source.open(1)) as episode:
        assert (episode.length, episode.frames, episode.rate_hz) == (4, 4, 10.0)
        np.testing.assert_array_equal(episode.action, values["data/action"][7:11])
        np.testing.assert_array_equal(episode.qpos, values["data/state"][7:11, :2])
        np.testing.assert_array_equal(episode.vectors["environment_state"], values["data/state"][7:11, 2:])
        np.testing.assert_array_equal(episode.image("top", 3), values["data/img"][10].astype(np.uint8))
        assert not PushT("state", cameras={"top": (96, 96)}).contract.differences(episode.contract)
        with pytest.raises(EpisodeError, match="has no image 4 of camera 'top'"):
            episode.image("top", 4)
    assert len(open_source(place, kind="pusht", options=ReadOptions(first=2))) == 2


def test_keypoints_are_those_of_the_environment(tmp_path: Path) -> None:
    values, place = arrays(), write(tmp_path, arrays())
    env = PushT("keypoints")
    with closing(open_source(place, kind="pusht_keypoints").open(0)) as episode:
        found = episode.vectors["environment_state"]
        for row, state in zip(found, values["data/state"], strict=False):
            wanted = env.place(state[:2], state[2:]).observation["environment_state"]
            np.testing.assert_allclose(row, wanted, atol=1e-3)
        assert not env.contract.differences(episode.contract)


def test_an_identity_changes_with_the_images(tmp_path: Path) -> None:
    values, place = arrays(), write(tmp_path, arrays())
    before = open_source(place, kind="pusht").identity(0)
    assert open_source(place, kind="pusht").identity(0) == before
    write(tmp_path, {**values, "data/img": values["data/img"] // 2})
    assert open_source(place, kind="pusht").identity(0) != before


def without(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda values: {key: value for key, value in values.items() if key != name}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("data/state"), "is no replay buffer of Push-T: it lacks data/state"),
        (lambda v: {**v, "data/action": v["data/action"][:, :1]}, r"action has shape \(20, 1\), expected \(rows, 2\)"),
        (lambda v: {**v, "data/img": v["data/img"][:-1]}, "ends at row 20, and the arrays have rows: .*img 19"),
        (lambda v: {**v, "meta/episode_ends": np.array([5, 5, 20])}, "must be ascending row numbers, given"),
    ],
)
def test_another_layout_is_one_line(tmp_path: Path, change: Callable[[Any], Any], words: str) -> None:
    place = write(tmp_path, change(arrays()))
    with pytest.raises(EpisodeError, match=words) as refused:
        open_source(place, kind="pusht")
    assert "\n" not in str(refused.value)


def test_what_is_no_buffer_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match="no folder 'nowhere'; expected a replay buffer such as pusht_cchi"):
        open_source("nowhere", kind="pusht")
    with pytest.raises(EpisodeError, match="is no zarr group"):
        open_source(tmp_path, kind="pusht")
    place = write(tmp_path, arrays())
    with pytest.raises(ConfigError, match="episodes of format pusht are read without --rename"):
        open_source(place, kind="pusht", options=ReadOptions(rename={"top": "img"}))
