"""Description of a checkpoint as lines of text."""

from __future__ import annotations

from pathlib import Path

from aloha_kit.core import plural
from aloha_kit.policies import checkpoint
from aloha_kit.policies.find import REFERENCE_CONFIG, REFERENCE_STATS, trained_task
from aloha_kit.policies.intact import CheckpointError
from aloha_kit.policies.reference import MODEL, policy_config, read_camera_names, read_stats, read_weights
from aloha_kit.policies.reference_names import camera_count


def describe(source: Path) -> list[str]:
    """Describe a checkpoint found by `find_checkpoint`.

    Raises:
        ConfigError: damaged files, or a policy that aloha_kit has no network for.
    """
    return _published(source) if source.is_file() else _ours(source)


def _ours(source: Path) -> list[str]:
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


def _published(source: Path) -> list[str]:
    theirs = {key.removeprefix(MODEL): value for key, value in read_weights(source).items()}
    try:
        config = policy_config(theirs)
    except (CheckpointError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: {error}") from error
    stats = read_stats(source.parent / REFERENCE_STATS)
    number, names = camera_count(theirs), read_camera_names(source.parent / REFERENCE_CONFIG)
    cameras = "their number does not follow from the weights" if number is None else f"{number}, by the weights"
    decoder = getattr(config, "dec_layers", None)
    layers = f", {decoder} decoder layers" if decoder else ""
    return [
        f"{source}: a published {config.kind}, a chunk of {plural(config.chunk_size, 'action')}{layers}",
        f"state: {stats['qpos'].size} values; action: {stats['action'].size} values",
        f"cameras: {cameras}" + (f"; {REFERENCE_CONFIG} names {' '.join(names)}" if names else "; give --cameras"),
        "sizes and rate: not recorded; give --image_size, and a task of its rate",
    ]
