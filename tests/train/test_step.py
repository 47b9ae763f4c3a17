"""Pieces, number formats and compilation: none may change what a step is."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aloha_kit.config.policies import PolicyConfig
from aloha_kit.core.metrics_file import read_metrics
from aloha_kit.data.augment import Augment
from aloha_kit.data.index import EpisodeTable
from aloha_kit.train import step
from aloha_kit.train.loop import Trainer
from aloha_kit.train.progress import TrainingError
from tests.tiny import ACT, CNNMLP
from tests.train.job import dataset, job, stop_at, trainer, TRAINING

QUIET = dataclasses.replace(ACT, dropout=0.0)
# the last rows of two episodes (30 and 41 steps) among others: chunks are padded, each by another length
ROWS = np.array([29, 28, 27, 10, 70, 69, 68, 40])


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> EpisodeTable:
    return dataset(tmp_path_factory.mktemp("episodes"))


def made(folder: Path, table: EpisodeTable, policy: PolicyConfig = QUIET, **changes: Any) -> Trainer:
    return trainer(job(folder, table, dataclasses.replace(TRAINING, **changes), policy=policy))


def gradients(of: Trainer) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Of the batch of ROWS, loaded as the loop does, and its losses."""
    losses = of.step.gradients(of._load((5, ROWS)), 5)
    found = {name: p.grad for name, p in of.network.named_parameters() if p.grad is not None}
    return found, {key: float(value) for key, value in losses.items()}


@pytest.mark.parametrize("pieces", [2, 8])
@pytest.mark.parametrize(
    "policy", [QUIET, dataclasses.replace(QUIET, loss_over="all"), CNNMLP], ids=["act valid", "act all", "cnnmlp"]
)
def test_a_batch_in_pieces_has_the_gradients_of_the_whole(
    tmp_path: Path, table: EpisodeTable, policy: PolicyConfig, pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "randn_like", lambda mean: mean * 0)  # the latent's noise is drawn piece by piece
    whole, losses = gradients(made(tmp_path / "whole", table, policy))
    parts, sums = gradients(made(tmp_path / "parts", table, policy, accumulate=pieces))
    assert set(parts) == set(whole)
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-3, atol=1e-6, msg=name)
    assert sums == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "idle"),
    [
        ({}, set()),
        ({"use_vae": False, "dec_layers": 2, "first_self_attention": True}, set()),
        ({"dec_layers": 1, "decoder_output": "first"}, set()),
        ({"dec_layers": 3, "decoder_output": "first"}, {"decoder.1", "decoder.2"}),
        ({"is_pad_head": True}, {"is_pad_head.weight", "is_pad_head.bias"}),
    ],
)
def test_a_configuration_has_its_idle_parameters(
    tmp_path: Path, table: EpisodeTable, changes: dict[str, Any], idle: set[str]
) -> None:
    policy = dataclasses.replace(QUIET, **changes)
    of = made(tmp_path / "run", table, policy)
    used, _ = gradients(of)
    without = {name for name, _ in of.network.named_parameters()} - set(used)
    assert {".".join(name.split(".")[:2]) for name in without} == idle
    assert policy.find_unused_parameters == bool(idle)


@pytest.mark.parametrize("limit", [0.0, 1e-3, 1e6])
def test_gradients_are_clipped_as_torch_does(tmp_path: Path, table: EpisodeTable, limit: float) -> None:
    ours, wanted = (made(tmp_path / name, table, grad_clip=limit) for name in ("ours", "wanted"))
    for each in (ours, wanted):
        torch.manual_seed(0)
        gradients(each)
    norm = ours.step._clip()
    assert norm == torch.nn.utils.clip_grad_norm_(wanted.network.parameters(), limit or torch.inf)
    for one, other in zip(ours.network.parameters(), wanted.network.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        assert one.grad is None or torch.equal(one.grad, other.grad)  # type: ignore[arg-type]


def test_noise_is_that_of_the_step_whatever_was_drawn_before(tmp_path: Path, table: EpisodeTable) -> None:
    norms = []
    for name, draws in (("a", 0), ("b", 7)):
        of = made(tmp_path / name, table, ACT)
        torch.rand(draws)
        norms.append([float(of.step(of._load((5, ROWS)), number, 0.0)[1]) for number in (3, 4)])
    assert norms[0] == norms[1]
    assert norms[0][0] != norms[0][1], "another step, other noise; the weights are the same at a rate of 0"


def test_augmentation_by_amounts() -> None:
    assert step.augmentation(dataclasses.replace(TRAINING, seed=4)) == Augment(0.95, 0.0, 5.0, 0.3, 0.4, 0.5, seed=4)
    amounts = {"crop": 0.8, "shift": 0.1, "rotate_deg": 2.0, "brightness": 0.2, "contrast": 0.1, "saturation": 0.0}
    changed = dataclasses.replace(TRAINING, **{f"augment_{name}": amount for name, amount in amounts.items()})
    assert step.augmentation(changed) == Augment(**amounts, seed=TRAINING.seed)


def test_fp16_goes_on_where_it_was(tmp_path: Path, table: EpisodeTable) -> None:
    """On a CPU, which the command refuses: too slow there to be of use, but the same code."""
    straight = made(tmp_path / "straight", table, amp="fp16", num_steps=8)
    straight.fit()
    assert {p.dtype for p in straight.network.parameters()} == {torch.float32}
    config = dataclasses.replace(TRAINING, amp="fp16", num_steps=8)
    halves: list[Trainer] = []
    halves.append(trainer(job(tmp_path / "halves", table, config, policy=QUIET, stop=stop_at(3, lambda: halves[0]))))
    halves[0].step.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)  # not what a new one begins with
    halves[0].fit()
    second = trainer(job(tmp_path / "halves", table, config, policy=QUIET), resume=True)
    assert second.step.scaler.get_scale() == 1024.0
    assert second.fit().step == 8


