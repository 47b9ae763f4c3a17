"""Search and loading of checkpoints by path, in every supported format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from aloha_kit.config.match_checkpoint import AssumedSetup
from aloha_kit.core import ConfigError, ContractError, plural
from aloha_kit.core.lang import Message
from aloha_kit.policies import checkpoint
from aloha_kit.policies.intact import CheckpointError
from aloha_kit.policies.network import ChunkNetwork
from aloha_kit.policies.reference import load_reference, MODEL, read_camera_names, read_weights
from aloha_kit.policies.reference_names import camera_count

REFERENCE, REFERENCE_LAST = "policy_best.ckpt", "policy_last.ckpt"
REFERENCE_STATS, REFERENCE_CONFIG = "dataset_stats.pkl", "config.pkl"


def find_checkpoint(path: Path) -> Path:
    """A checkpoint folder, or a file of the published ACT repository.

    Args:
        path: one of them, or the folder of the latter; or a run (or its `checkpoints`), of which the best
            (else the last) checkpoint is taken.

    Raises:
        ConfigError: there is none; lists what exists.
    """
    candidates = [path, *(folder / name for folder in (path / "checkpoints", path) for name in ("best", "last"))]
    for candidate in candidates:
        if (candidate / checkpoint.WEIGHTS).is_file():
            return candidate
    if path.is_file() and path.suffix == ".ckpt":
        return path
    for name in (REFERENCE, REFERENCE_LAST):
        if (path / name).is_file():
            return path / name
    if path.is_dir():
        there = ", ".join(sorted(p.name for p in path.iterdir())[:20]) or Message("(nothing)")
    elif path.exists():
        raise ConfigError(
            Message(
                "no checkpoint at {path}: it is a file; expected a run, a checkpoint's folder or a .ckpt", path=path
            )
        )
    else:
        beside = sorted(p.name for p in path.parent.iterdir())[:20] if path.parent.is_dir() else []
        there = Message("no such folder; beside it: {names}", names=", ".join(beside) or Message("(nothing)"))
    raise ConfigError(
        Message(
            "no checkpoint at {path}: neither {weights}, checkpoints/best, checkpoints/last nor {reference}. There is: "
            "{there}",
            path=path,
            weights=checkpoint.WEIGHTS,
            reference=REFERENCE,
            there=there,
        )
    )


def load_network(
    source: Path,
    setup: AssumedSetup | None = None,
    device: str | None = None,
    rename: Mapping[str, str] | None = None,
) -> ChunkNetwork:
    """Load the network of a checkpoint found by `find_checkpoint`.

    Args:
        setup: training setup of a file of a published repository, which does not record it.
        device: by default cuda where there is one, else cpu.
        rename: cameras, {the policy's name: the rig's}.

    Raises:
        ConfigError: damaged files, an unusable device, or cameras that have to be named.
        ContractError: cameras that are not the checkpoint's.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    network = _published(source, setup) if source.is_file() else _ours(source, setup)
    if rename:
        try:
            network.rename_cameras(rename)
        except ContractError as error:
            raise ContractError(f"{source}: {error}") from error
    try:
        return network.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            Message("device '{device}' cannot be used: {why}", device=device, why=str(error).splitlines()[0])
        ) from error


def _ours(source: Path, setup: AssumedSetup | None) -> ChunkNetwork:
    network = checkpoint.load(source)
    own = network.contract.cameras
    if setup and setup.named and set(setup.cameras) != set(own):
        raise ContractError(
            Message(
                "{source} records its cameras as: {cameras}; given --cameras {given}. Where the rig names them "
                "otherwise, give --rename POLICY_CAMERA=RIG_CAMERA",
                source=source,
                cameras=", ".join(own) or "(none)",
                given=" ".join(setup.cameras),
            )
        )
    return network


def _published(source: Path, setup: AssumedSetup | None) -> ChunkNetwork:
    """A file of a published repository, and what was assumed of it."""
    if setup is None:
        raise ConfigError(f"{source} does not record its cameras: name them")
    number = camera_count({key.removeprefix(MODEL): value for key, value in read_weights(source).items()})
    names = read_camera_names(source.parent / REFERENCE_CONFIG)
    cameras, origin = dict(setup.cameras), setup.cameras_from
    if names and not setup.named:
        cameras, origin = {name: setup.size(name) for name in names}, REFERENCE_CONFIG
    elif setup.cautious and not setup.named and number is None:
        raise ConfigError(
            f"{source} does not record how many cameras it was trained on, and an arm would move by the wrong ones:"
            f" give --cameras NAME … in its training's order (the task has: {' '.join(cameras) or 'none'})"
        )
    if number is not None and number != len(cameras):
        raise ContractError(
            f"{source} was trained on {plural(number, 'camera')}, as its weights show; {origin} gives"
            f" {len(cameras)}: {' '.join(cameras) or '(none)'}. Give --cameras NAME … in its training's order"
        )
    network = load_reference(source, source.parent / REFERENCE_STATS, cameras, rate_hz=setup.rate_hz)
    network.assumed = {
        "cameras": {name: list(size) for name, size in cameras.items()},
        "cameras_from": origin,
        "number_from": origin if number is None else "the weights",
        "sizes_from": setup.sizes_from,
        "rate_hz": setup.rate_hz,
        "rate_from": setup.rate_from,
    }
    return network


def trained_task(source: Path) -> str | None:
    """The task that a checkpoint's demonstrations were recorded in; None where it is not recorded."""
    try:
        return checkpoint.notes(source).get("task")
    except CheckpointError:
        return None


def run_folder(source: Path) -> Path:
    """The run that a checkpoint belongs to; never the checkpoint's own folder, which training replaces."""
    return source.parent.parent if source.parent.name == "checkpoints" else source.parent
