"""Diffusion, flow matching and the two-step regression: the contract, the U-Net, and each sampler by hand."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aloha_kit.config.denoising import DenoisingConfig, DiffusionConfig, FlowConfig, MipConfig
from aloha_kit.config.policies import load_policy
from aloha_kit.core import Contract
from aloha_kit.core.features import object_poses
from aloha_kit.data.stats import Statistics
from aloha_kit.policies.build import build
from aloha_kit.policies.denoising import DenoisingNetwork
from aloha_kit.policies.diffusion import DiffusionNetwork
from aloha_kit.policies.engine import blank, check, prepare
from aloha_kit.policies.flow import FlowNetwork, MipNetwork
from aloha_kit.policies.generator import BatchGenerator
from aloha_kit.policies.unet1d import ConditionalUnet1d, SinusoidalEmbedding
from aloha_kit.testing.policies import batch_of, check_network, stats_of
from tests import tiny

SMALL: dict[str, Any] = {
    "chunk_size": 4,
    "n_obs_steps": 1,
    "backbone_layers": 1,
    "backbone_width": 16,
    "keypoints": 4,
    "down_dims": (16, 32),
    "kernel_size": 3,
    "n_groups": 4,
    "time_embedding": 16,
}
TRANSFORMER: dict[str, Any] = {
    **SMALL,
    "denoiser": "transformer",
    "n_obs_steps": 2,
    "transformer_layers": 2,
    "transformer_heads": 2,
    "transformer_size": 32,
    "transformer_dropout": 0.0,
}
PLANE = Contract.of(("x", "y"), ("x", "y"), {"top": (24, 32)}, 10.0)
BLIND = Contract.of(("x", "y"), ("x", "y"), {}, 10.0)


def network_of(config: DenoisingConfig, contract: Contract, stats: Statistics | None = None) -> DenoisingNetwork:
    torch.manual_seed(0)
    network = build(config, contract, stats or stats_of(contract), pretrained=False)
    assert isinstance(network, DenoisingNetwork)
    return network.eval()


def blind(config_class: type[DenoisingConfig], **changes: Any) -> Any:
    """A network of x and y alone, whose raw units are its normalised ones."""
    unit = Statistics.of(qpos=np.array([[-1.0, -1], [1, 1]]), action=np.array([[-1.0, -1], [1, 1]]))
    return network_of(config_class(**{**SMALL, "use_images": False, **changes}), BLIND, unit)


@pytest.mark.parametrize(
    "config",
    [
        DiffusionConfig(**SMALL, inference_steps=4),
        DiffusionConfig(**SMALL, diffusion_steps=8, inference_steps=8, sampler="ddpm", prediction_type="sample"),
        DiffusionConfig(**SMALL, use_environment_state=True, inference_steps=4),
        FlowConfig(**SMALL),
        FlowConfig(**SMALL, prediction_type="sample"),
        FlowConfig(**{**SMALL, "down_dims": (16, 16, 32), "normalisation": "mean_std"}),
        MipConfig(**SMALL),
        DiffusionConfig(**TRANSFORMER, image_crop=0.8, inference_steps=4),
    ],
    ids=[
        "diffusion",
        "ddpm, clean chunk",
        "object poses",
        "flow",
        "flow, clean chunk",
        "flow, three levels",
        "mip",
        "transformer",
    ],
)
def test_contract(config: DenoisingConfig, tmp_path: Path) -> None:
    poses = ("cube_x", "cube_y") if config.use_environment_state else ()
    contract = PLANE.with_sensors(object_poses(poses))
    check_network(lambda: network_of(config, contract), contract, tmp_path)


@pytest.mark.parametrize("name", ["diffusion", "flow", "mip"])
def test_the_shipped_configuration_is_the_published_network(name: str) -> None:
    config = load_policy(name)
    assert isinstance(config, DenoisingConfig)
    assert (config.kind, config.chunk_size, config.n_obs_steps) == (name, 16, 2)
    assert (config.down_dims, config.kernel_size, config.n_groups) == ((256, 512, 1024), 5, 8)


def test_the_unet_has_as_many_parameters_as_the_formula_gives() -> None:
    """Counted layer by layer from the published description, with the widths of Push-T's state policy."""
    dims, kernel, embedding, condition = (2, 256, 512, 1024), 5, 256, 40 + 256

    def conv(a: int, b: int, k: int = kernel) -> int:
        return k * a * b + b

    def block(a: int, b: int) -> int:
        norms, film, shortcut = 2 * 2 * b, condition * 2 * b + 2 * b, conv(a, b, 1) if a != b else 0
        return conv(a, b) + conv(b, b) + norms + film + shortcut

    expected = embedding * 4 * embedding + 4 * embedding + 4 * embedding * embedding + embedding
    expected += sum(block(a, b) + block(b, b) for a, b in pairwise(dims))
    expected += 2 * block(1024, 1024) + conv(256, 256, 3) + conv(512, 512, 3)
    expected += block(2048, 512) + block(512, 512) + block(1024, 256) + block(256, 256)
    expected += conv(512, 512, 4) + conv(256, 256, 4) + conv(256, 256) + 2 * 256 + conv(256, 2, 1)
    unet = ConditionalUnet1d(2, 40, down_dims=dims[1:], time_embedding=embedding, kernel_size=kernel, n_groups=8)
    assert sum(p.numel() for p in unet.parameters()) == expected