def test_fp16_leaves_out_a_step_that_overflows(tmp_path: Path, table: EpisodeTable) -> None:
    of = made(tmp_path / "run", table, amp="fp16", num_steps=2, ema=0.0)
    before = {name: value.clone() for name, value in of.network.state_dict().items()}
    of.step.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    losses, norm = of.step(of._load((5, ROWS)), 0, 1.0)
    assert torch.isfinite(losses["loss"])
    assert float(norm) == 0
    assert all(torch.equal(value, before[name]) for name, value in of.network.state_dict().items())
    assert of.step.scaler.get_scale() == 2.0**119


def test_fp16_does_not_hide_a_gradient_that_is_no_number(tmp_path: Path, table: EpisodeTable) -> None:
    of = made(tmp_path / "run", table, amp="fp16", num_steps=20)
    of.step.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    next(of.network.parameters()).register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(TrainingError, match=r"step 3: grad_norm nan"):  # after scales of 4, 2 and 1
        of.fit()


def test_compiled_losses_are_the_same_and_leave_no_name(
    tmp_path: Path, table: EpisodeTable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(step, "BACKEND", "aot_eager")  # all of torch.compile but the code it would write
    policy = dataclasses.replace(CNNMLP, use_images=False)  # less to compile
    rows = []
    for name, compile_ in (("eager", False), ("compiled", True)):
        of = made(tmp_path / name, table, policy, compile=compile_, num_steps=4, val_every=2, accumulate=2)
        of.fit()
        assert (of.step._losses.compute == of.network.losses) is not compile_
        rows.append(
            [(row["step"], row["loss"]) for row in read_metrics(tmp_path / name / "metrics.csv") if "loss" in row]
        )
    assert "--compile" not in caplog.text
    assert [step for step, _ in rows[0]] == [2, 4]
    assert rows[1] == [(step, pytest.approx(loss, rel=1e-4)) for step, loss in rows[0]]
    state = torch.load(tmp_path / "compiled" / "checkpoints" / "last" / "training_state.pt", weights_only=True)
    assert set(state["network"]) == set(of.network.state_dict())
    assert not any("_orig_mod" in name for name in state["network"])


def test_without_a_compiler_training_goes_on_and_reports_it_in_a_line(
    tmp_path: Path, table: EpisodeTable, caplog: pytest.LogCaptureFixture
) -> None:
    import torch._inductor.config as inductor

    policy = dataclasses.replace(CNNMLP, use_images=False)  # less to compile
    plain = made(tmp_path / "plain", table, policy, num_steps=3)
    tried = made(tmp_path / "tried", table, policy, num_steps=3, compile=True)
    plain.fit()
    caplog.clear()
    with inductor.patch({"cpp.cxx": (None, "no-such-compiler")}):
        tried.fit()
    line, *others = [r.message for r in caplog.records if r.levelname == "WARNING" and r.name.startswith("aloha_kit")]
    assert line.startswith("--compile: training goes on uncompiled, since ")
    assert "no-such-compiler" in line
    assert not others
    for name, value in plain.network.state_dict().items():
        assert torch.equal(tried.network.state_dict()[name], value), "the attempt left a trace"


def test_a_backend_that_fails_behind_the_forward_pass_is_noticed_too(
    tmp_path: Path, table: EpisodeTable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, loss: torch.Tensor) -> torch.Tensor:
            return loss.clone()

        @staticmethod
        def backward(ctx: Any, *gradient: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no kernel\n\nand pages of traces")

    def backend(losses: Any, **options: Any) -> Any:
        return lambda batch: {key: Broken.apply(value) for key, value in losses(batch).items()}

    monkeypatch.setattr(torch, "compile", backend)
    of = made(tmp_path / "run", table, num_steps=1, compile=True)
    of.fit()
    assert "--compile: training goes on uncompiled, since no kernel" in caplog.messages
