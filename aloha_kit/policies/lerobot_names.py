"""Conversion of parameter names and settings between LeRobot's ACT and ours.

The networks compute the same numbers. After the prefix `model.`:

| theirs | ours |
|---|---|
| `vae_encoder_cls_embed.weight` | `posterior.summary` |
| `vae_encoder_robot_state_input_proj`, `vae_encoder_action_input_proj` | `posterior.state`, `posterior.action` |
| `vae_encoder.layers`, `vae_encoder.norm` | `posterior.layers`, `posterior.norm` |
| `vae_encoder_latent_output_proj` | `posterior.latent` |
| `encoder_latent_input_proj`, `encoder_robot_state_input_proj` | `latent`, `state` |
| `encoder_img_feat_input_proj` | `picture` |
| `encoder_1d_feature_pos_embed.weight` | `vector_positions` |
| `backbone` | `vision.backbones.0` |
| `encoder.layers`, `encoder.norm` | `encoder`, `encoder_norm` |
| `decoder.layers`, `decoder.norm` | `decoder`, `decoder_norm` |
| `decoder_pos_embed.weight` | `queries` |
| `action_head` | the same |
| `vae_encoder_pos_enc` | none: computed |
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from aloha_kit.policies.positions import sequence_positions

State = dict[str, Tensor]

MODEL = "model."
POSITIONS = "vae_encoder_pos_enc"

_NAMES = {
    "vae_encoder_cls_embed.weight": "posterior.summary",
    "vae_encoder_robot_state_input_proj.": "posterior.state.",
    "vae_encoder_action_input_proj.": "posterior.action.",
    "vae_encoder.layers.": "posterior.layers.",
    "vae_encoder.norm.": "posterior.norm.",
    "vae_encoder_latent_output_proj.": "posterior.latent.",
    "encoder_latent_input_proj.": "latent.",
    "encoder_robot_state_input_proj.": "state.",
    "encoder_img_feat_input_proj.": "picture.",
    "encoder_1d_feature_pos_embed.weight": "vector_positions",
    "backbone.": "vision.backbones.0.",
    "encoder.layers.": "encoder.",
    "encoder.norm.": "encoder_norm.",
    "decoder.layers.": "decoder.",
    "decoder.norm.": "decoder_norm.",
    "decoder_pos_embed.weight": "queries",
    "action_head.": "action_head.",
}

SETTINGS = {
    "chunk_size": "chunk_size",
    "n_action_steps": "n_action_steps",
    "ensemble_weight": "temporal_ensemble_coeff",
    "backbone": "vision_backbone",
    "dilation": "replace_final_stride_with_dilation",
    "pre_norm": "pre_norm",
    "hidden_dim": "dim_model",
    "nheads": "n_heads",
    "dim_feedforward": "dim_feedforward",
    "enc_layers": "n_encoder_layers",
    "dec_layers": "n_decoder_layers",
    "latent_dim": "latent_dim",
    "dropout": "dropout",
    "kl_weight": "kl_weight",
}
"""{setting of `ActConfig`: LeRobot's}."""


def to_ours(theirs: Mapping[str, Tensor]) -> State:
    """Our names of LeRobot's weights; a name that is not LeRobot's stays."""
    names = {key.removeprefix(MODEL): value for key, value in theirs.items()}
    return {_renamed(key, _NAMES): value for key, value in names.items() if key != POSITIONS}


def to_theirs(ours: Mapping[str, Tensor], chunk_size: int) -> State:
    """Inverse of `to_ours`, with the table that is computed here."""
    back = {value: key for key, value in _NAMES.items()}
    theirs = {_renamed(key, back): value for key, value in ours.items()}
    theirs[POSITIONS] = sequence_positions(2 + chunk_size, ours["queries"].shape[1])[None]
    return {f"{MODEL}{key}": value for key, value in theirs.items()}


def _renamed(key: str, names: Mapping[str, str]) -> str:
    for old, new in names.items():
        if key.startswith(old):
            return new + key[len(old) :]
    return key