def test_the_transformer_is_causal_and_reads_each_observation_as_a_token() -> None:
    torch.manual_seed(0)
    network = blind(DiffusionConfig, **{k: v for k, v in TRANSFORMER.items() if k not in SMALL}, n_obs_steps=2)
    qpos = torch.tensor([[[0.1, 0.2], [0.3, 0.4]]])
    torch.testing.assert_close(network.condition({"qpos": qpos, "images": {}}), qpos)
    chunk, other, time = torch.zeros(1, 4, 2), torch.zeros(1, 4, 2), torch.tensor([50.0])
    other[:, 2:] = 1.0
    one, two = (network.denoise(given, time, qpos) for given in (chunk, other))
    torch.testing.assert_close(one[:, :2], two[:, :2])
    assert not torch.allclose(one[:, 2:], two[:, 2:], atol=1e-3)
    assert all(not torch.allclose(one, network.denoise(chunk, *changed), atol=1e-5) for changed in (
        (time - 40, qpos), (time, qpos + torch.tensor([[1.0], [0.0]])), (time, qpos + torch.tensor([[0.0], [1.0]]))
    ))  # fmt: skip


def test_time_embedding_by_hand() -> None:
    angles = 3.0 * 10000.0 ** (-np.arange(4) / 3)
    expected = np.concatenate([np.sin(angles), np.cos(angles)])
    np.testing.assert_allclose(SinusoidalEmbedding(8)(torch.tensor([3.0]))[0], expected, atol=1e-6)


def test_rows_past_the_end_repeat_the_last_action() -> None:
    network = blind(FlowConfig)
    batch = batch_of(BLIND, rows=4, pad=3)
    clean = network.clean_chunk(batch)
    torch.testing.assert_close(clean[0, :1], batch["actions"][0, :1])
    torch.testing.assert_close(clean[0, 1:], batch["actions"][0, 0].expand(3, 2))
    torch.testing.assert_close(clean[1], batch["actions"][1])


