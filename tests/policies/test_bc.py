"""Behaviour cloning: the contract in each variation, the losses and the mixture by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aloha_kit.config.bc import BcConfig
from aloha_kit.config.policies import load_policy
from aloha_kit.core import Contract
from aloha_kit.core.features import object_poses
from aloha_kit.data.stats import Statistics
from aloha_kit.policies.bc import BcNetwork
from aloha_kit.policies.build import build
from aloha_kit.policies.engine import blank, check, prepare
from aloha_kit.policies.generator import BatchGenerator
from aloha_kit.testing.policies import batch_of, check_network, stats_of
from tests import tiny

SMALL: dict[str, Any] = {
    "backbone_layers": 1,
    "backbone_width": 16,
    "keypoints": 4,
    "layer_dims": (32,),
    "lstm_units": 16,
}
PLANE = Contract.of(("x", "y"), ("x", "y"), {"top": (24, 32)}, 10.0)
BLIND = Contract.of(("x", "y", "z"), ("x", "y", "z"), {}, 10.0)
UNIT = np.array([[-1.0, -1, -1], [1, 1, 1]])


def network_of(config: BcConfig, contract: Contract, stats: Statistics | None = None) -> BcNetwork:
    torch.manual_seed(0)
    network = build(config, contract, stats or stats_of(contract), pretrained=False)
    assert isinstance(network, BcNetwork)
    return network.eval()


def blind(**changes: Any) -> BcNetwork:
    """A network of x, y and z alone, whose raw units are its normalised ones."""
    config = BcConfig(**{**SMALL, "use_images": False, **changes})
    return network_of(config, BLIND, Statistics.of(qpos=UNIT, action=UNIT))


CASES: dict[str, dict[str, Any]] = {
    "perceptron": {"l1_weight": 0.5, "cos_weight": 0.1},
    "window, chunk": {"n_obs_steps": 2, "chunk_size": 4, "normalisation": "mean_std", "squash": False},
    "gaussian": {"output": "gaussian", "use_environment_state": True},
    "lstm": {"actor": "lstm", "n_obs_steps": 3, "layer_dims": ()},
    "lstm, mixture": {"actor": "lstm", "n_obs_steps": 3, "output": "gmm", "chunk_size": 4},
}


@pytest.mark.parametrize("case", CASES)
def test_contract(case: str, tmp_path: Path) -> None:
    config = BcConfig(**{**SMALL, **CASES[case]})
    contract = PLANE.with_sensors(object_poses(("cube_x", "cube_y") if config.use_environment_state else ()))
    check_network(lambda: network_of(config, contract), contract, tmp_path)


def test_the_shipped_configurations_are_robomimics() -> None:
    plain, recurrent = load_policy("bc"), load_policy("bc_rnn")
    assert isinstance(plain, BcConfig)
    assert isinstance(recurrent, BcConfig)
    assert (plain.actor, plain.output, plain.layer_dims, plain.chunk_size) == ("mlp", "deterministic", (1024, 1024), 1)
    assert (plain.l2_weight, plain.l1_weight, plain.cos_weight) == (1.0, 0.0, 0.0)
    assert (recurrent.actor, recurrent.output, recurrent.num_modes) == ("lstm", "gmm", 5)
    assert (recurrent.n_obs_steps, recurrent.lstm_units, recurrent.layer_dims) == (10, 1000, ())


def test_the_regression_loss_by_hand() -> None:
    network = blind(l2_weight=2.0, l1_weight=0.5, cos_weight=0.25)
    batch = batch_of(BLIND, rows=1, size=4)
    batch["actions"] = 3 * batch["actions"]  # beyond the 1 at which smooth L1 becomes linear
    losses = {name: value.detach() for name, value in network.losses(batch).items()}
    predicted, actions = (values[:, 0].double() for values in (network.predict(batch).detach(), batch["actions"]))
    error = predicted - actions
    l2 = error.square().mean()
    l1 = torch.where(error.abs() < 1, error.square() / 2, error.abs() - 0.5).mean()
    cosine = (predicted * actions).sum(1) / (predicted.norm(dim=1) * actions.norm(dim=1))
    expected = {"l2": l2, "l1": l1, "cos": (1 - cosine).mean()}
    expected["loss"] = 2 * l2 + 0.5 * l1 + 0.25 * expected["cos"]
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert float(losses[name]) == pytest.approx(float(value), rel=1e-4), name


def gmm(**changes: Any) -> BcNetwork:
    """Two Gaussians of chunks of two actions, at +0.5 with weight 0.8 and at -0.5 with weight 0.2, deviation 0.3."""
    network = blind(output="gmm", num_modes=2, chunk_size=2, squash=False, min_std=0.1, **changes)
    with torch.no_grad():
        for layer in (network.mean, network.deviation, network.logits):
            layer.weight.zero_()
        network.mean.bias.copy_(torch.tensor([0.5, -0.5]).repeat_interleave(6))
        network.deviation.bias.fill_(float(np.log(np.expm1(0.2))))  # the inverse of softplus
        network.logits.bias.copy_(torch.tensor([0.8, 0.2]).log())
    return network


def test_the_mixture_is_one_of_whole_chunks() -> None:
    network = gmm()
    batch = batch_of(BLIND, rows=2, size=3, pad=1)
    actions, valid = batch["actions"].double(), ~batch["is_pad"]

    def density(mean: float, weight: float) -> Tensor:
        each = torch.exp(-(((actions - mean) / 0.3) ** 2) / 2) / (0.3 * np.sqrt(2 * np.pi))
        return weight * torch.where(valid[..., None], each, 1.0).prod(2).prod(1)

    expected = -(density(0.5, 0.8) + density(-0.5, 0.2)).log().sum() / valid.sum()
    losses = network.losses(batch)
    assert float(losses["nll"]) == pytest.approx(float(expected), rel=1e-4)
    assert float(losses["l2"]) == pytest.approx(float((actions - 0.5).square()[valid].mean()), rel=1e-4)


def test_components_are_drawn_by_their_weights() -> None:
    batch = batch_of(BLIND, rows=2, size=500)
    found = gmm().predict(batch, BatchGenerator([(i,) for i in range(500)]))
    first = torch.isclose(found, torch.tensor(0.5)).all(2).all(1)
    assert torch.isclose(found[~first], torch.tensor(-0.5)).all()
    assert 0.74 < float(first.float().mean()) < 0.86  # 3 standard deviations


def test_entries_that_stay_constant_do_not_outweigh_the_others() -> None:
    """Of the two entries that change, the switch between -1 and 1 is predicted, as robomimic's min_std would not."""

    def error(**changes: Any) -> float:
        network = blind(output="gmm", layer_dims=(64, 64), **changes).train()
        optimiser, generator = torch.optim.Adam(network.parameters(), lr=1e-2), torch.Generator().manual_seed(0)

        def batch(size: int) -> Any:
            qpos = torch.rand(size, 3, generator=generator) * 2 - 1
            actions = torch.stack([qpos[:, 0], qpos[:, 1].sign(), torch.zeros(size)], dim=1).unsqueeze(1)
            return {"qpos": qpos, "images": {}, "actions": actions, "is_pad": torch.zeros(size, 1, dtype=torch.bool)}

        for _ in range(400):
            optimiser.zero_grad()
            network.losses(batch(128))["loss"].backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
            optimiser.step()
        test = batch(1000)
        return float((network.predict(test) - test["actions"])[..., 1].abs().mean().detach())

    ours, robomimics = error(), error(min_std=1e-4)
    assert ours < 0.08
    assert robomimics > 2 * ours


