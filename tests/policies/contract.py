"""What every policy network must keep to. A test of a new family calls `check_network` with its builder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from aloha_kit.core import Contract, joint_names
from aloha_kit.data.batch import Batch
from aloha_kit.data.stats import Statistics
from aloha_kit.policies import checkpoint
from aloha_kit.policies.network import ChunkNetwork


def contract_of(
    cameras: Mapping[str, tuple[int, int]], *, base: bool = False, environment: tuple[str, ...] = ()
) -> Contract:
    """ALOHA's vectors, with a mobile base's two velocities on request."""
    action = (*joint_names(), "base_linear", "base_angular") if base else joint_names()
    return Contract(joint_names(), action, dict(cameras), 50.0, environment_state_names=environment)


def stats_of(state: int, action: int, environment: int = 0) -> Statistics:
    """Statistics of random rows with distinct means and widths; fixed by its sizes."""
    rng = np.random.default_rng(7)

    def rows(size: int) -> np.ndarray:  # type: ignore[type-arg]
        return rng.normal(np.linspace(-1, 1, size), np.linspace(0.1, 2, size), (200, size))

    extra = {"environment_state": rows(environment)} if environment else {}
    return Statistics.of(qpos=rows(state), action=rows(action), **extra)


def batch_of(contract: Contract, *, rows: int, size: int = 3, pad: int = 0, seed: int = 3) -> Batch:
    """A random batch that fits `contract`; the last `pad` rows of its first sample are padding."""
    rng = np.random.default_rng(seed)
    actions = rng.normal(size=(size, rows, len(contract.action_names))).astype(np.float32)
    is_pad = np.zeros((size, rows), bool)
    if pad:
        actions[0, -pad:], is_pad[0, -pad:] = 0, True
    batch = Batch(
        qpos=torch.from_numpy(rng.normal(size=(size, len(contract.state_names))).astype(np.float32)),
        images={
            name: torch.from_numpy(rng.integers(0, 256, (size, 3, *hw), dtype=np.uint8))
            for name, hw in contract.cameras.items()
        },
        actions=torch.from_numpy(actions),
        is_pad=torch.from_numpy(is_pad),
    )
    if contract.environment_state_names:
        environment = rng.normal(size=(size, len(contract.environment_state_names)))
        batch["environment_state"] = torch.from_numpy(environment.astype(np.float32))
    return batch


def check_network(make: Callable[[], ChunkNetwork], full: Contract, folder: Path) -> None:
    """Shapes, losses, padding, gradients, learning, determinism and the way to disk and back.

    Args:
        make: builds a fresh network; called under a fixed seed.
        full: the contract it was built with, before it dropped what it does not read.
    """
    torch.manual_seed(0)
    network = make()
    batch = batch_of(full, rows=network.chunk_size + 2, pad=3 if network.chunk_size > 3 else 0)
    _check_losses(network, batch)
    _check_padding(network, batch)
    _check_gradients(network, batch)
    _check_prediction(network, batch)
    _check_learning(network, batch)
    _check_disk(network, batch, full, folder)


def _check_losses(network: ChunkNetwork, batch: Batch) -> None:
    for sample in (True, False):
        losses = network.losses(batch, sample_latent=sample)
        assert "loss" in losses
        assert all(value.shape == () and bool(value.isfinite()) for value in losses.values()), losses
        assert losses["loss"].requires_grad
        assert not any(value.requires_grad for name, value in losses.items() if name != "loss")


def _check_padding(network: ChunkNetwork, batch: Batch) -> None:
    """What stands in padded rows, and in rows beyond the chunk, is of no consequence."""
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
    """No parameter is carried along for nothing."""
    network.train()
    network.zero_grad()
    network.losses(batch)["loss"].backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert idle == [], idle


def _check_prediction(network: ChunkNetwork, batch: Batch) -> None:
    network.eval()
    seen = Batch(qpos=batch["qpos"], images=batch["images"])
    if "environment_state" in batch:
        seen["environment_state"] = batch["environment_state"]
    with torch.inference_mode():
        once, twice = network.predict(seen), network.predict(seen)
        single = network.predict({key: _first(value) for key, value in seen.items()})  # type: ignore[arg-type]
    assert once.shape == (len(batch["qpos"]), network.chunk_size, network.action_dim)
    assert torch.equal(once, twice)
    torch.testing.assert_close(once[:1], single, rtol=1e-4, atol=1e-4)  # samples do not see each other
    shifted = seen.copy()
    shifted["qpos"] = seen["qpos"] + 1
    with torch.inference_mode():
        assert not torch.allclose(once, network.predict(shifted))


def _check_learning(network: ChunkNetwork, batch: Batch) -> None:
    """One batch can be learned by heart, as deployed: the error of `predict` in raw units falls."""
    network.train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    before = _deployed_error(network, batch)
    for _ in range(40):
        optimiser.zero_grad()
        network.losses(batch)["loss"].backward()
        optimiser.step()
    after = _deployed_error(network, batch)
    assert after < 0.85 * before, (before, after)


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


def _first(value: object) -> object:
    if isinstance(value, dict):
        return {name: image[:1] for name, image in value.items()}
    return value[:1]  # type: ignore[index]
