"""Contract of every policy network as a check. The test of a family calls `check_network` with its builder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aloha_kit.core import Contract, ContractError, Feature, joint_names
from aloha_kit.core.features import DEPTH, IMAGE, object_poses, STATE
from aloha_kit.data.batch import Batch, mapped
from aloha_kit.data.stats import Moments, Statistics
from aloha_kit.policies import checkpoint
from aloha_kit.policies.action_errors import joint_groups
from aloha_kit.policies.generator import BatchGenerator
from aloha_kit.policies.network import ChunkNetwork


def contract_of(cameras: Mapping[str, tuple[int, int]], *, base: bool = False, poses: tuple[str, ...] = ()) -> Contract:
    """Contract of ALOHA, on request with a mobile base's two velocities and with entries of `object_poses`."""
    action = (*joint_names(), "base_linear", "base_angular") if base else joint_names()
    return Contract.of(joint_names(), action, dict(cameras), 50.0, sensors=object_poses(poses))


def stats_of(contract: Contract) -> Statistics:
    """Statistics of random rows with distinct means and widths for every vector; fixed by their sizes."""
    rng = np.random.default_rng(7)

    def rows(feature: Feature) -> npt.NDArray[np.float64]:
        size = feature.shape[0]
        return rng.normal(np.linspace(-1, 1, size), np.linspace(0.1, 2, size), (200, size))

    return Statistics.of(**{feature.name: rows(feature) for feature in contract.features if len(feature.shape) == 1})


def batch_of(
    contract: Contract, *, rows: int, size: int = 3, pad: int = 0, seed: int = 3, n_obs_steps: int = 1
) -> Batch:
    """A random batch that fits `contract`; the last `pad` rows of its first sample are padding."""
    steps = () if n_obs_steps == 1 else (n_obs_steps,)
    rng = np.random.default_rng(seed)
    actions = rng.normal(size=(size, rows, len(contract.action_names))).astype(np.float32)
    is_pad = np.zeros((size, rows), bool)
    if pad:
        actions[0, -pad:], is_pad[0, -pad:] = 0, True
    batch = Batch(
        qpos=torch.from_numpy(rng.normal(size=(size, *steps, len(contract.state_names))).astype(np.float32)),
        images={
            name: torch.from_numpy(rng.integers(0, 256, (size, *steps, 3, *hw), dtype=np.uint8))
            for name, hw in contract.cameras.items()
        },
        actions=torch.from_numpy(actions),
        is_pad=torch.from_numpy(is_pad),
    )
    further = {
        feature.name: torch.from_numpy(rng.normal(size=(size, *steps, *feature.shape)).astype(np.float32))
        for feature in contract.inputs
        if feature.role not in (STATE, IMAGE, DEPTH)
    }
    depth = {
        name: torch.from_numpy(rng.integers(0, 3000, (size, *steps, 1, *hw)).astype(np.uint16))
        for name, hw in contract.depth_cameras.items()
    }
    return cast(Batch, {**batch, **further, **({"images_depth": depth} if depth else {})})


def check_network(make: Callable[[], ChunkNetwork], full: Contract, folder: Path) -> None:
    """Assert the contract of `policies.network.ChunkNetwork`: shapes, losses, padding, gradients, learning, sampling,
    validation, and the way to disk and back.

    Args:
        make: builds a fresh network; called under a fixed seed. All its parameters take part in the loss.
        full: the contract it was built with, before it dropped what it does not read.
    """
    torch.manual_seed(0)
    network = make()
    pad, steps = 3 if network.chunk_size > 3 else 0, network.config.window
    batch = batch_of(full, rows=network.chunk_size + 2, pad=pad, n_obs_steps=steps)
    batch["actions"] = _like_the_data(batch["actions"], network.stats["action"])
    if network.language is not None:
        known = list(network.language.instructions.vectors.values())
        batch["instruction"] = torch.from_numpy(np.stack([known[row % len(known)] for row in range(3)]))
        _check_instruction(network, batch)
    _check_losses(network, batch)
    _check_padding(network, batch)
    _check_gradients(network, batch)
    _check_prediction(network, batch)
    _check_sampling(network, batch)
    _check_validation(network, batch)
    _check_learning(network, batch)
    _check_disk(network, batch, full, folder)


def _like_the_data(values: Tensor, moments: Moments) -> Tensor:
    """Draws from N(0, 1) with the data's mean and width, within its extremes: some families clip to them."""
    mean, std, least, most = (torch.from_numpy(x) for x in (moments.mean, moments.std, moments.min, moments.max))
    return (mean + std * values).clamp(least, most)


def _check_instruction(network: ChunkNetwork, batch: Batch) -> None:
    """The loss depends on the instruction, which has no default in a batch."""
    network.eval()
    losses, other = [], batch.copy()
    other["instruction"] = batch["instruction"].roll(1, 0)
    with torch.inference_mode():
        for given in (batch, other):
            torch.manual_seed(1)
            losses.append(network.losses(given)["loss"].item())
        assert losses[0] != losses[1], "the instruction has no effect"
        del other["instruction"]
        try:
            network.predict(_observed(other))
        except ContractError:
            return
    raise AssertionError("a network that reads instructions predicts without one")


def _check_losses(network: ChunkNetwork, batch: Batch) -> None:
    losses = network.losses(batch)
    assert "loss" in losses
    unnamed = losses.keys() - {"loss", *network.loss_columns}
    assert not unnamed, f"losses gives {', '.join(sorted(unnamed))}, which loss_columns does not name"
    assert all(value.shape == () and bool(value.isfinite()) for value in losses.values()), losses
    assert losses["loss"].requires_grad
    assert not any(value.requires_grad for name, value in losses.items() if name != "loss")


