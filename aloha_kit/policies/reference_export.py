"""Export of checkpoints for the published ACT repository.

Part of the configuration is in that repository's scripts; `script_settings` lists the required changes.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aloha_kit.config.policies import ActConfig, CnnMlpConfig
from aloha_kit.core import ConfigError, ContractError
from aloha_kit.core.files import make_folder, replacing
from aloha_kit.policies.act import ActNetwork
from aloha_kit.policies.network import ChunkNetwork
from aloha_kit.policies.positions import sequence_positions
from aloha_kit.policies.reference import MODEL
from aloha_kit.policies.reference_names import State, to_theirs

_SCRIPT_LAYERS = 7
_SCRIPTS: dict[str, int | str] = {"nheads": 8, "enc_layers": 4, "dec_layers": _SCRIPT_LAYERS, "backbone": "resnet18"}
"""What imitate_episodes.py sets without a flag."""

_JOINTS = 14


def save_reference(network: ChunkNetwork, folder: str | Path, cameras: Sequence[str] | None = None) -> None:
    """Write `policy_best.ckpt` and `dataset_stats.pkl` for the published repository's scripts.

    Raises:
        ContractError: as `to_state_dict`.
        ConfigError: a file is there already, or cannot be written.
    """
    state = to_state_dict(network, cameras)
    floor = np.float32(network.config.std_floor)
    stats = {
        f"{key}_{name}": value
        for key in ("action", "qpos")
        for name, value in (
            ("mean", network.stats[key].mean),
            ("std", np.maximum(network.stats[key].std, floor)),
        )
    }
    stats["example_qpos"] = network.stats["qpos"].mean[None]
    folder = make_folder(Path(folder))
    weights, statistics = folder / "policy_best.ckpt", folder / "dataset_stats.pkl"
    if there := [file.name for file in (weights, statistics) if file.exists()]:
        raise ConfigError(f"{folder} has {' and '.join(there)} already, which are not replaced; give another folder")
    try:
        with replacing(weights) as part:
            torch.save(state, part)
            statistics.write_bytes(_for_old_numpy(stats))
    except (OSError, RuntimeError) as error:
        statistics.unlink(missing_ok=True)
        raise ConfigError(f"cannot write {weights}: {str(error).splitlines()[0]}") from error


def script_settings(network: ChunkNetwork, cameras: Sequence[str] | None = None) -> list[str]:
    """Settings of the published imitate_episodes.py for loading an exported network, one line each."""
    config, names = network.config, list(cameras or network.contract.cameras)
    lines = [f"camera_names of its task: {names}"]
    if isinstance(config, ActConfig):
        lines.append(
            f"flags: --policy_class ACT --chunk_size {config.chunk_size} --hidden_dim {config.hidden_dim}"
            f" --dim_feedforward {config.dim_feedforward} --kl_weight {config.kl_weight:g}"
        )
        has = {**{key: getattr(config, key) for key in _SCRIPTS}, "dec_layers": _layers(config)}
    else:
        lines.append("flags: --policy_class CNNMLP")
        has = {"backbone": config.backbone}
    lines += [
        f"in the script: {key} = {value}, not {_SCRIPTS[key]}" for key, value in has.items() if value != _SCRIPTS[key]
    ]
    return lines


def _layers(config: ActConfig) -> int:
    """Decoder layers of the exported network: one is the first of the script's, whose others are never read."""
    return _SCRIPT_LAYERS if config.dec_layers == 1 else config.dec_layers


def _for_old_numpy(stats: Mapping[str, Any]) -> bytes:
    """A pickle that the published repository's numpy can open, which has no `numpy._core`."""
    return pickle.dumps(dict(stats), protocol=2).replace(b"cnumpy._core.", b"cnumpy.core.")