class Ideal(torch.nn.Module):
    """In place of the U-Net: what a perfect one predicts for data that is one chunk and nothing else."""

    def __init__(self, chunk: Tensor, predict: Any) -> None:
        super().__init__()
        self.chunk, self.predict = chunk, predict

    def forward(self, noisy: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        out: Tensor = self.predict(noisy, time.view(-1, 1, 1), self.chunk)
        return out


def squared_cosine(level: Tensor, levels: int = 100) -> Tensor:
    """Product of the alphas up to a level, of Nichol & Dhariwal's schedule with betas capped at 0.999."""
    curve = np.cos((np.arange(levels + 1) / levels + 0.008) / 1.008 * np.pi / 2) ** 2
    betas = np.minimum(1 - curve[1:] / curve[:-1], 0.999)
    return torch.from_numpy(np.cumprod(1 - betas).astype(np.float32))[level.long()]


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize("kind", ["epsilon", "sample"])
def test_diffusion_with_a_perfect_network_gives_the_chunk(sampler: Any, kind: Any) -> None:
    network: DiffusionNetwork = blind(DiffusionConfig, sampler=sampler, prediction_type=kind)
    chunk = torch.linspace(-0.9, 0.9, 8).view(1, 4, 2)

    def epsilon(noisy: Tensor, time: Tensor, clean: Tensor) -> Tensor:
        alpha = squared_cosine(time)
        return (noisy - alpha.sqrt() * clean) / (1 - alpha).sqrt()

    network.unet = Ideal(chunk, epsilon if kind == "epsilon" else lambda noisy, time, clean: clean)  # type: ignore[assignment]
    found = network.predict(batch_of(BLIND, rows=4, size=2), BatchGenerator([(1,), (2,)]))
    torch.testing.assert_close(found, chunk.expand(2, -1, -1), atol=2e-3, rtol=0)


def test_ddpm_steps_are_draws_from_the_posterior() -> None:
    """Ho et al., 2020, equations 6 and 7, with the predicted chunk clipped; no noise in the last step."""
    network: DiffusionNetwork = blind(DiffusionConfig, sampler="ddpm", diffusion_steps=10, inference_steps=10)
    network.unet = Ideal(torch.zeros(1), lambda x, time, _: torch.tanh(x) * (1 + time / 100))  # type: ignore[assignment]
    found = network.predict(batch_of(BLIND, rows=4, size=2), BatchGenerator([(1,), (2,)]))
    draws = BatchGenerator([(1,), (2,)])
    x = draws.normal(4, 2)
    for level in range(9, -1, -1):
        bar, before = squared_cosine(torch.tensor(level), 10), torch.tensor(1.0)
        if level > 0:
            before = squared_cosine(torch.tensor(level - 1), 10)
        alpha = bar / before
        epsilon = torch.tanh(x) * (1 + level / 10)
        clean = ((x - (1 - bar).sqrt() * epsilon) / bar.sqrt()).clamp(-1, 1)
        x = before.sqrt() * (1 - alpha) / (1 - bar) * clean + alpha.sqrt() * (1 - before) / (1 - bar) * x
        if level > 0:
            x = x + ((1 - before) / (1 - bar) * (1 - alpha)).sqrt() * draws.normal(4, 2)
    torch.testing.assert_close(found, x, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        DiffusionConfig(**SMALL, inference_steps=3),
        DiffusionConfig(**TRANSFORMER, inference_steps=3),
        FlowConfig(**SMALL, inference_steps=3),
        MipConfig(**SMALL),
        DiffusionConfig(**SMALL, diffusion_steps=4, inference_steps=4, sampler="ddpm"),
    ],
    ids=["diffusion", "transformer", "flow", "mip", "ddpm"],
)
def test_engines_take_the_noise_as_an_input(config: DenoisingConfig) -> None:
    network = network_of(config, PLANE)
    example = blank(network, 1)
    for engine in (tiny.by_compiler(network), prepare(network, engine="openvino", example=example)):
        assert check(engine, network, example).of_std < 1e-3
        ours, again, other = (engine(example, network.generator([(seed, 1)])) for seed in (3, 3, 4))
        assert torch.equal(ours, again)
        assert torch.equal(ours, other) != network.samples


