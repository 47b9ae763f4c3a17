"""Checkpoints of the published ACT repository (tonyzhaozh/act), read and written.

`policy_best.ckpt` is a torch state dict, `dataset_stats.pkl` a pickle of numpy arrays. What is
theirs and what is ours is in `reference_names`.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from aloha_kit.config.policies import ActConfig, CnnMlpConfig, PolicyConfig
from aloha_kit.core import Contract, ContractError, joint_names
from aloha_kit.core.files import special_file
from aloha_kit.data.stats import Moments, Statistics
from aloha_kit.policies.act import ActNetwork
from aloha_kit.policies.build import build
from aloha_kit.policies.checkpoint import CheckpointError, load_weights
from aloha_kit.policies.network import ChunkNetwork
from aloha_kit.policies.positions import sequence_positions
from aloha_kit.policies.reference_names import BODY, State, to_ours, to_theirs


def load_reference(
    checkpoint: str | Path,
    dataset_stats: str | Path,
    cameras: Mapping[str, tuple[int, int]],
    *,
    nheads: int = 8,
    kl_weight: float = 10.0,
    contract: Contract | None = None,
) -> ChunkNetwork:
    """A network from the published repository's files, in evaluation mode on the CPU.

    Sizes are read off the weights; what weights do not tell has to be given.

    Args:
        checkpoint: `policy_best.ckpt`; opened as weights only, so nothing in it is executed.
        dataset_stats: `dataset_stats.pkl` beside it; opened for numpy arrays only.
        cameras: {name: (height, width)} in the order of its training's `camera_names`.
        nheads: of its attention; the scripts never change it from 8.
        kl_weight: for continued training.
        contract: names of the vectors; None takes ALOHA's 14 where sizes are 14.

    Raises:
        CheckpointError: a file is missing, damaged, unsafe or not of this kind; says which and why.
        ContractError: cameras or contract do not fit the weights.
    """
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"cannot read weights from {checkpoint}: {error.strerror or error}") from error
    except (RuntimeError, EOFError, LookupError, pickle.UnpicklingError, ValueError, TypeError) as error:
        # torch's own words here are advice on reading the file unsafely.
        raise CheckpointError(
            f"cannot read weights from {checkpoint}: it is damaged, cut short, or holds more than weights"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{checkpoint} holds no state dict, but {type(state).__name__}")
    try:
        stats = read_stats(dataset_stats)
        return from_state_dict(state, stats, cameras, nheads=nheads, kl_weight=kl_weight, contract=contract)
    except (CheckpointError, ContractError) as error:
        raise type(error)(f"{checkpoint}: {error}") from error


def from_state_dict(
    state: Mapping[str, Tensor],
    stats: Statistics,
    cameras: Mapping[str, tuple[int, int]],
    *,
    nheads: int = 8,
    kl_weight: float = 10.0,
    contract: Contract | None = None,
) -> ChunkNetwork:
    """`load_reference` from what the files hold."""
    theirs = {key.removeprefix("model."): value for key, value in state.items()}
    if "query_embed.weight" in theirs:
        config: PolicyConfig = _act_config(theirs, nheads, kl_weight)
    elif "mlp.0.weight" in theirs:
        config = CnnMlpConfig(
            features="convolutions",
            backbone=_backbone(theirs),
            hidden_dim=len(theirs["mlp.0.weight"]),
            hidden_layers=sum(key.startswith("mlp.") and key.endswith("weight") for key in theirs) - 1,
        )
    else:
        raise CheckpointError(f"neither an ACT nor a CNNMLP state dict; its keys begin {', '.join(list(theirs)[:5])}")
    if contract is None:
        contract = Contract(_names("qpos", stats), _names("action", stats), dict(cameras), 50.0)
    if dict(cameras) != contract.cameras:
        raise ContractError(f"cameras {dict(cameras)} are not the contract's {contract.cameras}")
    bodies = len({match[1] for key in theirs if (match := BODY.match(key))})
    if bodies != (1 if config.share_backbone else len(cameras)):
        raise ContractError(f"the checkpoint has {bodies} backbones, given cameras: {', '.join(cameras)}")
    network = build(config, contract, stats, pretrained=False)
    load_weights(network, to_ours(theirs, list(cameras)), where="the checkpoint")
    return network.eval()


def save_reference(network: ChunkNetwork, folder: str | Path, cameras: Sequence[str] | None = None) -> None:
    """Write `policy_best.ckpt` and `dataset_stats.pkl` for the published repository's scripts.

    Raises:
        ContractError: as `to_state_dict`.
    """
    state = to_state_dict(network, cameras)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "policy_best.ckpt")
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
    (folder / "dataset_stats.pkl").write_bytes(pickle.dumps(stats))


def to_state_dict(network: ChunkNetwork, cameras: Sequence[str] | None = None) -> State:
    """The network's weights under the published names, computing the same actions there.

    What the published classes have and this network has not is filled so that nothing changes: a
    self-attention that adds zero, heads that are never read.

    Args:
        cameras: their order in the published scripts' `camera_names`; None keeps ours.

    Raises:
        ContractError: the network is none that the published classes can be; says why.
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
    else:
        theirs["action_head.weight"] = torch.zeros(network.state_dim, 1000)
        theirs["action_head.bias"] = torch.zeros(network.state_dim)
    return {f"model.{key}": value for key, value in theirs.items()}


