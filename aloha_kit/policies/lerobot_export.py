"""Export of ACT checkpoints to a folder that LeRobot's `ACTPolicy.from_pretrained` and its processors load."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from aloha_kit.config.policies import ActConfig
from aloha_kit.core import ConfigError, ContractError
from aloha_kit.core.files import make_folder
from aloha_kit.data.stats import IMAGENET
from aloha_kit.policies.expressible import differences, PLAIN
from aloha_kit.policies.lerobot_files import (
    ACTION,
    CONFIG,
    CONTRACT,
    IMAGES,
    NORMALIZE,
    POST,
    PRE,
    STATE,
    UNNORMALIZE,
    WEIGHTS,
)
from aloha_kit.policies.lerobot_names import SETTINGS, State, to_theirs
from aloha_kit.policies.network import ChunkNetwork

_EPS = 1e-8  # LeRobot adds it to the deviation of what goes in
_MODES = {"VISUAL": "MEAN_STD", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"}


def export(network: ChunkNetwork, folder: Path, cameras: Sequence[str] = ()) -> list[str]:
    """Write the folder of a checkpoint; returns lines about it. It appears when it is complete.

    Args:
        cameras: not given here: LeRobot records them by name.

    Raises:
        ContractError: LeRobot's ACT cannot express the network; names the difference.
        ConfigError: the folder is not empty, or cannot be written.
    """
    if cameras:
        raise ConfigError("--cameras is the order in the published scripts; LeRobot records the cameras by name")
    if wrong := _beyond(network):
        raise ContractError("LeRobot's ACT cannot hold this network: {wrong}", wrong="; ".join(wrong))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError("{folder} is there already, and nothing is replaced; give another folder", folder=folder)
    make_folder(folder.parent)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.new.", dir=folder.parent))
    try:
        _write(network, fresh)
        fresh.chmod(0o755)  # mkdtemp's own is private
        os.replace(fresh, folder)
    except OSError as error:
        raise ConfigError(
            "cannot write {folder}: {strerror}", folder=folder, strerror=error.strerror or error
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    contract = network.contract
    return [
        str(folder),
        f"cameras: {' '.join(f'{IMAGES}{name}' for name in contract.cameras)}",
        f"joints, in their order, and rate (LeRobot does not record them): {CONTRACT}",
    ]


def to_state_dict(network: ChunkNetwork) -> State:
    """The network's weights by LeRobot's names, computing the same actions there.

    A first decoder layer without self-attention gets one that adds zero; layers that nothing reads, and the head of
    padded rows, are left out.
    """
    config = network.config
    assert isinstance(config, ActConfig)
    weights = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    layers = tuple(f"decoder.{layer}." for layer in range(_decoder_layers(config)))
    ours = {
        key: value
        for key, value in weights.items()
        if not key.startswith("is_pad_head.") and (not key.startswith("decoder.") or key.startswith(layers))
    }
    return to_theirs(_without_effect(config.hidden_dim) | ours, config.chunk_size)


def _without_effect(dim: int) -> dict[str, Tensor]:
    """The first decoder layer's self-attention where it adds zero to zeros."""
    first = "decoder.0."
    return {
        f"{first}self_attn.in_proj_weight": torch.zeros(3 * dim, dim),
        f"{first}self_attn.in_proj_bias": torch.zeros(3 * dim),
        f"{first}self_attn.out_proj.weight": torch.zeros(dim, dim),
        f"{first}self_attn.out_proj.bias": torch.zeros(dim),
        f"{first}norm1.weight": torch.ones(dim),
        f"{first}norm1.bias": torch.zeros(dim),
    }


def _decoder_layers(config: ActConfig) -> int:
    """Layers that are deployed: of the published networks the first alone is read."""
    return 1 if config.decoder_output == "first" else config.dec_layers


