"""The policy of a checkpoint, run on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

# Loads what the first inference would load lazily. After a software OpenGL context exists that import
# can crash the process (two copies of LLVM), so it has to come before any environment is built.
import torch._dynamo

from aloha_kit.config import to_mapping
from aloha_kit.config.inference import InferenceSettings
from aloha_kit.config.match_checkpoint import AssumedSetup, assumption
from aloha_kit.core import inputs, Observation
from aloha_kit.core.cli import LOG
from aloha_kit.core.lang import shown
from aloha_kit.data.batch import Batch
from aloha_kit.deploy.policy_source import Measure, PolicySource
from aloha_kit.policies.chunk_policy import ChunkPolicy
from aloha_kit.policies.engine import blank
from aloha_kit.policies.engine_choice import choose
from aloha_kit.policies.find import load_network
from aloha_kit.policies.goal import set_goal
from aloha_kit.policies.language import set_instruction
from aloha_kit.policies.native import trained_task
from aloha_kit.policies.network import ChunkNetwork, Predict


class TimedChunkPolicy(ChunkPolicy):
    """A `ChunkPolicy` whose preprocessing and network are timed."""

    def __init__(self, network: ChunkNetwork, measure: Measure, predict: Predict | None = None, seed: int = 0):
        super().__init__(network, str(next(network.parameters()).device), predict, seed)
        self._measure = measure

    def batch(self, observation: Observation) -> Batch:
        with self._measure("preprocessing"):
            return super().batch(observation)

    def predict_chunk(self, observation: Observation) -> npt.NDArray[np.float32]:
        with self._measure("network"):
            return super().predict_chunk(observation)


def local(
    path: Path,
    setup: AssumedSetup | None = None,
    settings: InferenceSettings | None = None,
    rename: Mapping[str, str] | None = None,
    seed: int = 0,
    goal: str | None = None,
    instruction: str | None = None,
    default_instruction: str | None = None,
) -> PolicySource:
    """The policy of a checkpoint on this machine, its engine ready.

    Args:
        path: what `find_checkpoint` found; the others as for `load_network`.
        seed: of the first rollout, for a policy that samples.
        goal: observation of an episode, see `policies.goal.set_goal`.
        instruction, default_instruction: of the rollouts, see `policies.language.set_instruction`.

    Raises:
        UsageError: a goal is missing, or a goal or an instruction is given and the policy reads none.
        ContractError: an instruction that the policy does not know, see `Instructions.vector`.
        ConfigError: damaged files, an unusable device, or an engine that is missing, cannot run it, or is wrong.
    """
    settings = settings or InferenceSettings()
    network = load_network(path, setup, settings.device, rename)
    set_goal(network, goal, path)
    set_instruction(network, instruction, path, default_instruction)
    engine = choose(network, settings, blank(network, 1))
    used = str(next(network.parameters()).device)
    about = {
        "policy": {"kind": network.config.kind, **to_mapping(network.config)},
        "device": used,
        "engine": engine.about(),
        "torch": str(torch.__version__),
    }
    if network.assumed is not None:
        about["assumed"] = network.assumed
        LOG.info("%s: %s", path, shown(assumption(network.assumed)))
    return PolicySource(
        network.contract,
        network.chunk_size,
        str(path),
        trained_task(path),
        about,
        lambda measure: TimedChunkPolicy(network, measure, engine, seed),
        warm_up=lambda: warm_up(ChunkPolicy(network, used, engine)),
        n_obs_steps=network.config.n_obs_steps,
        n_action_steps=network.config.n_action_steps,
        ensemble_weight=network.config.ensemble_weight,
    )


def warm_up(policy: ChunkPolicy) -> None:
    """Run two inferences on an empty observation."""
    if policy.network.language is not None:  # of a server, which has none before its clients come
        policy.instruct(next(iter(policy.network.language.instructions.vectors)))
    nothing = inputs.blank(policy.contract, policy.network.config.n_obs_steps)
    for _ in range(2):
        policy.predict_chunk(nothing)