def _check_padding(network: ChunkNetwork, batch: Batch) -> None:
    """The contents of padded rows, and of rows beyond the chunk, have no effect."""
    network.eval()
    other = batch.copy()
    other["actions"] = batch["actions"].clone()
    other["actions"][batch["is_pad"]] = 9.0
    other["actions"][:, network.chunk_size :] = -9.0
    values = []
    for given in (batch, other):
        torch.manual_seed(1)
        values.append(network.losses(given)["loss"].item())
    assert values[0] == values[1]


def _check_gradients(network: ChunkNetwork, batch: Batch) -> None:
    """Every parameter is in the loss."""
    network.train()
    network.zero_grad()
    network.losses(batch)["loss"].backward()  # type: ignore[no-untyped-call]
    idle = [name for name, p in network.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert idle == [], idle


def _check_prediction(network: ChunkNetwork, batch: Batch) -> None:
    network.eval()
    seen = _observed(batch)
    with torch.inference_mode():
        once, twice = network.predict(seen), network.predict(seen)
        single = network.predict(_first_row(seen))
    assert once.shape == (len(batch["qpos"]), network.chunk_size, network.action_dim)
    assert bool(once.isfinite().all())
    assert torch.equal(once, twice), "predict draws from something else than its generator"
    torch.testing.assert_close(once[:1], single, rtol=1e-4, atol=1e-4)  # samples are independent
    shifted = seen.copy()
    shifted["qpos"] = seen["qpos"] + 1
    with torch.inference_mode():
        assert not torch.allclose(once, network.predict(shifted))


def _check_sampling(network: ChunkNetwork, batch: Batch) -> None:
    """Check that a generator repeats its bits, others give finite actions in range, and each row draws by its own."""
    network.eval()
    seen, rows = _observed(batch), range(len(batch["qpos"]))

    def predict(given: Batch, *seeds: int) -> Tensor:
        with torch.inference_mode():
            return network.predict(given, BatchGenerator([(seed, 0) for seed in seeds]))

    once = predict(seen, *rows)
    torch.manual_seed(99)  # which is nothing to it
    assert torch.equal(once, predict(seen, *rows)), "the same generator does not give the same bits"
    other = predict(seen, *(row + 100 for row in rows))
    assert torch.equal(once, other) != network.samples, f"samples is {network.samples}; other generators contradict it"
    moments = network.stats["action"]
    reach = 10 * (moments.max - moments.min)  # of a network that has learned nothing yet
    for chunk in (once, other):
        assert bool(chunk.isfinite().all())
        assert (chunk.numpy() > moments.min - reach).all(), "actions far below the data's"
        assert (chunk.numpy() < moments.max + reach).all(), "actions far above the data's"
    torch.testing.assert_close(once[:1], predict(_first_row(seen), 0), rtol=1e-4, atol=1e-4)


def _check_validation(network: ChunkNetwork, batch: Batch) -> None:
    """Metrics by their names, one of which selects; errors in raw units are those of `predict`."""
    network.eval()
    generator = BatchGenerator([(5, row) for row in range(len(batch["qpos"]))])
    again = BatchGenerator([(5, row) for row in range(len(batch["qpos"]))])
    with torch.inference_mode():
        metrics, predicted = network.validation(batch, generator), network.predict(_observed(batch), again)
    assert sorted(metrics) == sorted(network.validation_columns)
    assert network.selects in metrics
    assert all(bool(mean.value.isfinite()) and mean.weight > 0 for mean in metrics.values()), metrics
    rows = slice(0, network.chunk_size)
    error = (predicted - batch["actions"][:, rows]).abs()[~batch["is_pad"][:, rows]].mean(0)  # (A,)
    for group, places in joint_groups(network.contract.action_names).items():
        torch.testing.assert_close(metrics[f"val_error_{group}"].value, error[places].mean(), rtol=1e-4, atol=1e-5)


def _check_learning(network: ChunkNetwork, batch: Batch) -> None:
    """One batch can be overfit, as deployed: the error of `predict` in raw units falls."""
    network.train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    before = after = _deployed_error(network, batch)
    for step in range(1, 401):  # a regression needs 40, a denoising network several times as many
        optimiser.zero_grad()
        network.losses(batch)["loss"].backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if step % 40 == 0:
            after = _deployed_error(network, batch)
            if after < 0.85 * before:
                return
    raise AssertionError(f"400 steps on one batch took the error of predict from {before} to {after} only")


def _deployed_error(network: ChunkNetwork, batch: Batch) -> float:
    network.eval()
    with torch.inference_mode():
        error = (network.predict(batch) - batch["actions"][:, : network.chunk_size]).abs()
    network.train()
    return float(error[~batch["is_pad"][:, : network.chunk_size]].mean())


def _check_disk(network: ChunkNetwork, batch: Batch, full: Contract, folder: Path) -> None:
    network.eval()
    checkpoint.save(folder / "ckpt", network, network.config, network.stats, full)
    back = checkpoint.load(folder / "ckpt")
    assert back.config == network.config
    assert back.contract == network.contract
    with torch.inference_mode():
        assert torch.equal(back.predict(batch), network.predict(batch))


def _observed(batch: Batch) -> Batch:
    """The batch of an inference: no actions."""
    seen = batch.copy()
    del seen["actions"], seen["is_pad"]
    return seen


def _first_row(batch: Batch) -> Batch:
    return mapped(batch, lambda values: values[:1])