def test_the_lstm_reads_the_window_alone_in_its_order() -> None:
    network = blind(actor="lstm", n_obs_steps=3)
    batch = batch_of(BLIND, rows=1, size=2, n_obs_steps=3)
    once = network.predict(batch)
    network.predict(batch_of(BLIND, rows=1, size=2, n_obs_steps=3, seed=4))  # another client
    assert torch.equal(network.predict(batch), once)
    assert not torch.allclose(network.predict({**batch, "qpos": batch["qpos"].flip(1)}), once, atol=1e-4)


def test_engines_take_an_lstm_over_images() -> None:
    network = network_of(BcConfig(**{**SMALL, **CASES["lstm, mixture"]}), PLANE)
    example = blank(network, 1)
    for engine in (tiny.by_compiler(network), prepare(network, engine="openvino", example=example)):
        assert check(engine, network, example).of_std < 1e-3


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"actor": "lstm"}, "actor lstm reads a sequence: n_obs_steps must be at least 2, given 1"),
        ({"layer_dims": (8, 0)}, "layer_dims[1] must be at least 1, given 0"),
        ({"min_std": 0.0}, "min_std must be positive, given 0.0"),
        (
            {"normalisation": "mean_std"},
            "squash bounds to [-1, 1] and needs normalisation min_max_11, given mean_std",
        ),
        (
            {"l2_weight": 0.0},
            "l2_weight, l1_weight and cos_weight must not be negative, and one of them positive, given (0.0, 0.0, 0.0)",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        BcConfig(**changes)
