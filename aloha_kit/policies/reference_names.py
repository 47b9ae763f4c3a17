"""Conversion of parameter names between the published ACT repository and ours.

The networks compute the same numbers; only names differ. ACT, after the prefix `model.`:

| theirs | ours |
|---|---|
| `cls_embed.weight` | `posterior.summary` |
| `encoder_joint_proj`, `encoder_action_proj` | `posterior.state`, `posterior.action` |
| `encoder.layers` | `posterior.layers` |
| `latent_proj` | `posterior.latent` |
| `latent_out_proj`, `input_proj_robot_state` | `latent`, `state` |
| `additional_pos_embed.weight` | `vector_positions` |
| `input_proj` | `picture` |
| `backbones.I.0.body` | `vision.backbones.J` |
| `transformer.encoder.layers`, `transformer.decoder.layers` | `encoder`, `decoder` |
| `transformer.decoder.norm` | `decoder_norm` |
| `query_embed.weight` | `queries` |
| `action_head`, `is_pad_head` | the same |
| `pos_table` | none: computed |

Cobot Magic's ACT has `latent_pos.weight` and `robot_state_pos.weight` in place of `additional_pos_embed.weight`, one
backbone a camera, and no `is_pad_head`.

CNNMLP: `backbones.I.0.body` to `vision.backbones.J`, `backbone_down_projs.I` to `heads.J`, `mlp` the
same with its inputs in our cameras' order, `action_head` (never used) to none. I counts cameras in
their order, J in ours, which is by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

State = dict[str, Tensor]

_ACT = {
    "cls_embed.weight": "posterior.summary",
    "encoder_joint_proj.": "posterior.state.",
    "encoder_action_proj.": "posterior.action.",
    "encoder.layers.": "posterior.layers.",
    "latent_proj.": "posterior.latent.",
    "latent_out_proj.": "latent.",
    "input_proj_robot_state.": "state.",
    "additional_pos_embed.weight": "vector_positions",
    "input_proj.": "picture.",
    "transformer.encoder.layers.": "encoder.",
    "transformer.decoder.layers.": "decoder.",
    "transformer.decoder.norm.": "decoder_norm.",
    "query_embed.weight": "queries",
    "action_head.": "action_head.",
    "is_pad_head.": "is_pad_head.",
}
BODY = re.compile(r"backbones\.(\d+)\.0\.body\.(.*)")
_DOWN = re.compile(r"backbone_down_projs\.(\d+)\.(.*)")
_OUR_BODY = re.compile(r"vision\.backbones\.(\d+)\.(.*)")
_OUR_HEAD = re.compile(r"heads\.(\d+)\.(.*)")
_FEATURES = 768  # of a camera, in CNNMLP's first matrix: 32 maps of 3x8


def camera_count(theirs: Mapping[str, Tensor]) -> int | None:
    """Number of cameras a network was trained on; None where its weights do not determine it.

    CNNMLP and the later ACTs have a backbone for each. The first ACT has one for all, and computes the positions of
    the image tokens, so that nothing in its weights has the size of their number.
    """
    bodies = len({match[1] for key in theirs if (match := BODY.match(key))})
    shared = bodies == 1 and "mlp.0.weight" not in theirs and "latent_pos.weight" not in theirs
    return None if shared else bodies


def to_ours(theirs: Mapping[str, Tensor], cameras: list[str]) -> State:
    """Rename; `cameras` is their order."""
    place = {str(i): sorted(cameras).index(name) for i, name in enumerate(cameras)}
    if not any(key.startswith("backbones.1.") for key in theirs):
        place["0"] = 0  # one for all cameras
    unused = {"robot_state_pos.weight", "pos_table"}
    if "mlp.0.weight" in theirs:
        unused |= {"action_head.weight", "action_head.bias"}
    ours: State = {}
    for key, value in theirs.items():
        if body := BODY.fullmatch(key):
            ours[f"vision.backbones.{place[body[1]]}.{body[2]}"] = value
        elif down := _DOWN.fullmatch(key):
            ours[f"heads.{place[down[1]]}.{down[2]}"] = value
        elif key == "latent_pos.weight":
            ours["vector_positions"] = torch.cat([value, theirs["robot_state_pos.weight"]])
        elif key not in unused:
            ours[_renamed(key, _ACT)] = value
    if "mlp.0.weight" in ours:
        order = [cameras.index(name) for name in sorted(cameras)]
        ours["mlp.0.weight"] = _reorder(ours["mlp.0.weight"], order)
    return ours


def to_theirs(ours: State, cameras: list[str]) -> State:
    """Inverse of `to_ours`, less what ours does not have."""
    own = sorted(cameras)
    place = {str(i): cameras.index(name) for i, name in enumerate(own)}
    if not any(key.startswith("vision.backbones.1.") for key in ours):
        place["0"] = 0
    back = {value: key for key, value in _ACT.items()}
    theirs: State = {}
    for key, value in ours.items():
        if body := _OUR_BODY.fullmatch(key):
            theirs[f"backbones.{place[body[1]]}.0.body.{body[2]}"] = value
        elif head := _OUR_HEAD.fullmatch(key):
            theirs[f"backbone_down_projs.{place[head[1]]}.{head[2]}"] = value
        else:
            theirs[_renamed(key, back)] = value
    if "mlp.0.weight" in theirs:
        theirs["mlp.0.weight"] = _reorder(theirs["mlp.0.weight"], [own.index(name) for name in cameras])
    return theirs


def _renamed(key: str, names: Mapping[str, str]) -> str:
    for old, new in names.items():
        if key.startswith(old):
            return new + key[len(old) :]
    return key


def _reorder(weight: Tensor, order: list[int]) -> Tensor:
    """Move each camera's 768 columns of CNNMLP's first matrix to its place; the state's come last and stay."""
    cameras = torch.split(weight[:, : _FEATURES * len(order)], _FEATURES, dim=1)
    return torch.cat([*(cameras[i] for i in order), weight[:, _FEATURES * len(order) :]], dim=1)
