"""From a path to a policy on this machine: which checkpoint is meant, and its network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

# Loads what the first query would load lazily. After a software OpenGL context exists that import
# can crash the process (two copies of LLVM), so it has to come before any environment is built.
import torch._dynamo

from aloha_kit.config import to_mapping
from aloha_kit.core import ConfigError, Observation
from aloha_kit.data.batch import Batch
from aloha_kit.deploy.source import Measure, Source
from aloha_kit.policies import checkpoint
from aloha_kit.policies.agent import ChunkPolicy
from aloha_kit.policies.checkpoint import CheckpointError
from aloha_kit.policies.network import ChunkNetwork
from aloha_kit.policies.reference import load_reference

REFERENCE, REFERENCE_STATS = "policy_best.ckpt", "dataset_stats.pkl"


def load_network(source: Path, cameras: Mapping[str, tuple[int, int]], device: str | None = None) -> ChunkNetwork:
    """The network of what `find_checkpoint` found.

    Args:
        cameras: {name: (height, width)} for a file of the published ACT repository, which does not tell them.
        device: by default cuda where there is one, else cpu.

    Raises:
        ConfigError: damaged files, or an unusable device.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if source.is_file():
        network = load_reference(source, source.parent / REFERENCE_STATS, cameras)
    else:
        network = checkpoint.load(source)
    try:
        return network.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device '{device}' cannot be used: {str(error).splitlines()[0]}") from error


def find_checkpoint(path: Path) -> Path:
    """A checkpoint folder, or a file of the published ACT repository.

    Args:
        path: one of them, or the folder of the latter; or a run (or its `checkpoints`), of which the best
            (else the last) checkpoint is taken.

    Raises:
        ConfigError: there is none; says what is there.
    """
    candidates = [path, *(folder / name for folder in (path / "checkpoints", path) for name in ("best", "last"))]
    for candidate in candidates:
        if (candidate / checkpoint.WEIGHTS).is_file():
            return candidate
    if path.is_file() and path.suffix == ".ckpt":
        return path
    if (path / REFERENCE).is_file():
        return path / REFERENCE
    if path.is_dir():
        there = ", ".join(sorted(p.name for p in path.iterdir())[:20]) or "(nothing)"
    elif path.exists():
        raise ConfigError(f"no checkpoint at {path}: it is a file; expected a run, a checkpoint's folder or a .ckpt")
    else:
        beside = sorted(p.name for p in path.parent.iterdir())[:20] if path.parent.is_dir() else []
        there = f"no such folder; beside it: {', '.join(beside) or '(nothing)'}"
    raise ConfigError(
        f"no checkpoint at {path}: neither {checkpoint.WEIGHTS}, checkpoints/best, checkpoints/last"
        f" nor {REFERENCE}. There is: {there}"
    )


def trained_task(source: Path) -> str | None:
    """The task that a checkpoint's demonstrations were recorded in; None where it does not say."""
    try:
        return checkpoint.notes(source).get("task")
    except CheckpointError:
        return None


class TimedAgent(ChunkPolicy):
    """A network behind an observation that tells a stopwatch where its time goes."""

    def __init__(self, network: ChunkNetwork, measure: Measure) -> None:
        super().__init__(network, str(next(network.parameters()).device))
        self._measure = measure

    def batch(self, observation: Observation) -> Batch:
        with self._measure("preprocessing"):
            return super().batch(observation)

    def predict_chunk(self, observation: Observation) -> npt.NDArray[np.float32]:
        with self._measure("network"):
            return super().predict_chunk(observation)


def local(path: Path, cameras: Mapping[str, tuple[int, int]], device: str | None = None) -> Source:
    """The policy of a checkpoint, on this machine.

    Args:
        path: what `find_checkpoint` found; the others as for `load_network`.

    Raises:
        ConfigError: damaged files, or an unusable device.
    """
    network = load_network(path, cameras, device)
    about = {
        "policy": {"kind": network.config.kind, **to_mapping(network.config)},
        "device": str(next(network.parameters()).device),
        "torch": str(torch.__version__),
    }
    return Source(
        network.contract,
        network.chunk_size,
        str(path),
        trained_task(path),
        about,
        lambda measure: TimedAgent(network, measure),
        warm_up=lambda: warm_up(network),
    )


def warm_up(network: ChunkNetwork) -> None:
    """Ask twice with an empty observation."""
    policy = ChunkPolicy(network, str(next(network.parameters()).device))
    contract = policy.contract
    nothing = Observation(
        qpos=np.zeros(len(contract.state_names), np.float32),
        images={name: np.zeros((*size, 3), np.uint8) for name, size in contract.cameras.items()},
        environment_state=np.zeros(len(contract.environment_state_names), np.float32),
        stamps={},
    )
    for _ in range(2):
        policy.predict_chunk(nothing)
