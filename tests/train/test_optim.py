from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from aloha_kit.config.training import TrainConfig
from aloha_kit.policies.build import build
from aloha_kit.train.optim import AveragedWeights, build_optimiser, lr_factor
from tests.tiny import ACT
from tests.train.job import dataset


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    table = dataset(Path(tmp_path_factory.mktemp("episodes")))
    return build(ACT, table.contract, table.statistics())


def test_every_parameter_is_in_one_group_backbone_apart(network: torch.nn.Module) -> None:
    optimiser = build_optimiser(network, TrainConfig(lr=3e-4, lr_backbone=1e-5, weight_decay=0.02))  # type: ignore[arg-type]
    rest, backbone = optimiser.param_groups
    assert (rest["lr"], backbone["lr"], rest["weight_decay"]) == (3e-4, 1e-5, 0.02)
    names = {id(p): name for name, p in network.named_parameters()}
    assert all("backbone" in names[id(p)] for p in backbone["params"])
    assert not any("backbone" in names[id(p)] for p in rest["params"])
    assert len(rest["params"]) + len(backbone["params"]) == len(names)


def test_one_rate_for_all_when_none_is_given_for_the_backbone(network: torch.nn.Module) -> None:
    groups = build_optimiser(network, TrainConfig(lr=2e-4)).param_groups  # type: ignore[arg-type]
    assert [group["lr"] for group in groups] == [2e-4, 2e-4]


def test_schedule() -> None:
    config = TrainConfig(schedule="cosine", warmup_steps=10)
    assert [lr_factor(config, step, 0.0) for step in (0, 4, 9, 50)] == [0.1, 0.5, 1.0, 1.0]
    assert lr_factor(config, 500, 0.5) == pytest.approx(0.5)
    assert lr_factor(config, 999, 1.0) == pytest.approx(0.0)
    assert lr_factor(config, 250, 0.25) == pytest.approx(0.8535534, abs=1e-6)
    constant = dataclasses.replace(config, schedule="constant", warmup_steps=0)
    assert [lr_factor(constant, step, step / 10) for step in (0, 5, 10)] == [1.0, 1.0, 1.0]
    steps = dataclasses.replace(constant, schedule="step", decay_epochs=20, decay_factor=0.5)
    assert [lr_factor(steps, 9, 0.5, epochs) for epochs in (0.0, 19.9, 20.0, 45.0)] == [1.0, 1.0, 0.5, 0.25]
    # a short run is warm after a tenth of it
    short = dataclasses.replace(config, schedule="constant", warmup_steps=500)
    assert lr_factor(short, 3, 0.05) == pytest.approx(0.5)
    assert lr_factor(short, 6, 0.1) == 1.0


def test_step_decay_is_that_of_torch() -> None:
    config = TrainConfig(lr=3e-4, schedule="step", decay_epochs=7, decay_factor=0.3, warmup_steps=0)
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.lr)
    torchs = torch.optim.lr_scheduler.StepLR(optimiser, step_size=7, gamma=0.3)
    for epoch in range(30):
        assert config.lr * lr_factor(config, 10 * epoch, epoch / 30 + 0.1, epoch) == pytest.approx(
            torchs.get_last_lr()[0], rel=1e-12
        ), epoch
        optimiser.step()
        torchs.step()


@pytest.mark.parametrize("power", [None, 0.75])
def test_average_follows_its_formula(power: float | None) -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(0.0)
    averaged = AveragedWeights(layer, 0.5, power)  # type: ignore[arg-type]
    expected = 0.0
    for n in range(12):
        layer.weight.data.fill_(float(n + 1))
        averaged.update(layer)
        decay = min(0.5, (1 + n) / (10 + n) if power is None else 1 - (1 + n) ** -power)
        expected = decay * expected + (1 - decay) * (n + 1)
        assert float(averaged.network.weight) == pytest.approx(expected, rel=1e-6)  # type: ignore[arg-type]
    assert not averaged.network.weight.requires_grad  # type: ignore[union-attr]
