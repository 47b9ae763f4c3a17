"""What an inference does on a GPU, without one."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from aloha_kit.config import names
from aloha_kit.config.policies import load_policy
from aloha_kit.data.batch import Batch
from aloha_kit.policies.build import build
from aloha_kit.policies.network import ChunkNetwork
from tests.deploy.conftest import CONTRACT
from tests.pretended_gpu import Crossings, GPU, moved
from tests.tiny import statistics

SIZE = (480, 640)


def network(policy: str) -> ChunkNetwork:
    contract = CONTRACT.with_cameras({"top": SIZE, "angle": SIZE})
    return build(load_policy(policy), contract, statistics(), pretrained=False).eval()


def observation(steps: int = 1) -> Batch:
    history = (1, steps) if steps > 1 else (1,)
    images = {name: torch.zeros(*history, 3, *SIZE, dtype=torch.uint8, device=GPU) for name in ("top", "angle")}
    return Batch(qpos=torch.zeros(*history, 14, device=GPU), images=images)


# The schedulers of diffusers hold tensors that are real, on the CPU; a step takes numbers from them.
@pytest.mark.parametrize("policy", [name for name in names("policies") if load_policy(name).kind != "diffusion"])
def test_an_inference_stays_on_the_gpu(policy: str) -> None:
    """From the batch on nothing crosses the bus and nothing waits, or a CUDA graph could not hold it.

    What a sampling policy draws comes from the CPU, for the same numbers on every device: a copy for each distribution
    and purpose (start, choice of candidates, noise, final choice), whatever the number of iterations.
    """
    requested, mode = network(policy), FakeTensorMode()
    moved(requested, mode)
    with mode, torch.inference_mode():
        batch = observation(requested.config.n_obs_steps)
        with Crossings() as crossings:
            chunk = requested.predict(batch)
    assert chunk.shape == (1, requested.chunk_size, 14)
    assert str(chunk.device) == GPU
    assert len(crossings.copies) <= (4 if requested.samples else 0), crossings.copies
    assert "_local_scalar_dense" not in crossings.operations  # `.item()`


def test_what_stays_on_the_host_is_found_out() -> None:
    requested, mode = network("act_cpu"), FakeTensorMode()
    moved(requested, mode)
    name, value = next(iter(requested.named_buffers()))
    owner, _, leaf = name.rpartition(".")
    with mode, torch.inference_mode():
        requested.get_submodule(owner)._buffers[leaf] = torch.ones(value.shape)
        with pytest.raises(RuntimeError, match="devices"):
            requested.predict(observation())