def read_stats(file: str | Path) -> Statistics:
    """Statistics of a `dataset_stats.pkl`; extremes are NaN where it has none (only ACT++'s has).

    Raises:
        CheckpointError: missing, damaged, lacking an entry, or holding more than numpy arrays.
    """
    if special := special_file(Path(file)):
        raise CheckpointError(f"{file} is {special}")
    try:
        raw = _ArraysOnly(io.BytesIO(Path(file).read_bytes())).load()
        unknown = np.full_like(raw["qpos_mean"], np.nan), np.full_like(raw["action_mean"], np.nan)
        moments = {}
        for key, nothing in zip(("qpos", "action"), unknown, strict=True):
            extremes = raw.get(f"{key}_min", nothing), raw.get(f"{key}_max", nothing)
            arrays = (raw[f"{key}_mean"], raw[f"{key}_std"], *extremes)
            mean, std, low, high = (np.asarray(array, np.float32) for array in arrays)
            moments[key] = Moments(mean, std, low, high, count=0)  # it does not say how many
        return Statistics(moments)
    except KeyError as error:
        raise CheckpointError(f"{file} lacks {error}; it has: {', '.join(map(str, raw))}") from error
    except (OSError, EOFError, pickle.UnpicklingError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"cannot read statistics from {file}: {error}") from error


class _ArraysOnly(pickle.Unpickler):
    """Admits numpy arrays and plain containers; a pickle could otherwise run anything."""

    _ALLOWED = frozenset(
        (f"numpy{core}.{module}", name)
        for core in (".core", "._core")
        for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
    ) | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it wants {module}.{name}; only numpy arrays are let in")
        return super().find_class(module, name)


def _act_config(theirs: Mapping[str, Tensor], nheads: int, kl_weight: float) -> ActConfig:
    try:
        chunk_size, hidden_dim = theirs["query_embed.weight"].shape
        return ActConfig(
            backbone=_backbone(theirs),
            share_backbone=not any(key.startswith("backbones.1.") for key in theirs),
            camera_embedding=False,
            chunk_size=chunk_size,
            hidden_dim=hidden_dim,
            dim_feedforward=len(theirs["transformer.encoder.layers.0.linear1.weight"]),
            nheads=nheads,
            enc_layers=_count(theirs, "transformer.encoder.layers."),
            dec_layers=_count(theirs, "transformer.decoder.layers."),
            decoder_output="first",
            first_self_attention=True,
            latent_dim=theirs["latent_out_proj.weight"].shape[1],
            kl_weight=kl_weight,
            loss_over="all",
            is_pad_head="is_pad_head.weight" in theirs,
            distinct_init=False,
        )
    except KeyError as error:
        raise CheckpointError(f"an ACT state dict without {error}") from error
    except ValueError as error:
        raise CheckpointError(f"an ACT state dict of an odd shape: {error}") from error


def _backbone(theirs: Mapping[str, Tensor]) -> Literal["resnet18", "resnet34"]:
    return "resnet34" if "backbones.0.0.body.layer1.2.conv1.weight" in theirs else "resnet18"


def _count(theirs: Mapping[str, Tensor], prefix: str) -> int:
    return len({key[len(prefix) :].partition(".")[0] for key in theirs if key.startswith(prefix)})


def _names(key: str, stats: Statistics) -> tuple[str, ...]:
    size = stats[key].size
    return joint_names() if size == 14 else tuple(f"{key}_{i}" for i in range(size))


def _beyond_reference(network: ChunkNetwork) -> list[str]:
    config = network.config
    wanted: dict[str, Any] = {
        "normalisation": "mean_std",
        "use_images": True,
        "use_environment_state": False,
        "image_size": None,
        "backbone_layers": 4,
        "backbone_width": 64,
        "backbone_norm": "frozen",
    }
    if isinstance(config, ActConfig):
        wanted |= {"use_vae": True, "decoder_input": "zeros", "pre_norm": False}
        if len(network.contract.cameras) > 1:
            wanted |= {"camera_embedding": False, "share_backbone": True}
        if config.dec_layers > 1:
            wanted["decoder_output"] = "first"
    else:
        wanted |= {"features": "convolutions", "chunk_size": 1, "hidden_layers": 2}
        if len(network.contract.cameras) > 1:
            wanted["share_backbone"] = False
        if network.vision is not None and set(network.vision.map_sizes) != {(15, 20)}:
            return [f"CNNMLP there reads 480x640 pictures only, here {dict(network.contract.cameras)}"]
    return [
        f"{name} is {given}, not {want}" for name, want in wanted.items() if (given := getattr(config, name)) != want
    ]
