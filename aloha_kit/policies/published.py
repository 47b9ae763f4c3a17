"""Checkpoints of the published ACT repositories: which file is taken, what is assumed of it, its description."""

from __future__ import annotations

from pathlib import Path

from aloha_kit.config.match_checkpoint import AssumedSetup
from aloha_kit.core import ConfigError, ContractError, plural
from aloha_kit.core.lang import Message
from aloha_kit.policies.intact import CheckpointError
from aloha_kit.policies.network import ChunkNetwork
from aloha_kit.policies.reference import (
    load_reference,
    MODEL,
    policy_config,
    read_camera_names,
    read_stats,
    read_weights,
)
from aloha_kit.policies.reference_names import camera_count

NAME = "published"

BEST, LAST = "policy_best.ckpt", "policy_last.ckpt"
_STATS, _CONFIG = "dataset_stats.pkl", "config.pkl"


def find(path: Path) -> Path | None:
    """The file at a path: itself, or `policy_best.ckpt`, else `policy_last.ckpt`, in a folder; None without one."""
    if path.is_file() and path.suffix == ".ckpt":
        return path
    return next((path / name for name in (BEST, LAST) if (path / name).is_file()), None)


def load(source: Path, setup: AssumedSetup | None) -> ChunkNetwork:
    """The network in a file that `find` found, and what was assumed of it.

    Raises:
        ConfigError: damaged files, or cameras that have to be named.
        ContractError: the weights are of another number of cameras.
    """
    if setup is None:
        raise ConfigError("{source} does not record its cameras: name them", source=source)
    number = camera_count({key.removeprefix(MODEL): value for key, value in read_weights(source).items()})
    names = read_camera_names(source.parent / _CONFIG)
    cameras, origin = dict(setup.cameras), setup.cameras_from
    if names and not setup.named:
        cameras, origin = {name: setup.size(name) for name in names}, _CONFIG
    elif setup.cautious and not setup.named and number is None:
        raise ConfigError(
            "{source} does not record how many cameras it was trained on, and an arm would move by the wrong "
            "ones: give --cameras NAME … in its training's order (the task has: {cameras})",
            source=source,
            cameras=" ".join(cameras) or Message("none"),
        )
    if number is not None and number != len(cameras):
        raise ContractError(
            "{source} was trained on {trained}, as its weights show; {origin} gives {count}: {cameras}. Give "
            "--cameras NAME … in its training's order",
            source=source,
            trained=plural(number, "camera"),
            origin=origin,
            count=len(cameras),
            cameras=" ".join(cameras) or Message("(none)"),
        )
    network = load_reference(source, source.parent / _STATS, cameras, rate_hz=setup.rate_hz)
    network.assumed = {
        "cameras": {name: list(size) for name, size in cameras.items()},
        "cameras_from": origin,
        "number_from": origin if number is None else "the weights",
        "sizes_from": setup.sizes_from,
        "rate_hz": setup.rate_hz,
        "rate_from": setup.rate_from,
    }
    return network


def describe(source: Path) -> list[str]:
    """Description of a file that `find` found, as lines of text.

    Raises:
        CheckpointError: damaged files, or a policy that aloha_kit has no network for.
    """
    theirs = {key.removeprefix(MODEL): value for key, value in read_weights(source).items()}
    try:
        config = policy_config(theirs)
    except (CheckpointError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError("{source}: {error}", source=source, error=error) from error
    stats = read_stats(source.parent / _STATS)
    number, names = camera_count(theirs), read_camera_names(source.parent / _CONFIG)
    cameras = "their number does not follow from the weights" if number is None else f"{number}, by the weights"
    decoder = getattr(config, "dec_layers", None)
    layers = f", {decoder} decoder layers" if decoder else ""
    return [
        f"{source}: a published {config.kind}, a chunk of {plural(config.chunk_size, 'action')}{layers}",
        f"state: {stats['qpos'].size} values; action: {stats['action'].size} values",
        f"cameras: {cameras}" + (f"; {_CONFIG} names {' '.join(names)}" if names else "; give --cameras"),
        "sizes and rate: not recorded; give --image_size, and a task of its rate",
    ]
