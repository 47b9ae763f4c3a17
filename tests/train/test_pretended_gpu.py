"""What a training step does on a GPU, without one; but for the backward pass, which belongs to PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from aloha_kit.config.policies import load_policy
from aloha_kit.config.training import TrainConfig
from aloha_kit.data.batch import Batch
from aloha_kit.policies.build import build
from aloha_kit.train.distributed import Distributed
from aloha_kit.train.step import TrainingStep
from tests.deploy.conftest import CONTRACT
from tests.pretended_gpu import Crossings, moved
from tests.tiny import statistics


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("policy", ["act", "cnnmlp"])
def test_a_step_waits_for_nothing(policy: str, augment: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host only sends batches and draws, and goes on meanwhile: the GPU always has its next step waiting."""
    network = build(load_policy(policy), CONTRACT, statistics(), pretrained=False).train()
    mode = FakeTensorMode()
    moved(network, mode)

    def backward(self: Tensor) -> None:
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.empty_like(parameter)

    monkeypatch.setattr(Tensor, "backward", backward)
    with mode:
        step = TrainingStep(network, TrainConfig(batch_size=8, accumulate=2, augment=augment), Distributed())
        batch = Batch(
            qpos=torch.zeros(8, 14),
            images={"top": torch.zeros(8, 3, 48, 64, dtype=torch.uint8)},
            actions=torch.zeros(8, network.chunk_size, 14),
            is_pad=torch.zeros(8, network.chunk_size, dtype=torch.bool),
        )
        with Crossings() as crossings:
            losses, norm = step(batch, 0, 1.0)
    assert {value.device.type for value in (*losses.values(), norm)} == {"cuda"}
    assert "_fused_adamw_" in crossings.operations
    assert "_local_scalar_dense" not in crossings.operations
    sent = [("data/batch.py", tuple(value[:4].shape)) for value in (batch["images"]["top"], batch["qpos"])]
    sent += [("data/batch.py", tuple(batch["actions"][:4].shape)), ("data/batch.py", tuple(batch["is_pad"][:4].shape))]
    sent += [("data/augment.py", (4, 6))] * augment
    assert sorted(copy[:2] for copy in crossings.copies) == sorted(sent * 2)  # each piece's, and no more
    assert all(meanwhile for _, _, meanwhile in crossings.copies)