def _beyond(network: ChunkNetwork) -> list[str]:
    config = network.config
    if not isinstance(config, ActConfig):
        return [f"it is {config.kind}, not act"]
    wanted: dict[str, Any] = {**PLAIN, "use_vae": True, "decoder_input": "zeros", "position_embedding": "sine"}
    if len(network.contract.cameras) > 1:
        wanted |= {"camera_embedding": False, "share_backbone": True}
    found = differences(config, wanted)
    if config.ensemble_weight is not None and config.n_action_steps not in (None, 1):
        found.append(f"n_action_steps is {config.n_action_steps} beside an ensemble_weight, not 1")
    return found


def _write(network: ChunkNetwork, folder: Path) -> None:
    config, contract = network.config, network.contract
    save_file(to_state_dict(network), folder / WEIGHTS)
    images = {f"{IMAGES}{name}": ("VISUAL", [3, *size]) for name, size in contract.cameras.items()}
    inputs = _features({STATE: ("STATE", [len(contract.state_names)]), **images})
    outputs = _features({ACTION: ("ACTION", [len(contract.action_names)])})
    (folder / WEIGHTS).chmod(0o644)  # safetensors' own is private
    _write_json(folder / CONFIG, _settings(config, inputs, outputs))
    (folder / CONTRACT).write_text(contract.to_json() + "\n", encoding="utf-8")
    stats = _statistics(network)
    keys = {"eps": _EPS, "norm_map": _MODES}
    before: list[dict[str, Any]] = [
        {"registry_name": "rename_observations_processor", "config": {"rename_map": {}}},
        {"registry_name": "to_batch_processor", "config": {}},
        _DEVICE,
        {"registry_name": NORMALIZE, "config": {**keys, "features": {**inputs, **outputs}}},
    ]
    after: list[dict[str, Any]] = [{"registry_name": UNNORMALIZE, "config": {**keys, "features": outputs}}, _DEVICE]
    for name, steps, number in ((PRE, before, 3), (POST, after, 0)):
        file = f"{name}_step_{number}_{steps[number]['registry_name']}.safetensors"
        steps[number]["state_file"] = file
        save_file(stats, folder / file)
        (folder / file).chmod(0o644)
        _write_json(folder / f"{name}.json", {"name": name, "steps": steps})


_DEVICE = {"registry_name": "device_processor", "config": {"device": "cpu", "float_dtype": None}}


def _settings(config: Any, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> dict[str, Any]:
    """LeRobot's `config.json`."""
    ensembles = config.ensemble_weight is not None
    values = {theirs: getattr(config, ours) for ours, theirs in SETTINGS.items()}
    values["n_action_steps"] = 1 if ensembles else min(config.n_action_steps or config.chunk_size, config.chunk_size)
    values["n_decoder_layers"] = _decoder_layers(config)
    return {
        "type": "act",
        "n_obs_steps": 1,
        "input_features": inputs,
        "output_features": outputs,
        "device": "cpu",
        "push_to_hub": False,
        "normalization_mapping": _MODES,
        "pretrained_backbone_weights": None,
        "feedforward_activation": "relu",
        "n_vae_encoder_layers": config.enc_layers,
        "use_vae": True,
        **values,
    }


def _statistics(network: ChunkNetwork) -> dict[str, Tensor]:
    """By LeRobot's names: what the network shifts and scales by, whatever its normalisation, as mean and deviation."""
    found: dict[str, Tensor] = {}
    for key, feature in (("qpos", STATE), ("action", ACTION)):
        scale = network.normaliser.get_buffer(f"{key}_scale").cpu()
        found[f"{feature}.mean"] = network.normaliser.get_buffer(f"{key}_offset").cpu().contiguous()
        found[f"{feature}.std"] = scale - _EPS if feature == STATE else scale
        moments = network.stats[key]
        for name, values in (("min", moments.min), ("max", moments.max)):
            if np.isfinite(values).all():
                found[f"{feature}.{name}"] = torch.from_numpy(values)
    for camera in network.contract.cameras:
        found |= {f"{IMAGES}{camera}.{name}": torch.tensor(values).view(3, 1, 1) for name, values in IMAGENET.items()}
    return {key: value.contiguous().clone() for key, value in found.items()}


def _features(shapes: Mapping[str, tuple[str, list[int]]]) -> dict[str, Any]:
    return {key: {"type": kind, "shape": shape} for key, (kind, shape) in shapes.items()}


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
