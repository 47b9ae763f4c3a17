"""Reading of published repositories' checkpoints: ACT (tonyzhaozh/act), ACT++ and Cobot Magic's.

`policy_best.ckpt` is a torch state dict, `dataset_stats.pkl` a pickle of numpy arrays. What is
theirs and what is ours is in `reference_names`; `reference_export` writes them.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from aloha_kit.config.match_checkpoint import BASE_NAMES
from aloha_kit.config.policies import ActConfig, CnnMlpConfig, PolicyConfig
from aloha_kit.core import Contract, ContractError, joint_names
from aloha_kit.core.files import special_file
from aloha_kit.core.lang import Message
from aloha_kit.data.stats import Moments, Statistics
from aloha_kit.policies.build import build
from aloha_kit.policies.checkpoint import load_weights
from aloha_kit.policies.intact import CheckpointError
from aloha_kit.policies.network import ChunkNetwork
from aloha_kit.policies.reference_names import camera_count, State, to_ours

MODEL = "model."
"""What the policy classes' names have in front of the network's."""

_READABLE = "aloha_kit reads ACT and CNNMLP of the published ACT, ACT++ and Cobot Magic repositories"
_UNREADABLE = (
    OSError, EOFError, pickle.UnpicklingError, ValueError, TypeError, AttributeError, LookupError, ImportError,
    RecursionError, MemoryError, OverflowError,
)  # fmt: skip
"""What a damaged pickle can raise."""

_OTHERS = {
    "noise_pred_net": "a diffusion policy of ACT++ or Cobot Magic, whose U-Net predicts noise",
    "input_proj_env_state": "an ACT without cameras, which reads object poses",
    "depth_backbones": "a Cobot Magic policy that reads depth images",
    "quantize": "a VQ model",
}
"""{part of a parameter's name: what has it}: what else these repositories save."""


def load_reference(
    checkpoint: str | Path,
    dataset_stats: str | Path,
    cameras: Mapping[str, tuple[int, int]],
    *,
    nheads: int = 8,
    kl_weight: float = 10.0,
    contract: Contract | None = None,
    rate_hz: float = 50.0,
) -> ChunkNetwork:
    """A network from the published repository's files, in evaluation mode on the CPU.

    Sizes are read from the weights; everything else has to be given.

    Args:
        checkpoint: `policy_best.ckpt`; opened as weights only, so nothing in it is executed.
        dataset_stats: `dataset_stats.pkl` beside it; opened for numpy arrays only.
        cameras: {name: (height, width)} in the order of its training's `camera_names`.
        nheads: of its attention; the scripts never change it from 8.
        kl_weight: for continued training.
        contract: names of the vectors; None takes ALOHA's 14 where sizes are 14, and a base's 2 after them where
            they are 16.
        rate_hz: of the contract, where none is given.

    Raises:
        CheckpointError: a file is missing, damaged, unsafe or not of this kind; names the file and the reason.
        ContractError: cameras or contract do not fit the weights.
    """
    state = read_weights(checkpoint)
    try:
        stats = read_stats(dataset_stats)
        return from_state_dict(
            state, stats, cameras, nheads=nheads, kl_weight=kl_weight, contract=contract, rate_hz=rate_hz
        )
    except (CheckpointError, ContractError) as error:
        raise type(error)(f"{checkpoint}: {error}") from error
    except (LookupError, TypeError, ValueError, RuntimeError) as error:  # parameters of another rank or number
        raise CheckpointError(
            "{checkpoint}: weights of an odd shape ({type}: {error})",
            checkpoint=checkpoint,
            type=type(error).__name__,
            error=error,
        ) from error


def read_weights(checkpoint: str | Path) -> State:
    """The state dict in a `.ckpt`, as its policy class names it.

    Raises:
        CheckpointError: missing, damaged, more than weights, or of an unsupported policy; names it.
    """
    if special := special_file(Path(checkpoint)):
        raise CheckpointError("{checkpoint} is {special}", checkpoint=checkpoint, special=special)
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(
            "cannot read weights from {checkpoint}: {strerror}", checkpoint=checkpoint, strerror=error.strerror or error
        ) from error
    except (RuntimeError, EOFError, LookupError, pickle.UnpicklingError, ValueError, TypeError) as error:
        # torch's own words here are advice on reading the file unsafely.
        raise CheckpointError(
            "cannot read weights from {checkpoint}: it is damaged, cut short, or holds more than weights",
            checkpoint=checkpoint,
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(
            "{checkpoint} holds no state dict, but {type}", checkpoint=checkpoint, type=type(state).__name__
        )
    for name, what in _OTHERS.items():
        if any(name in key for key in _keys(state)):
            raise CheckpointError(
                "{checkpoint} is {what}: it has parameters '{name}'. {readable}",
                checkpoint=checkpoint,
                what=what,
                name=name,
                readable=_READABLE,
            )
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()):
        raise CheckpointError(
            "{checkpoint} holds no state dict, but a dict of: {state}",
            checkpoint=checkpoint,
            state=", ".join(map(str, state))[:200],
        )
    if odd := [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise CheckpointError(
            "{checkpoint} has weights that are not finite: {odd}", checkpoint=checkpoint, odd=", ".join(odd[:5])
        )
    return state


def read_camera_names(config: str | Path) -> tuple[str, ...] | None:
    """Cameras in the order of training, from the `config.pkl` that ACT++ saves beside its weights; None without one.

    It is opened for plain containers and numpy arrays only, as the statistics are; one that holds more is ignored.
    """
    if special_file(Path(config)):
        return None
    try:
        names = _ArraysOnly(io.BytesIO(Path(config).read_bytes())).load()["camera_names"]
    except _UNREADABLE:
        return None
    given = isinstance(names, list | tuple) and bool(names) and all(isinstance(name, str) for name in names)
    return tuple(names) if given else None


def _keys(state: Mapping[Any, Any]) -> list[str]:
    """Names of parameters; of those in the state dicts that `state` holds, too (`nets` and `ema` of ACT++)."""
    inner = [f"{key}.{name}" for key, value in state.items() if isinstance(value, Mapping) for name in value]
    return [*map(str, state), *inner]


def from_state_dict(
    state: Mapping[str, Tensor],
    stats: Statistics,
    cameras: Mapping[str, tuple[int, int]],
    *,
    nheads: int = 8,
    kl_weight: float = 10.0,
    contract: Contract | None = None,
    rate_hz: float = 50.0,
) -> ChunkNetwork:
    """`load_reference` from what the files hold."""
    theirs = {key.removeprefix(MODEL): value for key, value in state.items()}
    config = policy_config(theirs, nheads, kl_weight)
    if contract is None:
        contract = Contract.of(_names("qpos", stats), _names("action", stats), dict(cameras), rate_hz)
    if dict(cameras) != contract.cameras:
        raise ContractError(
            "cameras {given} are not the contract's {cameras}", given=dict(cameras), cameras=contract.cameras
        )
    counted = camera_count(theirs)
    if counted is not None and counted != len(cameras):
        raise ContractError(
            "the weights are of {counted} cameras, given {count}: {cameras}",
            counted=counted,
            count=len(cameras),
            cameras=", ".join(cameras),
        )
    network = build(config, contract, stats, pretrained=False)
    ours = to_ours(theirs, list(cameras))
    if "encoder.layers.0.linear1.weight" not in theirs:  # trained without the VAE's encoder, which only training reads
        ours = {key: value for key, value in network.state_dict().items() if key.startswith("posterior.")} | ours
    load_weights(network, ours, where="the checkpoint")
    return network.eval()


def policy_config(theirs: Mapping[str, Tensor], nheads: int = 8, kl_weight: float = 10.0) -> PolicyConfig:
    """The configuration of a network by its weights, names without `MODEL`.

    Raises:
        CheckpointError: neither an ACT nor a CNNMLP.
    """
    if "query_embed.weight" in theirs:
        return _act_config(theirs, nheads, kl_weight)
    if "mlp.0.weight" in theirs:
        return CnnMlpConfig(
            features="convolutions",
            backbone=_backbone(theirs),
            hidden_dim=len(theirs["mlp.0.weight"]),
            hidden_layers=sum(key.startswith("mlp.") and key.endswith("weight") for key in theirs) - 1,
        )
    raise CheckpointError(
        "neither an ACT nor a CNNMLP state dict; its keys begin {keys}", keys=", ".join(list(theirs)[:5])[:200]
    )


def read_stats(file: str | Path) -> Statistics:
    """Statistics of a `dataset_stats.pkl`; extremes are NaN where it has none (only ACT++'s has).

    Raises:
        CheckpointError: missing, damaged, lacking an entry, or holding more than numpy arrays.
    """
    if special := special_file(Path(file)):
        raise CheckpointError("{file} is {special}", file=file, special=special)
    try:
        raw = _ArraysOnly(io.BytesIO(Path(file).read_bytes())).load()
        unknown = np.full_like(raw["qpos_mean"], np.nan), np.full_like(raw["action_mean"], np.nan)
        moments = {}
        for key, nothing in zip(("qpos", "action"), unknown, strict=True):
            extremes = raw.get(f"{key}_min", nothing), raw.get(f"{key}_max", nothing)
            arrays = (raw[f"{key}_mean"], raw[f"{key}_std"], *extremes)
            mean, std, low, high = (np.asarray(array, np.float32) for array in arrays)
            if mean.ndim != 1 or not mean.shape == std.shape == low.shape == high.shape:
                raise ValueError(
                    Message(
                        "mean and std of {key} have shapes {mean} and {std}", key=key, mean=mean.shape, std=std.shape
                    )
                )
            if not (np.isfinite(mean).all() and np.isfinite(std).all()):
                raise ValueError(Message("mean or std of {key} is not finite", key=key))
            moments[key] = Moments(mean, std, low, high, count=0)  # the number of rows is not recorded
        return Statistics(moments)
    except KeyError as error:
        raise CheckpointError(
            "{file} lacks {error}; it has: {keys}", file=file, error=error, keys=", ".join(map(str, raw))
        ) from error
    except _UNREADABLE as error:
        raise CheckpointError("cannot read statistics from {file}: {error}", file=file, error=error) from error


class _ArraysOnly(pickle.Unpickler):
    """Admits numpy arrays and plain containers; a pickle could otherwise run anything."""

    _ALLOWED = frozenset(
        (f"numpy{core}.{module}", name)
        for core in (".core", "._core")
        for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
    ) | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(
                Message("it contains {module}.{name}; only numpy arrays are accepted", module=module, name=name)
            )
        return super().find_class(module, name)


def _act_config(theirs: Mapping[str, Tensor], nheads: int, kl_weight: float) -> ActConfig:
    try:
        chunk_size, hidden_dim = theirs["query_embed.weight"].shape
        latent_dim = theirs["latent_out_proj.weight"].shape[1]
        if "latent_proj.weight" in theirs and len(theirs["latent_proj.weight"]) != 2 * latent_dim:
            raise CheckpointError(
                "an ACT++ policy with a vector-quantised latent (--use_vq). {readable}", readable=_READABLE
            )
        return ActConfig(
            backbone=_backbone(theirs),
            share_backbone=camera_count(theirs) is None,
            camera_embedding=False,
            chunk_size=chunk_size,
            hidden_dim=hidden_dim,
            dim_feedforward=len(theirs["transformer.encoder.layers.0.linear1.weight"]),
            nheads=nheads,
            enc_layers=_count(theirs, "transformer.encoder.layers."),
            dec_layers=_count(theirs, "transformer.decoder.layers."),
            decoder_output="first",
            first_self_attention=True,
            latent_dim=latent_dim,
            kl_weight=kl_weight,
            loss_over="all",
            is_pad_head="is_pad_head.weight" in theirs,
            distinct_init=False,
        )
    except KeyError as error:
        raise CheckpointError("an ACT state dict without {error}", error=error) from error
    except (IndexError, TypeError, ValueError) as error:
        raise CheckpointError("an ACT state dict of an odd shape: {error}", error=error) from error


def _backbone(theirs: Mapping[str, Tensor]) -> Literal["resnet18", "resnet34", "resnet50"]:
    if "backbones.0.0.body.layer1.0.conv3.weight" in theirs:
        return "resnet50"
    return "resnet34" if "backbones.0.0.body.layer1.2.conv1.weight" in theirs else "resnet18"


def _count(theirs: Mapping[str, Tensor], prefix: str) -> int:
    return len({key[len(prefix) :].partition(".")[0] for key in theirs if key.startswith(prefix)})


def _names(key: str, stats: Statistics) -> tuple[str, ...]:
    size, joints = stats[key].size, joint_names()
    if size in (len(joints), len(joints) + len(BASE_NAMES)):
        return (*joints, *BASE_NAMES)[:size]
    return tuple(f"{key}_{i}" for i in range(size))
