"""Descriptors against sums over pixels, and what a training run keeps of its data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aloha_kit.core import ContractError
from aloha_kit.core.image_grid import describe, SIZE
from aloha_kit.data import camera_statistics
from aloha_kit.data.cache import cached_frames
from aloha_kit.data.camera_statistics import add_camera_statistics
from aloha_kit.data.index import read_table
from aloha_kit.data.stats import Statistics
from aloha_kit.formats import open_source
from tests.synthetic import write_dataset


def cell_means(image: np.ndarray) -> np.ndarray:
    """The same by enlarging every pixel until cells end between pixels."""
    fine = np.kron(image.astype(float), np.ones((8, 8, 1)))
    height, width = image.shape[:2]
    return fine.reshape(8, height, 8, width, 3).mean(axis=(1, 3)).reshape(-1) / 255


@pytest.mark.parametrize("size", [(8, 8), (48, 64), (30, 50), (5, 7), (1, 1)])
def test_cells_are_areas_whatever_the_size(size: tuple[int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, *size, 3), np.uint8)
    expected = np.stack([cell_means(image) for image in images])
    np.testing.assert_allclose(describe(images.transpose(0, 3, 1, 2)), expected, atol=1e-6)
    np.testing.assert_allclose(describe(images[1]), expected[1], atol=1e-6)
    assert describe(images[1]).dtype == np.float32


def test_a_reduced_image_is_described_like_the_whole() -> None:
    smooth = np.linspace(0, 255, 120 * 160 * 3).reshape(120, 160, 3).astype(np.uint8)
    reduced = smooth.reshape(60, 2, 80, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)
    np.testing.assert_allclose(describe(reduced), describe(smooth), atol=0.004)


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(ContractError, match=r"must be \(H, W, 3\) or \(B, 3, H, W\) uint8, given \(4, 4\) uint8"):
        describe(np.zeros((4, 4), np.uint8))
    with pytest.raises(ContractError, match=r"given \(4, 4, 3\) float64"):
        describe(np.zeros((4, 4, 3)))  # type: ignore[arg-type]


def test_training_keeps_how_its_images_look_and_where_its_episodes_begin_and_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(camera_statistics, "SAMPLES", 10)
    cameras = {"top": (24, 32), "cam.low": (16, 16)}
    episodes = write_dataset(tmp_path, cameras=cameras)
    table = read_table(open_source(tmp_path))
    frames = cached_frames(table, cameras, tmp_path / "cache", workers=1, progress=False)
    stats = add_camera_statistics(table.statistics(), table, frames, [0, 2])
    starts = np.stack([episodes[0].qpos[0], episodes[2].qpos[0]])
    np.testing.assert_array_equal(stats["start"].min, starts.min(axis=0))
    np.testing.assert_allclose(stats["start"].mean, starts.mean(axis=0), atol=1e-6)
    lengths = [len(episodes[i].action) for i in (0, 2)]
    ends = np.stack([episodes[i].qpos[length - 1] for i, length in zip((0, 2), lengths, strict=True)])
    np.testing.assert_array_equal(stats["end"].max, ends.max(axis=0))
    chosen = np.linspace(0, sum(lengths) - 1, 10).round().astype(int)
    for camera in cameras:
        shown = np.concatenate([episodes[0].images[camera][: lengths[0]], episodes[2].images[camera][: lengths[1]]])
        expected = np.stack([cell_means(image) for image in shown[chosen]])
        moments = stats[f"images/{camera}"]
        assert (moments.size, moments.count) == (SIZE, 10)
        np.testing.assert_allclose(moments.mean, expected.mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(moments.max, expected.max(axis=0), atol=1e-5)
    back = Statistics.from_arrays(stats.to_arrays())
    assert list(back.moments) == ["qpos", "action", "environment_state", "start", "end", "images/top", "images/cam.low"]
    np.testing.assert_array_equal(back["images/cam.low"].std, stats["images/cam.low"].std)


def test_what_is_known_already_stays_and_policies_without_images_read_nothing(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    table = read_table(open_source(tmp_path))
    known = Statistics({**table.statistics().moments, **Statistics.of(start=np.zeros((1, 14))).moments})
    stats = add_camera_statistics(known, table, None, [1])
    assert stats["start"] is known["start"]
    assert "images/top" not in stats
