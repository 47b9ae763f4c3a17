"""Reading of LeRobot's ACT checkpoints; what is theirs and what is ours is in `lerobot_names`, the files in
`lerobot_files`, and `lerobot_export` writes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from aloha_kit.config.match_checkpoint import AssumedSetup
from aloha_kit.config.policies import policy_from_mapping, PolicyConfig
from aloha_kit.core import AlohaKitError, Contract, ContractError, plural
from aloha_kit.core.errors import reason
from aloha_kit.policies import lerobot_files
from aloha_kit.policies.build import build
from aloha_kit.policies.checkpoint import DAMAGE, load_weights, require_possible
from aloha_kit.policies.intact import CheckpointError
from aloha_kit.policies.lerobot_names import SETTINGS, State, to_ours
from aloha_kit.policies.native import require_named
from aloha_kit.policies.network import ChunkNetwork

NAME = "lerobot"

_STD_FLOOR = 1e-8  # LeRobot has none: whatever moved at all is divided by what it moved

find = lerobot_files.find


def load(source: Path, setup: AssumedSetup | None) -> ChunkNetwork:
    """The network of a checkpoint that `find` found, in evaluation mode on the CPU.

    Args:
        setup: gives names and units of the joints, and the rate, which LeRobot does not record; without them joints
            are numbered and their units unknown.

    Raises:
        CheckpointError: a file is missing or damaged, or the policy is none that is read; names it.
        ContractError: the joints or cameras given are not the checkpoint's.
    """
    try:
        settings, state = lerobot_files.read_config(source), read_weights(source / lerobot_files.WEIGHTS)
        config = policy_config(source, settings, state)
        stats = lerobot_files.read_statistics(source, settings)
        contract, assumed = _contract(source, settings, setup or AssumedSetup({}, named=False))
        network = build(config, contract, stats, pretrained=False)
    except AlohaKitError:
        raise
    except DAMAGE as error:
        raise CheckpointError("{source} is damaged: {error}", source=source, error=reason(error)) from error
    ours = to_ours(state)
    if not settings.get("use_vae", True):  # there is no VAE encoder then, which only training reads
        ours = {key: value for key, value in network.state_dict().items() if key.startswith("posterior.")} | ours
    load_weights(network, ours, where=str(source / lerobot_files.WEIGHTS))
    network.assumed = assumed
    return network.eval()


def describe(source: Path) -> list[str]:
    """Description of a checkpoint that `find` found, as lines of text; raises as `load`."""
    network = load(source, None)
    state, action, cameras = lerobot_files.read_sizes(source, lerobot_files.read_config(source))
    sizes = ", ".join(f"{name} {height}x{width}" for name, (height, width) in cameras.items())
    joints = "joints, units, rate: not recorded; give --rig NAME or --contract FILE, and a task of its rate"
    if network.assumed is None:
        contract = network.contract
        joints = f"joints: {', '.join(contract.state_names)}; {contract.rate_hz:g} Hz ({lerobot_files.CONTRACT})"
    return [
        f"{source}: LeRobot's {network.config.kind}, a chunk of {plural(network.chunk_size, 'action')}",
        f"state: {state} values; action: {action} values",
        f"cameras: {sizes or '(none)'}",
        joints,
    ]


def read_weights(file: Path) -> State:
    """The weights, by LeRobot's names; CheckpointError where they are damaged."""
    try:
        state = load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError("{file} is damaged or cut short: {error}", file=file, error=error) from error
    if odd := [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise CheckpointError("{file} has weights that are not finite: {odd}", file=file, odd=", ".join(odd[:5]))
    return state


def policy_config(source: Path, settings: Mapping[str, Any], state: State) -> PolicyConfig:
    """Our configuration of LeRobot's settings.

    Raises:
        CheckpointError: the VAE's encoder has another number of layers, or the weights are not of these sizes.
        ConfigError: a setting that our ACT cannot have; names it.
    """
    where = str(source / lerobot_files.CONFIG)
    encoders = settings.get("n_vae_encoder_layers", settings.get("n_encoder_layers"))
    if encoders != settings.get("n_encoder_layers") and settings.get("use_vae", True):
        raise CheckpointError(
            "{where}: n_vae_encoder_layers is {encoders} and n_encoder_layers {layers}; aloha_kit's ACT has "
            "equally many",
            where=where,
            encoders=encoders,
            layers=settings.get("n_encoder_layers"),
        )
    values = {ours: settings[theirs] for ours, theirs in SETTINGS.items() if theirs in settings}
    require_possible(values, state)
    fixed = {"share_backbone": True, "camera_embedding": False, "first_self_attention": True, "std_floor": _STD_FLOOR}
    return policy_from_mapping({**values, **fixed, "kind": "act"}, where=where)


def _contract(
    source: Path, settings: Mapping[str, Any], setup: AssumedSetup
) -> tuple[Contract, Mapping[str, Any] | None]:
    """The contract, and what of it was assumed; None where all of it is recorded."""
    state, action, cameras = lerobot_files.read_sizes(source, settings)
    require_named(source, cameras, setup)
    given, origin = _recorded(source), lerobot_files.CONTRACT
    recorded = given is not None
    if given is None:
        given, origin = setup.joints, setup.joints_from
    if given is None:
        from aloha_kit.storage.contract_file import neutral_contract  # needs h5py

        given, origin = neutral_contract(state, action, 0, {}, 0.0), "numbered, their units unknown"
    named = len(given.state_names), len(given.action_names)
    if named != (state, action):
        raise ContractError(
            "{source} has {state_size} values of state and {action_size} of action, {origin} names {state_count} and "
            "{action_count}",
            source=source,
            state_size=state,
            action_size=action,
            origin=origin,
            state_count=named[0],
            action_count=named[1],
        )
    rate, rate_from = (given.rate_hz, origin) if given.rate_hz else (setup.rate_hz, setup.rate_from)
    contract = dataclasses.replace(given.with_cameras(cameras), rate_hz=rate)
    if recorded:
        return contract, None
    joints = f"{given.state_names[0]} … {given.state_names[-1]}"
    return contract, {"joints": joints, "joints_from": origin, "rate_hz": rate, "rate_from": rate_from}


def _recorded(source: Path) -> Contract | None:
    """The contract in a folder that we wrote; None without one."""
    file = source / lerobot_files.CONTRACT
    if not file.is_file():
        return None
    try:
        return Contract.from_json(file.read_text(encoding="utf-8"))
    except (ContractError, OSError, ValueError) as error:
        raise CheckpointError("{file}: {error}", file=file, error=error) from error
