"""Policy families and their configurations.

A family is one line of `FAMILIES`, one configuration class, the network that the class names, and a YAML file. A family
of the user's own needs no line: its YAML has `kind: my_package.module:MyConfig`.

The defaults are what we recommend; `configs/policies/act_reference.yaml` and `cnnmlp_reference.yaml` are the published
ACT repository's choices, number for number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from tyro.conf import arg

from aloha_kit.config.load import find, from_mapping, read
from aloha_kit.core import ConfigError
from aloha_kit.core.lang import Message
from aloha_kit.core.plugins import known, name_of, resolve
from aloha_kit.core.value_checks import at_least, positive, within

FAMILIES = {
    "act": "aloha_kit.config.policies:ActConfig",
    "cnnmlp": "aloha_kit.config.policies:CnnMlpConfig",
    "bc": "aloha_kit.config.bc:BcConfig",
    "ibc": "aloha_kit.config.ibc:IbcConfig",
    "diffusion": "aloha_kit.config.denoising:DiffusionConfig",
    "flow": "aloha_kit.config.denoising:FlowConfig",
    "mip": "aloha_kit.config.denoising:MipConfig",
}
"""Configuration class of each family, imported when its kind is used. Installed packages add families by entry points
of the group `aloha_kit.policies`."""


@dataclass(frozen=True)
class PolicyConfig:
    """Base of every family's configuration: all that `policies.network.ChunkNetwork` reads.

    Attributes:
        network: the family's network, `module:Class`, imported when one is built.
    """

    network: ClassVar[str]

    chunk_size: int = 100
    """Actions predicted at once: 100 is two seconds at 50 Hz."""
    n_action_steps: int | None = None
    """Actions of a chunk that deployment and evaluation execute before the next inference (none: all of them), unless
    their flag of this name is given; at most chunk_size."""
    ensemble_weight: float | None = None
    """Average all predictions for a step (temporal ensembling) in deployment and evaluation, unless --n_action_steps is
    given: prediction i, oldest first, weighs exp(-ensemble_weight · i). None: only with --temporal_agg, at 0.01."""
    normalisation: Literal["mean_std", "min_max_01", "min_max_11"] = "mean_std"
    """States and actions as (x - mean) / std, or stretched to [0, 1] or [-1, 1] by their extremes."""
    std_floor: float = 1e-2
    """No dimension is divided by less than this, so noise on a joint that never moves stays noise."""
    use_images: bool = True
    """Read the cameras. Off, the policy reads joints alone (and object poses, on request)."""
    use_environment_state: bool = False
    """Read the true object poses as well; simulation only, for debugging and quick baselines."""
    sensors: tuple[str, ...] = ()
    """Further vectors to read, by their names in the contract: effort, sensors/left_wrench, …"""
    depth_cameras: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = ()
    """Cameras whose depth is read, as a fourth channel of their images."""
    depth_max_m: float = 2.0
    """Depth in m that this channel is divided by; greater ones count as this one, and where nothing was measured the
    channel is -1."""
    text_encoder: str | None = None
    """Read the task's instruction as well: `table` trains an embedding of each instruction in the data; the name or
    folder of a sentence-transformers model encodes them, frozen (installed and downloaded before)."""
    instruction_dim: int = 32
    """Size of the vector that an instruction is projected to; the network reads it like a sensor's."""
    n_obs_steps: int = 1
    """Steps of observation that are read, the present one included; at an episode's start the first is repeated."""
    image_size: Annotated[tuple[int, int] | None, arg(metavar="H W")] = None
    """Height and width that every image is resized to inside the network; None: as recorded."""
    image_crop: float = 1.0
    """Share of each side of the image that the network reads: a random part in training, the centre at inference."""
    backbone: Literal["resnet18", "resnet34", "resnet50"] = "resnet18"
    """Which ResNet reads the images."""
    dilation: bool = False
    """Dilate resnet50's last stage in place of its stride, which doubles the map's sides (DETR's DC5)."""
    backbone_layers: int = 4
    """Stages of the ResNet that are used, 1 to 4. Fewer give finer maps of small images, and cost less."""
    backbone_width: int = 64
    """Channels of the first stage; the standard 64 is needed for pretrained weights."""
    backbone_norm: Literal["frozen", "batch", "group"] = "frozen"
    """Normalisation in the ResNet: frozen batch statistics suit pretrained weights, group training from scratch."""
    pretrained_backbone: bool = True
    """Start from torchvision's ImageNet weights (44 MB, fetched once)."""
    share_backbone: bool = True
    """One ResNet for all cameras instead of one for each."""

    @property
    def kind(self) -> str:
        """Name of the family: its key in `FAMILIES`, its entry point, or `module:Class`."""
        return name_of("policies", type(self), FAMILIES)

    @property
    def reads_goal(self) -> bool:
        """Whether the network reads a goal observation beside the present ones."""
        return False

    @property
    def samples_goal(self) -> bool:
        """Whether the goal of training is a drawn later observation of the episode instead of its last."""
        return False

    @property
    def reads_instruction(self) -> bool:
        """Whether the network reads the task's instruction."""
        return self.text_encoder is not None

    @property
    def window(self) -> int:
        """Observations of one sample of a batch: the goal first, where one is read, then `n_obs_steps`."""
        return self.n_obs_steps + self.reads_goal

    @property
    def find_unused_parameters(self) -> bool:
        """Whether the network carries parameters that are in no loss."""
        return False

    def __post_init__(self) -> None:
        if not hasattr(type(self), "network"):
            raise TypeError(f"{type(self).__name__} names no network: it needs network: ClassVar[str] = 'module:Class'")
        at_least(
            1,
            chunk_size=self.chunk_size,
            n_action_steps=1 if self.n_action_steps is None else self.n_action_steps,
            n_obs_steps=self.n_obs_steps,
            instruction_dim=self.instruction_dim,
            backbone_layers=self.backbone_layers,
            backbone_width=self.backbone_width,
        )
        if self.ensemble_weight is not None and not math.isfinite(self.ensemble_weight):
            raise ValueError(Message("ensemble_weight must be finite, given {weight}", weight=self.ensemble_weight))
        if self.text_encoder == "":
            raise ValueError(Message("text_encoder is `table` or a model; leave it out to read no instruction"))
        if self.backbone_layers > 4:
            raise ValueError(
                Message(
                    "backbone_layers: a ResNet has 4 stages, given {backbone_layers}",
                    backbone_layers=self.backbone_layers,
                )
            )
        if self.dilation and (self.backbone != "resnet50" or self.backbone_layers != 4):
            raise ValueError(
                Message(
                    "dilation is of the fourth stage of resnet50, given {backbone} with backbone_layers "
                    "{backbone_layers}",
                    backbone=self.backbone,
                    backbone_layers=self.backbone_layers,
                )
            )
        positive(std_floor=self.std_floor)
        if self.image_size is not None:
            at_least(1, image_height=self.image_size[0], image_width=self.image_size[1])
        if not 0 < self.depth_max_m < 65.536:
            raise ValueError(
                Message(
                    "depth_max_m must be above 0 and below 65.536 (uint16 mm), given {depth_max_m:g}",
                    depth_max_m=self.depth_max_m,
                )
            )
        if len(set(self.depth_cameras)) < len(self.depth_cameras):
            raise ValueError(
                Message(
                    "depth_cameras names a camera twice: {depth_cameras}", depth_cameras=", ".join(self.depth_cameras)
                )
            )
        if self.depth_cameras and not self.use_images:
            raise ValueError(Message("depth is a channel of the images: depth_cameras needs use_images true"))
        within("(0, 1]", image_crop=self.image_crop)
        if not self.use_images:
            return
        if self.pretrained_backbone and (self.backbone_width != 64 or self.backbone_norm == "group"):
            raise ValueError(
                Message(
                    "pretrained weights exist for backbone_width 64 with backbone_norm frozen or batch, given "
                    "{backbone_width} with {backbone_norm}; set pretrained_backbone to false",
                    backbone_width=self.backbone_width,
                    backbone_norm=self.backbone_norm,
                )
            )
        if not self.pretrained_backbone and self.backbone_norm == "frozen":
            raise ValueError(
                Message(
                    "backbone_norm frozen without pretrained weights normalises nothing (its statistics stay 0 and 1); "
                    "use backbone_norm group"
                )
            )
        if self.backbone_norm == "group" and self.backbone_width % 16:
            raise ValueError(
                Message(
                    "backbone_width must be a multiple of 16 with group norm, given {backbone_width}",
                    backbone_width=self.backbone_width,
                )
            )


