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
from aloha_kit.policies.expressible import differences, PLAIN
from aloha_kit.policies.network import ChunkNetwork
from aloha_kit.policies.positions import sequence_positions
from aloha_kit.policies.reference import MODEL
from aloha_kit.policies.reference_names import State, to_theirs

_SCRIPT_LAYERS = 7
_SCRIPTS: dict[str, int | str] = {"nheads": 8, "enc_layers": 4, "dec_layers": _SCRIPT_LAYERS, "backbone": "resnet18"}
"""What imitate_episodes.py sets without a flag."""

_JOINTS = 14


def export(network: ChunkNetwork, folder: Path, cameras: Sequence[str] = ()) -> list[str]:
    """`save_reference`, and lines about it: its file, and what the published script needs to load it."""
    save_reference(network, folder, cameras or None)
    return [str(folder / "policy_best.ckpt"), *script_settings(network, cameras or None)]


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
        raise ConfigError(
            "{folder} has {there} already, which are not replaced; give another folder",
            folder=folder,
            there=" and ".join(there),
        )
    try:
        with replacing(weights) as part:
            torch.save(state, part)
            statistics.write_bytes(_for_old_numpy(stats))
    except (OSError, RuntimeError) as error:
        statistics.unlink(missing_ok=True)
        raise ConfigError(
            "cannot write {weights}: {error}", weights=weights, error=str(error).splitlines()[0]
        ) from error


def script_settings(network: ChunkNetwork, cameras: Sequence[str] | None = None) -> list[str]:
    """Settings of the published imitate_episodes.py for loading an exported network, one line each."""
    flags, has = _PUBLISHED[network.config.kind].script(network.config)
    return [
        f"camera_names of its task: {list(cameras or network.contract.cameras)}",
        f"flags: {flags}",
        *(
            f"in the script: {key} = {value}, not {_SCRIPTS[key]}"
            for key, value in has.items()
            if value != _SCRIPTS[key]
        ),
    ]


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
        raise ContractError("the published classes cannot hold this network: {wrong}", wrong="; ".join(wrong))
    own = list(network.contract.cameras)
    names = list(cameras or own)
    if sorted(names) != own:
        raise ContractError(
            "cameras must be {own} in some order, given: {names}", own=", ".join(own), names=", ".join(names)
        )
    ours = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    theirs = to_theirs(ours, names)
    _PUBLISHED[network.config.kind].fill(network, theirs)
    return {f"{MODEL}{key}": value for key, value in theirs.items()}


def _beyond_reference(network: ChunkNetwork) -> list[str]:
    config = network.config
    if config.kind not in _PUBLISHED:
        return [f"they are {' and '.join(kind.upper() for kind in _PUBLISHED)}, and this one is {config.kind}"]
    wanted: dict[str, Any] = {
        **PLAIN,
        "normalisation": "mean_std",
        "dilation": False,
        **_PUBLISHED[config.kind].wanted(config, len(network.contract.cameras)),
    }
    smallest = _PUBLISHED[config.kind].image_map
    if smallest and network.vision is not None and set(network.vision.map_sizes) != {smallest}:
        return [f"CNNMLP there reads 480x640 images only, here {dict(network.contract.cameras)}"]
    if (network.state_dim, network.action_dim) != (_JOINTS, _JOINTS):
        return [f"it has {_JOINTS} states and {_JOINTS} actions, not {network.state_dim} and {network.action_dim}"]
    return differences(config, wanted)


class _Act:
    """The published ACT: its flags and values in the script, the values that it has, and its weights beyond ours."""

    image_map = None  # any

    @staticmethod
    def script(config: ActConfig) -> tuple[str, dict[str, Any]]:
        flags = (
            f"--policy_class ACT --chunk_size {config.chunk_size} --hidden_dim {config.hidden_dim}"
            f" --dim_feedforward {config.dim_feedforward} --kl_weight {config.kl_weight:g}"
        )
        return flags, {**{key: getattr(config, key) for key in _SCRIPTS}, "dec_layers": _layers(config)}

    @staticmethod
    def wanted(config: ActConfig, cameras: int) -> dict[str, Any]:
        wanted = {"use_vae": True, "latent_dim": 32, "decoder_input": "zeros", "pre_norm": False}
        wanted["position_embedding"] = "sine"
        if cameras > 1:
            wanted |= {"camera_embedding": False, "share_backbone": True}
        if config.dec_layers > 1:
            wanted["decoder_output"] = "first"
        return wanted

    @staticmethod
    def fill(network: ChunkNetwork, theirs: State) -> None:
        config: ActConfig = network.config  # type: ignore[assignment]  # by its kind
        dim, first = config.hidden_dim, "transformer.decoder.layers.0."
        theirs["pos_table"] = sequence_positions(2 + network.chunk_size, dim)[None]
        theirs.setdefault("is_pad_head.weight", torch.zeros(1, dim))
        theirs.setdefault("is_pad_head.bias", torch.zeros(1))
        for name, shape in (("in_proj_weight", (3 * dim, dim)), ("in_proj_bias", (3 * dim,))):
            theirs.setdefault(f"{first}self_attn.{name}", torch.zeros(shape))
        for name, shape in (("weight", (dim, dim)), ("bias", (dim,))):
            theirs.setdefault(f"{first}self_attn.out_proj.{name}", torch.zeros(shape))
        theirs.setdefault(f"{first}norm1.weight", torch.ones(dim))
        theirs.setdefault(f"{first}norm1.bias", torch.zeros(dim))
        layer_0 = {key.removeprefix(first): value for key, value in theirs.items() if key.startswith(first)}
        for layer in range(config.dec_layers, _layers(config)):
            theirs |= {f"transformer.decoder.layers.{layer}.{key}": value.clone() for key, value in layer_0.items()}


class _CnnMlp:
    """The published CNNMLP, likewise."""

    image_map = (15, 20)  # of 480x640

    @staticmethod
    def script(config: CnnMlpConfig) -> tuple[str, dict[str, Any]]:
        return "--policy_class CNNMLP", {"backbone": config.backbone}

    @staticmethod
    def wanted(config: CnnMlpConfig, cameras: int) -> dict[str, Any]:
        wanted: dict[str, Any] = {"features": "convolutions", "chunk_size": 1, "hidden_layers": 2}
        return wanted | ({"share_backbone": False} if cameras > 1 else {})

    @staticmethod
    def fill(network: ChunkNetwork, theirs: State) -> None:
        theirs["action_head.weight"] = torch.zeros(network.state_dim, 1000)
        theirs["action_head.bias"] = torch.zeros(network.state_dim)


_PUBLISHED: dict[str, Any] = {"act": _Act, "cnnmlp": _CnnMlp}
"""{kind: the published class of the family}; other families were not published."""
