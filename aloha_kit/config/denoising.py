"""Configurations of the families that denoise a chunk of actions: diffusion, flow matching, two-step regression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from aloha_kit.config.keypoints import KeypointConfig
from aloha_kit.core.lang import Message
from aloha_kit.core.value_checks import at_least, within


@dataclass(frozen=True)
class DenoisingConfig(KeypointConfig):
    """A conditional network over chunks of actions; the defaults are those of Diffusion Policy (Chi et al., 2023)."""

    chunk_size: int = 16
    """Actions predicted at once; for the U-Net a multiple of 2 for each downsampling (4 with three levels)."""
    n_action_steps: int | None = 8
    """Actions of a chunk that deployment and evaluation execute before the next inference (none: all of them), unless
    their flag of this name is given; at most chunk_size."""
    n_obs_steps: int = 2
    """Steps of observation that are read, the present one included; at an episode's start the first is repeated."""
    denoiser: Literal["unet", "transformer"] = "unet"
    """The network: a 1-D U-Net, or a transformer decoder that attends to the observations."""
    down_dims: tuple[int, ...] = (256, 512, 1024)
    """Channels of the U-Net's levels; each a multiple of n_groups."""
    kernel_size: int = 5
    """Width of the convolutions over time; odd."""
    n_groups: int = 8
    """Groups of the group normalisation in the U-Net."""
    time_embedding: int = 256
    """Size of the embedding of the denoising time in the U-Net; even."""
    transformer_layers: int = 8
    """Layers of the transformer."""
    transformer_heads: int = 4
    """Its attention heads."""
    transformer_size: int = 256
    """Size of its tokens; a multiple of transformer_heads, and even."""
    transformer_dropout: float = 0.3
    """Its dropout, in attention and feed-forward blocks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, n_groups=self.n_groups, kernel_size=self.kernel_size)
        at_least(4, time_embedding=self.time_embedding)
        if self.time_embedding % 2:
            raise ValueError(
                Message("time_embedding must be even, given {time_embedding}", time_embedding=self.time_embedding)
            )
        if not self.kernel_size % 2:
            raise ValueError(Message("kernel_size must be odd, given {kernel_size}", kernel_size=self.kernel_size))
        if not self.down_dims or any(width < 1 or width % self.n_groups for width in self.down_dims):
            raise ValueError(
                Message(
                    "down_dims must be multiples of n_groups ({n_groups}), given {down_dims}",
                    n_groups=self.n_groups,
                    down_dims=list(self.down_dims),
                )
            )
        at_least(1, transformer_layers=self.transformer_layers, transformer_heads=self.transformer_heads)
        if self.transformer_size < 4 or self.transformer_size % 2 or self.transformer_size % self.transformer_heads:
            raise ValueError(
                Message(
                    "transformer_size must be even and a multiple of transformer_heads ({transformer_heads}), given "
                    "{transformer_size}",
                    transformer_heads=self.transformer_heads,
                    transformer_size=self.transformer_size,
                )
            )
        within("[0, 1)", transformer_dropout=self.transformer_dropout)
        multiple = 2 ** (len(self.down_dims) - 1)
        if self.denoiser == "unet" and self.chunk_size % multiple:
            raise ValueError(
                Message(
                    "chunk_size must be a multiple of {multiple} with {count} levels of down_dims, given {chunk_size}",
                    multiple=multiple,
                    count=len(self.down_dims),
                    chunk_size=self.chunk_size,
                )
            )


@dataclass(frozen=True)
class DiffusionConfig(DenoisingConfig):
    """Diffusion Policy (Chi et al., 2023): a denoising diffusion model of action chunks."""

    network: ClassVar[str] = "aloha_kit.policies.diffusion:DiffusionNetwork"

    diffusion_steps: int = 100
    """Noise levels of training."""
    beta_schedule: Literal["squaredcos_cap_v2", "linear", "scaled_linear"] = "squaredcos_cap_v2"
    """Noise schedule, by its name in diffusers."""
    prediction_type: Literal["epsilon", "sample"] = "epsilon"
    """What the network predicts: the noise, or the clean chunk."""
    clip_sample: bool = True
    """Clip the predicted clean chunk to [-1, 1] at each step of sampling; needs normalisation min_max_11."""
    sampler: Literal["ddim", "ddpm"] = "ddim"
    """DDIM takes inference_steps, DDPM all diffusion_steps."""
    inference_steps: int = 10
    """Steps of DDIM for one chunk, each a pass through the network."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, inference_steps=self.inference_steps, diffusion_steps=self.diffusion_steps)
        if self.inference_steps > self.diffusion_steps:
            raise ValueError(
                Message(
                    "inference_steps must be at most diffusion_steps ({diffusion_steps}), given {inference_steps}",
                    diffusion_steps=self.diffusion_steps,
                    inference_steps=self.inference_steps,
                )
            )
        if self.clip_sample and self.normalisation != "min_max_11":
            raise ValueError(
                Message(
                    "clip_sample clips to [-1, 1] and needs normalisation min_max_11, given {normalisation}",
                    normalisation=self.normalisation,
                )
            )


@dataclass(frozen=True)
class FlowConfig(DenoisingConfig):
    """Flow matching (Lipman et al., 2023): a velocity field that carries noise to action chunks."""

    network: ClassVar[str] = "aloha_kit.policies.flow:FlowNetwork"

    prediction_type: Literal["velocity", "sample"] = "velocity"
    """What the network predicts: the velocity, or the clean chunk, which gives the velocity. A narrow network is better
    at the clean chunk (train/TUNING.md)."""
    inference_steps: int = 5
    """Euler steps of the integration, each a pass through the network."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, inference_steps=self.inference_steps)


@dataclass(frozen=True)
class MipConfig(DenoisingConfig):
    """Minimal iterative policy (Pan et al., 2025): two regressions, the second from a noisy chunk. Draws no numbers."""

    network: ClassVar[str] = "aloha_kit.policies.flow:MipNetwork"

    second_time: float = 0.9
    """Denoising time of the second pass, in (0, 1); its training input has noise of 1 - second_time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        within("(0, 1)", second_time=self.second_time)