def to_state_dict(network: ChunkNetwork, cameras: Sequence[str] | None = None) -> State:
    """The network's weights under the published names, computing the same actions there.

    What the published classes have and this network has not is filled so that nothing changes: a
    self-attention that adds zero, heads that are never read.

    Args:
        cameras: their order in the published scripts' `camera_names`; None keeps ours.

    Raises:
        ContractError: the published classes cannot express the network; names the difference.
    """
    wrong = _beyond_reference(network)
    if wrong:
        raise ContractError(f"the published classes cannot hold this network: {'; '.join(wrong)}")
    own = list(network.contract.cameras)
    names = list(cameras or own)
    if sorted(names) != own:
        raise ContractError(f"cameras must be {', '.join(own)} in some order, given: {', '.join(names)}")
    ours = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    theirs = to_theirs(ours, names)
    if isinstance(network, ActNetwork):
        dim = network.config.hidden_dim
        theirs["pos_table"] = sequence_positions(2 + network.chunk_size, dim)[None]
        theirs.setdefault("is_pad_head.weight", torch.zeros(1, dim))
        theirs.setdefault("is_pad_head.bias", torch.zeros(1))
        first = "transformer.decoder.layers.0."
        for name, shape in (("in_proj_weight", (3 * dim, dim)), ("in_proj_bias", (3 * dim,))):
            theirs.setdefault(f"{first}self_attn.{name}", torch.zeros(shape))
        for name, shape in (("weight", (dim, dim)), ("bias", (dim,))):
            theirs.setdefault(f"{first}self_attn.out_proj.{name}", torch.zeros(shape))
        theirs.setdefault(f"{first}norm1.weight", torch.ones(dim))
        theirs.setdefault(f"{first}norm1.bias", torch.zeros(dim))
        layer_0 = {key.removeprefix(first): value for key, value in theirs.items() if key.startswith(first)}
        for layer in range(network.config.dec_layers, _layers(network.config)):
            theirs |= {f"transformer.decoder.layers.{layer}.{key}": value.clone() for key, value in layer_0.items()}
    else:
        theirs["action_head.weight"] = torch.zeros(network.state_dim, 1000)
        theirs["action_head.bias"] = torch.zeros(network.state_dim)
    return {f"{MODEL}{key}": value for key, value in theirs.items()}


def _beyond_reference(network: ChunkNetwork) -> list[str]:
    config = network.config
    if not isinstance(config, ActConfig | CnnMlpConfig):
        return [f"they are ACT and CNNMLP, and this one is {config.kind}"]
    wanted: dict[str, Any] = {
        "normalisation": "mean_std",
        "use_images": True,
        "use_environment_state": False,
        "sensors": (),
        "n_obs_steps": 1,
        "image_size": None,
        "image_crop": 1.0,
        "dilation": False,
        "backbone_layers": 4,
        "backbone_width": 64,
        "backbone_norm": "frozen",
    }
    if isinstance(config, ActConfig):
        wanted |= {"use_vae": True, "latent_dim": 32, "decoder_input": "zeros", "pre_norm": False}
        wanted |= {"position_embedding": "sine"}
        if len(network.contract.cameras) > 1:
            wanted |= {"camera_embedding": False, "share_backbone": True}
        if config.dec_layers > 1:
            wanted["decoder_output"] = "first"
    else:
        wanted |= {"features": "convolutions", "chunk_size": 1, "hidden_layers": 2}
        if len(network.contract.cameras) > 1:
            wanted["share_backbone"] = False
        if network.vision is not None and set(network.vision.map_sizes) != {(15, 20)}:
            return [f"CNNMLP there reads 480x640 images only, here {dict(network.contract.cameras)}"]
    if (network.state_dim, network.action_dim) != (_JOINTS, _JOINTS):
        return [f"it has {_JOINTS} states and {_JOINTS} actions, not {network.state_dim} and {network.action_dim}"]
    return [
        f"{name} is {given}, not {want}" for name, want in wanted.items() if (given := getattr(config, name)) != want
    ]
