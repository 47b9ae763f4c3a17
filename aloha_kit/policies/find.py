"""From a path to a network: which checkpoint is meant, whichever format it is in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from aloha_kit.core import ConfigError
from aloha_kit.policies import checkpoint
from aloha_kit.policies.checkpoint import CheckpointError
from aloha_kit.policies.network import ChunkNetwork
from aloha_kit.policies.reference import load_reference

REFERENCE, REFERENCE_STATS = "policy_best.ckpt", "dataset_stats.pkl"


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


def trained_task(source: Path) -> str | None:
    """The task that a checkpoint's demonstrations were recorded in; None where it does not say."""
    try:
        return checkpoint.notes(source).get("task")
    except CheckpointError:
        return None


def run_folder(source: Path) -> Path:
    """The run that a checkpoint belongs to; never the checkpoint's own folder, which training replaces."""
    return source.parent.parent if source.parent.name == "checkpoints" else source.parent
