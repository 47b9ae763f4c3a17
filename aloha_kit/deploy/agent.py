"""A checkpoint's network as a source of chunks on this machine."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

# Loads what the first query would load lazily. After a software OpenGL context exists that import
# can crash the process (two copies of LLVM), so it has to come before any environment is built.
import torch._dynamo

from aloha_kit.config import to_mapping
from aloha_kit.config.inference import EngineKind, Precision
from aloha_kit.config.match_checkpoint import assumption, TrainingSetup
from aloha_kit.core import inputs, Observation
from aloha_kit.data.batch import Batch
from aloha_kit.deploy.source import Measure, Source
from aloha_kit.policies.agent import ChunkPolicy
from aloha_kit.policies.engine import blank, prepare
from aloha_kit.policies.find import load_network, trained_task
from aloha_kit.policies.network import Ask, ChunkNetwork


class TimedAgent(ChunkPolicy):
    """A network behind an observation that tells a stopwatch where its time goes."""

    def __init__(self, network: ChunkNetwork, measure: Measure, ask: Ask | None = None, seed: int = 0):
        super().__init__(network, str(next(network.parameters()).device), ask, seed)
        self._measure = measure

    def batch(self, observation: Observation) -> Batch:
        with self._measure("preprocessing"):
            return super().batch(observation)

    def predict_chunk(self, observation: Observation) -> npt.NDArray[np.float32]:
        with self._measure("network"):
            return super().predict_chunk(observation)


def local(
    path: Path,
    setup: TrainingSetup | None = None,
    device: str | None = None,
    engine: EngineKind = "eager",
    precision: Precision = "fp32",
    rename: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Source:
    """The policy of a checkpoint, on this machine, ready to be asked.

    Args:
        path: what `find_checkpoint` found; the others as for `load_network` and `prepare`.
        seed: of the first rollout, for a policy that samples.

    Raises:
        ConfigError: damaged files, an unusable device, or an engine that is missing, cannot, or is wrong.
    """
    network = load_network(path, setup, device, rename)
    prepared = prepare(network, engine=engine, precision=precision, example=blank(network, 1), say=_say)
    used = str(next(network.parameters()).device)
    about = {
        "policy": {"kind": network.config.kind, **to_mapping(network.config)},
        "device": used,
        "engine": prepared.about(),
        "torch": str(torch.__version__),
    }
    if network.assumed is not None:
        about["assumed"] = network.assumed
        _say(f"{path}: {assumption(network.assumed)}")
    return Source(
        network.contract,
        network.chunk_size,
        str(path),
        trained_task(path),
        about,
        lambda measure: TimedAgent(network, measure, prepared, seed),
        warm_up=lambda: warm_up(ChunkPolicy(network, used, prepared)),
        n_obs_steps=network.config.n_obs_steps,
    )


def warm_up(policy: ChunkPolicy) -> None:
    """Ask twice with an empty observation."""
    nothing = inputs.blank(policy.contract, policy.network.config.n_obs_steps)
    for _ in range(2):
        policy.predict_chunk(nothing)


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