def test_noise_of_training_is_the_schedules() -> None:
    network: DiffusionNetwork = blind(DiffusionConfig)
    noisy = []
    network.unet = Ideal(torch.zeros(1), lambda x, time, _: noisy.append((x, time)) or torch.zeros_like(x))  # type: ignore[assignment]
    batch = batch_of(BLIND, rows=4, size=4)
    torch.manual_seed(5)
    losses = network.losses(batch)
    torch.manual_seed(5)
    noise = torch.randn(4, 4, 2)
    ((x, time),) = noisy
    alpha = squared_cosine(time)
    torch.testing.assert_close(x, alpha.sqrt() * batch["actions"] + (1 - alpha).sqrt() * noise, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(losses["loss"], noise.square().mean())


@pytest.mark.parametrize(
    ("kind", "perfect"),
    [
        ("velocity", lambda x, time, clean: (clean - x) / (1 - time / 100)),
        ("sample", lambda x, time, clean: clean),
    ],
)
def test_flow_with_a_perfect_network_gives_the_chunk(kind: Any, perfect: Any) -> None:
    network: FlowNetwork = blind(FlowConfig, inference_steps=3, prediction_type=kind)
    chunk = torch.linspace(-0.9, 0.9, 8).view(1, 4, 2)
    network.unet = Ideal(chunk, perfect)  # type: ignore[assignment]
    found = network.predict(batch_of(BLIND, rows=4, size=2), BatchGenerator([(1,), (2,)]))
    torch.testing.assert_close(found, chunk.expand(2, -1, -1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["velocity", "sample"])
def test_flow_integrates_and_learns_what_it_predicts(kind: Any) -> None:
    """The same velocity field, told as a velocity or as the chunk x + (1 - t) v that it leads to."""
    network: FlowNetwork = blind(FlowConfig, inference_steps=4, prediction_type=kind)

    def velocity(x: Tensor, t: Any) -> Tensor:
        return torch.sin(3 * x) - t

    def told(x: Tensor, t: Any) -> Tensor:
        return velocity(x, t) if kind == "velocity" else x + (1 - t) * velocity(x, t)

    network.unet = Ideal(torch.zeros(1), lambda x, time, _: told(x, time / 100))  # type: ignore[assignment]
    batch = batch_of(BLIND, rows=4, size=2)
    x = BatchGenerator([(1,), (2,)]).normal(4, 2)
    for step in range(4):
        x = x + velocity(x, step / 4) / 4
    torch.testing.assert_close(network.predict(batch, BatchGenerator([(1,), (2,)])), x, atol=1e-5, rtol=1e-5)
    torch.manual_seed(3)
    loss = network.losses(batch)["loss"]
    torch.manual_seed(3)
    noise, t = torch.randn(2, 4, 2), torch.rand(2).view(2, 1, 1)
    noisy, clean = (1 - t) * noise + t * batch["actions"], batch["actions"]
    target = clean - noise if kind == "velocity" else clean
    torch.testing.assert_close(loss, (told(noisy, t) - target).square().mean())


def test_the_two_step_regression_by_hand() -> None:
    network: MipNetwork = blind(MipConfig, second_time=0.75)
    calls: list[tuple[Tensor, float]] = []

    def predict(x: Tensor, time: Tensor, _: Tensor) -> Tensor:
        calls.append((x, float(time[0])))
        return x / 2 + 1

    network.unet = Ideal(torch.zeros(1), predict)  # type: ignore[assignment]
    batch = batch_of(BLIND, rows=4, size=2)
    found = network.predict(batch)
    assert [time for _, time in calls] == [0.0, 75.0]
    torch.testing.assert_close(found, torch.full((2, 4, 2), 1.5))
    clean = batch["actions"]
    torch.manual_seed(3)
    losses = network.losses(batch)
    torch.manual_seed(3)
    noisy = clean + 0.25 * torch.randn(2, 4, 2)
    first, second = (1 - clean).square().mean(), (noisy / 2 + 1 - clean).square().mean()
    torch.testing.assert_close(losses["mse"], first)
    torch.testing.assert_close(losses["second_mse"], second)
    torch.testing.assert_close(losses["loss"], first / 0.5625 + second / 0.0625)


@pytest.mark.parametrize(
    ("family", "changes", "text"),
    [
        (FlowConfig, {"chunk_size": 10}, "chunk_size must be a multiple of 4 with 3 levels of down_dims, given 10"),
        (FlowConfig, {"down_dims": (12, 16)}, "down_dims must be multiples of n_groups (8), given [12, 16]"),
        (FlowConfig, {"kernel_size": 4}, "kernel_size must be odd, given 4"),
        (
            FlowConfig,
            {"transformer_size": 30},
            "transformer_size must be even and a multiple of transformer_heads (4), given 30",
        ),
        (FlowConfig, {"time_embedding": 7}, "time_embedding must be even, given 7"),
        (DiffusionConfig, {"inference_steps": 101}, "inference_steps must be at most diffusion_steps (100), given 101"),
        (
            DiffusionConfig,
            {"normalisation": "mean_std"},
            "clip_sample clips to [-1, 1] and needs normalisation min_max_11, given mean_std",
        ),
        (MipConfig, {"second_time": 1.0}, "second_time must be in (0, 1), given 1.0"),
    ],
)
def test_what_makes_no_sense_is_refused(family: type[DenoisingConfig], changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        family(**changes)
