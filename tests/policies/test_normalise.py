"""Normalisation against numpy, in each mode and both directions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aloha_kit.config.policies import ActConfig
from aloha_kit.core import ContractError
from aloha_kit.data.stats import Moments, Statistics
from aloha_kit.policies.normalise import ImageNormaliser, Normaliser

ROWS = np.array([[0.0, 10.0, 5.0], [1.0, 30.0, 5.0], [5.0, 20.0, 5.001]], np.float32)


def normaliser(mode: str, floor: float = 1e-2) -> Normaliser:
    config = ActConfig(normalisation=mode, std_floor=floor)  # type: ignore[arg-type]
    return Normaliser(config, Statistics.of(qpos=ROWS), ("qpos",))


EXPECTED = {
    "mean_std": (ROWS - ROWS.mean(0)) / np.maximum(ROWS.std(0, ddof=1), 1e-2),
    "min_max_01": (ROWS - ROWS.min(0)) / np.maximum(np.ptp(ROWS, axis=0), 1e-2),
    "min_max_11": (ROWS - (ROWS.min(0) + ROWS.max(0)) / 2) / np.maximum(np.ptp(ROWS, axis=0) / 2, 1e-2),
}


@pytest.mark.parametrize("mode", EXPECTED)
def test_values_and_their_way_back(mode: str) -> None:
    there = normaliser(mode)("qpos", torch.from_numpy(ROWS))
    np.testing.assert_allclose(there, EXPECTED[mode], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(normaliser(mode).undo("qpos", there), ROWS, rtol=1e-6, atol=1e-5)


def test_ranges_are_the_promised_ones_and_noise_is_not_blown_up() -> None:
    for mode, low in (("min_max_01", 0.0), ("min_max_11", -1.0)):
        values = normaliser(mode)("qpos", torch.from_numpy(ROWS)).numpy()
        np.testing.assert_allclose(values[:, :2].min(0), low, atol=1e-6)
        np.testing.assert_allclose(values[:, :2].max(0), 1.0, atol=1e-6)
        assert np.ptp(values[:, 2]) < 0.2  # a third of a thousandth of travel under a floor of a hundredth
    assert np.ptp(normaliser("mean_std", floor=1e-6)("qpos", torch.from_numpy(ROWS)).numpy()[:, 2]) > 1


def test_buffers_stay_out_of_the_weights_but_move_with_the_module() -> None:
    module = normaliser("mean_std")
    assert list(module.state_dict()) == []
    assert {b.device.type for b in module.to("meta").buffers()} == {"meta"}


def test_unknown_extremes_are_refused_where_they_are_needed() -> None:
    nan = np.full(2, np.nan, np.float32)
    stats = Statistics({"qpos": Moments(np.zeros(2, np.float32), np.ones(2, np.float32), nan, nan, 0)})
    Normaliser(ActConfig(normalisation="mean_std"), stats, ("qpos",))
    with pytest.raises(ContractError, match="statistics of 'qpos' are not all known, normalisation min_max_01 is out"):
        Normaliser(ActConfig(normalisation="min_max_01"), stats, ("qpos",))


def test_images_as_bytes_and_as_floats() -> None:
    image = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (image.numpy() / 255 - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(ImageNormaliser()(image), expected, atol=1e-5)
    np.testing.assert_allclose(ImageNormaliser()(image.float() / 255), expected, atol=1e-5)


@pytest.mark.parametrize("given", [torch.uint8, torch.float32])
@pytest.mark.parametrize("width", [1, 7, 32])
def test_images_whose_channels_are_side_by_side_give_the_same_numbers(given: torch.dtype, width: int) -> None:
    image = torch.randint(0, 256, (2, 3, 6, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    image = image if given == torch.uint8 else image / 255
    for precision in (torch.float32, torch.bfloat16):
        normalise = ImageNormaliser().to(precision)
        last = normalise(image.contiguous(memory_format=torch.channels_last))
        assert last.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(last, normalise(image))


def test_exporters_are_shown_the_plain_form() -> None:
    image = torch.zeros((1, 4, 5, 3), dtype=torch.uint8).movedim(-1, -3)  # as inference has it
    graph = torch.export.export(ImageNormaliser(), (image,), strict=False).graph
    done = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    assert [name for name in done if "mul" in name or "add" in name] == ["aten.mul.Tensor", "aten.add.Tensor"]
    assert not [name for name in done if "repeat" in name or "view" in name or "flatten" in name]
