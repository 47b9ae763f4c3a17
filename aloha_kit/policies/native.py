"""Checkpoints of our own: where they lie in a run, how one is loaded for a rig and described."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from aloha_kit.config.match_checkpoint import AssumedSetup
from aloha_kit.core import ContractError, plural
from aloha_kit.policies import checkpoint
from aloha_kit.policies.intact import CheckpointError
from aloha_kit.policies.network import ChunkNetwork

NAME = "aloha_kit"

_WITHIN = ("", "checkpoints/best", "checkpoints/last", "best", "last")


def find(path: Path) -> Path | None:
    """The checkpoint at a folder, or the best (else the last) one of a run; None where there is none."""
    folders = (path / within for within in _WITHIN)
    return next((folder for folder in folders if (folder / checkpoint.WEIGHTS).is_file()), None)


def load(source: Path, setup: AssumedSetup | None) -> ChunkNetwork:
    """The network of a checkpoint that `find` found.

    Raises:
        CheckpointError: damaged files.
        ContractError: `setup` names cameras that are not the checkpoint's.
    """
    network = checkpoint.load(source)
    if setup is not None:
        require_named(source, network.contract.cameras, setup)
    return network


def describe(source: Path) -> list[str]:
    """Description of a checkpoint that `find` found, as lines of text; raises as `load`."""
    network = checkpoint.load(source)
    contract = network.contract
    cameras = [f"{name} {height}x{width}" for name, (height, width) in contract.cameras.items()]
    return [
        f"{source}: {network.config.kind}, a chunk of {plural(network.chunk_size, 'action')}",
        f"state: {', '.join(contract.state_names)}",
        f"action: {', '.join(contract.action_names)}",
        f"cameras: {', '.join(cameras) or '(none)'}",
        f"rate: {contract.rate_hz:g} Hz",
        f"trained on: {trained_task(source) or 'not recorded'}",
    ]


def trained_task(source: Path) -> str | None:
    """The task that a checkpoint's demonstrations were recorded in; None where it is not recorded."""
    try:
        return checkpoint.notes(source).get("task")
    except CheckpointError:
        return None


def require_named(source: Path, cameras: Collection[str], setup: AssumedSetup) -> None:
    """Raise `ContractError` where cameras were given by name that are not those a checkpoint records."""
    if setup.named and set(setup.cameras) != set(cameras):
        raise ContractError(
            "{source} records its cameras as: {cameras}; given --cameras {given}. Where the rig names them "
            "otherwise, give --rename POLICY_CAMERA=RIG_CAMERA",
            source=source,
            cameras=", ".join(cameras) or "(none)",
            given=" ".join(setup.cameras),
        )
