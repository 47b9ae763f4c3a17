"""Implicit behavioural cloning: the contract, both samplers by hand, and the known failures of other code."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aloha_kit.config.ibc import IbcConfig
from aloha_kit.config.policies import load_policy
from aloha_kit.core import Contract
from aloha_kit.data.batch import Batch
from aloha_kit.data.instructions import Instructions
from aloha_kit.data.stats import Statistics
from aloha_kit.policies.build import build
from aloha_kit.policies.engine import blank, check, prepare
from aloha_kit.policies.generator import BatchGenerator
from aloha_kit.policies.ibc import _drawn, EnergyModel, IbcNetwork
from aloha_kit.testing.policies import batch_of, check_network, stats_of

SMALL: dict[str, Any] = {
    "backbone_layers": 1,
    "backbone_width": 16,
    "keypoints": 4,
    "layer_dims": (32, 32),
    "negatives": 32,
    "candidates": 64,
    "langevin_iterations": 20,
}
PLANE = Contract.of(("x", "y"), ("x", "y"), {"top": (24, 32)}, 10.0)
INSTRUCTIONS = Instructions.of(["left", "right"], "table")
BLIND = Contract.of(("x", "y"), ("x", "y"), {}, 10.0)
PIXELS = np.array([[0.0, 0.0], [512, 512]])  # of Push-T


def network_of(config: IbcConfig, contract: Contract, stats: Statistics | None = None) -> IbcNetwork:
    torch.manual_seed(0)
    network = build(config, contract, stats or stats_of(contract), pretrained=False, instructions=INSTRUCTIONS)
    assert isinstance(network, IbcNetwork)
    return network.eval()


def blind(**changes: Any) -> IbcNetwork:
    """A network of x and y alone, in pixels, that reads one step."""
    config = IbcConfig(**{**SMALL, "use_images": False, "n_obs_steps": 1, **changes})
    return network_of(config, BLIND, Statistics.of(qpos=PIXELS, action=PIXELS))


@pytest.mark.parametrize(
    "config",
    [
        IbcConfig(**SMALL, dfo_std=0.05),  # larger noise takes all candidates into one corner of this steep energy
        IbcConfig(**{**SMALL, "n_obs_steps": 1}, chunk_size=4, choice="sample"),
        IbcConfig(**{**SMALL, "negatives": 8}, sampler="langevin"),
        IbcConfig(**SMALL, dfo_std=0.05, encoder_dims=(32, 16), local_negatives=8),
        IbcConfig(**SMALL, dfo_std=0.05, text_encoder="table"),
    ],
    ids=["derivative-free", "chunk, drawn", "langevin", "encoder, local negatives", "instruction"],
)
def test_contract(config: IbcConfig, tmp_path: Path) -> None:
    def make() -> IbcNetwork:
        network = network_of(config, PLANE)
        with torch.no_grad():
            network.energy_model.energy.weight.mul_(20)  # of a new network the energies are so even that none is chosen
        return network

    check_network(make, PLANE, tmp_path)


def test_published_constants() -> None:
    names = ("negatives", "candidates", "dfo_iterations", "dfo_std", "dfo_shrink", "choice")
    published, baseline, langevin = (
        load_policy(f"ibc{end}") for end in ("_published", "_diffusion_policy", "_langevin")
    )
    assert [getattr(published, name) for name in names] == [256, 16384, 3, 0.33, 0.5, "argmax"]
    assert [getattr(baseline, name) for name in names] == [1024, 1024, 5, 0.03, 1.0, "sample"]
    assert isinstance(langevin, IbcConfig)
    assert (langevin.sampler, langevin.negatives, langevin.langevin_iterations) == ("langevin", 8, 100)
    assert (langevin.langevin_step, langevin.langevin_noise, langevin.langevin_clip) == ((0.1, 1e-5), 1.0, 0.1)


@pytest.mark.parametrize(("sampler", "negatives"), [("dfo", 256), ("dfo", 8), ("langevin", 8)])
def test_the_first_loss_is_that_of_guessing(sampler: Any, negatives: int) -> None:
    """A loss of 0 has come of negatives in pixels beside normalised actions."""
    network = blind(sampler=sampler, negatives=negatives)
    batch = _moves(size=64)
    loss = float(network.losses(batch)["info_nce"])
    assert loss == pytest.approx(math.log(1 + negatives), rel=0.02)


def test_positives_and_negatives_are_in_one_range() -> None:
    network = blind()
    rated: list[Tensor] = []
    network.energy_model.register_forward_pre_hook(lambda _, given: rated.append(given[1]))
    batch = _moves(size=16)
    network.losses(batch)
    network.predict(batch)
    trained, *searched = rated
    torch.testing.assert_close(trained[:, 0], batch["actions"][:, 0] / 256 - 1)
    for actions in (trained[:, 1:], *searched):
        assert -1 <= float(actions.min()) < -0.8
        assert 0.8 < float(actions.max()) <= 1


def test_local_negatives_are_as_far_from_their_centre_as_the_positive() -> None:
    """All are drawn around one centre, so a difference of two has the variance 2 std^2, that to the positive too."""
    network = blind(local_negatives=8, local_std=(0.1, 0.1))
    positive = torch.zeros(20000, 1, 2)
    torch.manual_seed(0)
    negatives = network._local_negatives(positive)
    assert float(negatives.var()) == pytest.approx(0.02, rel=0.03)
    assert float((negatives[:, 0] - negatives[:, 1]).var()) == pytest.approx(0.02, rel=0.03)
    losses = network.losses(_moves(size=64))
    assert float(losses["local_info_nce"]) == pytest.approx(math.log(1 + 8), rel=0.02)
    assert float(losses["loss"]) == pytest.approx(float(losses["info_nce"] + losses["local_info_nce"]))


@pytest.mark.parametrize(
    ("changes", "error_px"),
    [
        ({"sampler": "dfo"}, 20.0),
        ({"sampler": "langevin"}, 20.0),
        ({"sampler": "dfo", "encoder_dims": (32, 32), "local_negatives": 16, "dfo_iterations": 7}, 8.0),
    ],
    ids=["dfo", "langevin", "dfo, local negatives"],
)
def test_it_learns_where_to_go_and_goes_into_no_corner(changes: dict[str, Any], error_px: float) -> None:
    """The action is the state mirrored at the middle of the image; errors are in pixels."""
    network = blind(**{"negatives": 16, "candidates": 128, "dfo_iterations": 4, "langevin_iterations": 10, **changes})
    optimiser, losses = torch.optim.Adam(network.parameters(), lr=3e-3), []
    for step in range(120):
        optimiser.zero_grad()
        parts = network.losses(_moves(size=64, seed=step))
        parts["loss"].backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(parts["info_nce"]))
    assert 0 < losses[-1] < losses[0]
    batch = _moves(size=64, seed=9999)
    with torch.inference_mode():
        found, metrics = network.predict(batch), network.validation(batch)
    error = (found - batch["actions"]).abs()
    assert float(metrics["val_error_all"].value) == pytest.approx(float(error.mean()), rel=1e-4)
    assert float(error.mean()) < error_px
    assert float(found.amin()) > 0
    assert float(found.std(dim=0).min()) > 0.5 * float(batch["actions"].std(dim=0).min())
    assert network.selects == "val_deployed"


def test_openvino_searches_as_we_do() -> None:
    network = network_of(IbcConfig(**SMALL), PLANE)
    with torch.no_grad():
        network.energy_model.energy.weight.mul_(20)
    example = blank(network, 1)
    assert check(prepare(network, engine="openvino", example=example), network, example).of_std < 1e-3


def _moves(size: int, seed: int = 0) -> Batch:
    states = np.random.default_rng(seed).uniform(100, 412, (size, 2)).astype(np.float32)
    batch = batch_of(BLIND, rows=1, size=size)
    batch["qpos"] = torch.from_numpy(states)
    batch["actions"] = torch.from_numpy(512 - states).unsqueeze(1)
    return batch


def test_the_gradient_is_autograds() -> None:
    torch.manual_seed(0)
    model = EnergyModel(5, 3, (16, 8, 8))
    features, actions = torch.randn(2, 5), torch.randn(2, 7, 3, requires_grad=True)
    (expected,) = torch.autograd.grad(model(features, actions).sum(), actions)
    torch.testing.assert_close(model.gradient(features, actions), expected)


def test_candidates_are_drawn_by_probability() -> None:
    energies = torch.tensor([[0.0, 1.0, 2.0]])
    found = _drawn(energies, torch.rand(1, 30000, generator=torch.Generator().manual_seed(0)))[0]
    expected = np.exp([0.0, -1.0, -2.0]) / np.exp([0.0, -1.0, -2.0]).sum()
    np.testing.assert_allclose(torch.bincount(found, minlength=3) / 30000, expected, atol=0.01)
    assert _drawn(torch.full((1, 3), 5.0), torch.tensor([[0.0, 0.9999999]])).tolist() == [[0, 2]]


class Bowl(torch.nn.Module):
    """An energy whose minimum is known: ten times the squared distance from a point."""

    def __init__(self, point: Tensor) -> None:
        super().__init__()
        self.point = point

    def forward(self, features: Tensor, actions: Tensor) -> Tensor:
        return 10 * (actions - self.point).square().sum(-1)

    def gradient(self, features: Tensor, actions: Tensor) -> Tensor:
        return 20 * (actions - self.point)


@pytest.mark.parametrize("sampler", ["dfo", "langevin"])
@pytest.mark.parametrize("point", [(0.3, -0.6), (1.0, -1.0)])
def test_both_samplers_find_the_minimum(sampler: Any, point: tuple[float, float]) -> None:
    network = blind(sampler=sampler, candidates=256, langevin_iterations=100)
    network.energy_model = Bowl(torch.tensor(point))  # type: ignore[assignment]
    found = network.predict(_moves(size=8), BatchGenerator([(i,) for i in range(8)]))
    expected = (torch.tensor(point) + 1) * 256
    torch.testing.assert_close(found, expected.expand(8, 1, 2), atol=20, rtol=0)


def test_langevin_steps_by_hand() -> None:
    network = blind(sampler="langevin", langevin_iterations=3, langevin_step=(0.1, 0.02), langevin_noise=0.5)
    network.energy_model = Bowl(torch.zeros(2))  # type: ignore[assignment]
    noise = [torch.tensor([[[1.0, -1.0]]]), torch.tensor([[[0.5, 2.0]]]), torch.tensor([[[-3.0, 0.0]]])]
    x = np.array([0.9, -0.05])
    for size, drawn in zip((0.1, 0.02 + 0.08 * 0.25, 0.02), ((1.0, -1.0), (0.5, 2.0), (-3.0, 0.0)), strict=True):
        x = np.clip(x - np.clip(size * (0.5 * 20 * x + 0.5 * np.array(drawn)), -0.1, 0.1), -1, 1)
    found = network._langevin(torch.zeros(1, 2), torch.tensor([[[0.9, -0.05]]]), noise)
    np.testing.assert_allclose(found[0, 0], x, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"normalisation": "mean_std"},
            "actions are sampled in [-1, 1], which needs normalisation min_max_11, given mean_std",
        ),
        ({"layer_dims": ()}, "layer_dims must be at least 1, given 0"),
        ({"negatives": 0}, "negatives must be at least 1, given 0"),
        ({"encoder_dims": (64, 0)}, "encoder_dims[1] must be at least 1, given 0"),
        ({"dfo_std": 0.0}, "dfo_std must be positive, given 0.0"),
        (
            {"sampler": "langevin", "local_negatives": 8},
            "local_negatives are of sampler dfo: langevin draws its negatives from a chain",
        ),
        ({"local_std": (0.5, 0.1)}, "local_std must be positive, the smallest first, given (0.5, 0.1)"),
        (
            {"langevin_step": (0.1, 0.0)},
            "langevin_step must be positive and langevin_noise not negative, given (0.1, 0.0) and 1.0",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        IbcConfig(**changes)