@dataclass(frozen=True)
class ActConfig(PolicyConfig):
    """Action Chunking with Transformers (Zhao et al., 2023): a conditional VAE over chunks of actions."""

    network: ClassVar[str] = "aloha_kit.policies.act:ActNetwork"

    hidden_dim: int = 512
    """Width of the transformers; a multiple of 4 and of nheads."""
    dim_feedforward: int = 3200
    """Width of the feed-forward blocks."""
    nheads: int = 8
    """Attention heads."""
    enc_layers: int = 4
    """Layers of the observation encoder, and of the VAE encoder."""
    dec_layers: int = 1
    """Layers of the decoder. The reference builds 7 and reads only the first: one is the same function."""
    decoder_output: Literal["last", "first", "all"] = "last"
    """Whose output the action head reads; "first" is the reference's and leaves later layers idle, "all" trains each
    layer's output (DETR's auxiliary losses) and deploys the last."""
    decoder_input: Literal["zeros", "queries"] = "zeros"
    """What the decoder starts from; "queries" also lets an action's place in the chunk pass by the residual path."""
    first_self_attention: bool = False
    """Self-attention in the first decoder layer, as the reference has; with nothing observed yet it is a constant."""
    pre_norm: bool = False
    """Normalise before each block instead of after it; give it decoder_input "queries", since zeros have no scale."""
    dropout: float = 0.1
    """Dropout in the transformers."""
    use_vae: bool = True
    """Train with a latent for the style of a demonstration, zero when deployed; scripted ones do without."""
    latent_dim: int = 32
    """Size of the latent."""
    kl_weight: float = 10.0
    """Weight of the latent's divergence from N(0, 1): higher means less information about the actions in the latent."""
    loss_function: Literal["l1", "l2", "l1+l2"] = "l1"
    """Error of the actions: absolute, square, or their sum."""
    loss_over: Literal["valid", "all"] = "valid"
    """Average the error over the rows that exist, or over all with the padded ones as zero error (reference)."""
    position_embedding: Literal["sine", "learned"] = "sine"
    """Positions in the feature maps: fixed waves, or an embedding for each of up to 50 rows and columns (DETR's)."""
    camera_embedding: bool = True
    """Add a camera embedding to each patch; without it, equal patches of two cameras cannot be distinguished."""
    is_pad_head: bool = False
    """Carry the reference's second head, which is in no loss there; for checkpoints that the reference should read."""
    is_pad_weight: float = 0.0
    """Weight of that head's cross-entropy, of which rows are past the episode's end; 0 leaves it untrained."""
    kl_details: bool = False
    """Log the latent's divergence also as the mean of its dimensions, and by dimension: near 0, it is not used."""
    distinct_init: bool = True
    """Start the VAE encoder's layers with weights of their own; the reference's are copies of one another."""

    @property
    def find_unused_parameters(self) -> bool:
        return (self.is_pad_head and not self.is_pad_weight) or (self.decoder_output == "first" and self.dec_layers > 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(
            1,
            dim_feedforward=self.dim_feedforward,
            nheads=self.nheads,
            enc_layers=self.enc_layers,
            dec_layers=self.dec_layers,
            latent_dim=self.latent_dim,
        )
        if self.hidden_dim < 4 or self.hidden_dim % 4 or self.hidden_dim % self.nheads:
            raise ValueError(
                Message(
                    "hidden_dim must be a multiple of 4 and of nheads ({nheads}), given {hidden_dim}",
                    nheads=self.nheads,
                    hidden_dim=self.hidden_dim,
                )
            )
        within("[0, 1)", dropout=self.dropout)
        if self.kl_weight < 0 or self.is_pad_weight < 0:
            raise ValueError(
                Message(
                    "kl_weight and is_pad_weight must not be negative, given {kl_weight} and {is_pad_weight}",
                    kl_weight=self.kl_weight,
                    is_pad_weight=self.is_pad_weight,
                )
            )
        if self.is_pad_weight and not self.is_pad_head:
            raise ValueError(
                Message("is_pad_weight {is_pad_weight} needs is_pad_head true", is_pad_weight=self.is_pad_weight)
            )


@dataclass(frozen=True)
class CnnMlpConfig(PolicyConfig):
    """The plain baseline: images through a ResNet, features and state through a perceptron."""

    network: ClassVar[str] = "aloha_kit.policies.cnnmlp:CnnMlpNetwork"

    chunk_size: int = 1
    """Actions predicted at once; the reference predicts one, with an inference at every step."""
    features: Literal["spatial_softmax", "convolutions"] = "spatial_softmax"
    """Expected place of each feature (Levine et al., 2016), or the reference's convolutions (map of 13x13 or more)."""
    keypoints: int = 32
    """Places tracked by the spatial softmax in each camera."""
    hidden_dim: int = 1024
    """Width of the perceptron."""
    hidden_layers: int = 2
    """Its hidden layers."""
    error: Literal["mse", "l1"] = "mse"
    """What is minimised."""
    share_backbone: bool = False
    """One ResNet for all cameras instead of one for each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(
            1,
            keypoints=self.keypoints,
            hidden_dim=self.hidden_dim,
            hidden_layers=self.hidden_layers,
        )


def policy_from_mapping(values: dict[str, Any], *, where: str = "policy configuration") -> PolicyConfig:
    """A policy configuration from plain values, with the family in `kind`.

    Raises:
        ConfigError: no or an unknown kind, an unknown key or a value of the wrong type.
    """
    rest = dict(values)
    if "kind" not in rest:
        raise ConfigError(
            "{where} has no kind. Known: {families}", where=where, families=", ".join(known("policies", FAMILIES))
        )
    try:
        family: type[PolicyConfig] = resolve("policies", str(rest.pop("kind")), FAMILIES, base=PolicyConfig)
    except ConfigError as error:
        raise ConfigError("{where}: kind: {error}", where=where, error=error) from error
    return from_mapping(family, rest, where=where)


def load_policy(name: str | Path, **overrides: Any) -> PolicyConfig:
    """A policy configuration by name (`act`, `act_cpu`, …) or path; `overrides` replace single keys.

    Raises:
        ConfigError: not found, not YAML, an unknown kind or key, a value of the wrong type.
    """
    path = find("policies", name)
    return policy_from_mapping({**read(path), **overrides}, where=str(path))
