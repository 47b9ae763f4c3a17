"""Image encoder: torchvision's ResNet blocks, cut to the depth and width that is wanted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn, Tensor
from torchvision.models import ResNet18_Weights, ResNet34_Weights, ResNet50_Weights
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops.misc import FrozenBatchNorm2d

from aloha_kit.config.policies import PolicyConfig
from aloha_kit.core import ConfigError, ContractError
from aloha_kit.core.lang import Message
from aloha_kit.data.batch import nearest
from aloha_kit.policies.normalise import ImageNormaliser

_BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}
_WEIGHTS = {
    "resnet18": ResNet18_Weights.IMAGENET1K_V1,
    "resnet34": ResNet34_Weights.IMAGENET1K_V1,
    "resnet50": ResNet50_Weights.IMAGENET1K_V1,
}
_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "frozen": FrozenBatchNorm2d,
    "batch": nn.BatchNorm2d,
    "group": lambda channels: nn.GroupNorm(channels // 16, channels),
}


class _Block(BasicBlock):  # type: ignore[misc]
    """Torchvision's block in fewer passes over the maps."""

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(_convolved(x, self.conv1, self.bn1), inplace=True)
        out = _convolved(out, self.conv2, self.bn2)
        if self.downsample is not None:
            x = _convolved(x, *self.downsample)
        return F.relu(out + x, inplace=True)


class _Bottleneck(Bottleneck):  # type: ignore[misc]
    """Bottleneck block: as `_Block`, of three convolutions."""

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(_convolved(x, self.conv1, self.bn1), inplace=True)
        out = F.relu(_convolved(out, self.conv2, self.bn2), inplace=True)
        out = _convolved(out, self.conv3, self.bn3)
        if self.downsample is not None:
            x = _convolved(x, *self.downsample)
        return F.relu(out + x, inplace=True)


def _convolved(x: Tensor, convolution: nn.Conv2d, norm: nn.Module) -> Tensor:
    """Convolution and normalisation; a frozen one is a scale of the weights and a bias, gradients included."""
    if not isinstance(norm, FrozenBatchNorm2d):
        return cast(Tensor, norm(convolution(x)))
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    weight, bias = convolution.weight * scale.view(-1, 1, 1, 1), norm.bias - norm.running_mean * scale
    return F.conv2d(x, weight, bias, convolution.stride, convolution.padding, convolution.dilation)


class ResNetTrunk(nn.Module):
    """(N, inputs, H, W) to (N, channels, H / stride, W / stride), sizes rounded up. Names are torchvision's.

    Built from torchvision's blocks rather than its `ResNet`, whose width is fixed and whose later
    stages would be made only to be discarded.
    """

    def __init__(self, config: PolicyConfig, inputs: int = 3) -> None:
        super().__init__()
        norm, width = _NORMS[config.backbone_norm], config.backbone_width
        self.conv1 = nn.Conv2d(inputs, width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = norm(width)
        channels = width
        make = _Bottleneck if config.backbone == "resnet50" else _Block
        self.halvings = 1 + config.backbone_layers - config.dilation  # after the first convolution
        for stage in range(config.backbone_layers):
            planes = width * 2**stage
            out = planes * make.expansion
            dilated = config.dilation and stage == 3
            stride = 1 if stage == 0 or dilated else 2
            blocks = []
            for block in range(_BLOCKS[config.backbone][stage]):
                step = stride if block == 0 else 1
                shortcut = None
                if step != 1 or channels != out:
                    shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride=step, bias=False), norm(out))
                dilation = 2 if dilated and block > 0 else 1  # the first block keeps the map's spacing before it
                # at base_width 64, the default, planes alone decide the size of every convolution
                blocks.append(make(channels, planes, step, shortcut, dilation=dilation, norm_layer=norm))
                channels = out
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.channels = channels
        self.stages = config.backbone_layers
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        # the largest of the positive is the positive part of the largest, of which there are a quarter as many
        x = F.relu(
            F.max_pool2d(_convolved(image, self.conv1, self.bn1), kernel_size=3, stride=2, padding=1), inplace=True
        )
        for stage in range(self.stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return x

    def map_size(self, height: int, width: int) -> tuple[int, int]:
        """Size of the map of an image: every step of stride 2 halves and rounds up."""
        for _ in range(self.halvings):
            height, width = (height + 1) // 2, (width + 1) // 2
        return height, width


def center_crop(images: Tensor, height: int, width: int) -> Tensor:
    """The middle of (B, C, H, W) images: (B, C, height, width)."""
    top, left = (images.shape[-2] - height) // 2, (images.shape[-1] - width) // 2
    return images[..., top : top + height, left : left + width]


def random_crop(images: Tensor, height: int, width: int) -> Tensor:
    """A part of each of (B, C, H, W) images at a place of its own: (B, C, height, width)."""
    count, channels, rows, columns = images.shape
    top = torch.randint(rows - height + 1, (count, 1), device=images.device)
    left = torch.randint(columns - width + 1, (count, 1), device=images.device)
    y = top + torch.arange(height, device=images.device)  # (B, height)
    x = left + torch.arange(width, device=images.device)
    picked = torch.arange(count, device=images.device).view(-1, 1, 1, 1)
    return images[
        picked, torch.arange(channels, device=images.device).view(-1, 1, 1), y[:, None, :, None], x[:, None, None]
    ]


def _cropped(size: tuple[int, int], share: float) -> tuple[int, int]:
    height, width = (max(1, round(share * side)) for side in size)
    return height, width


class ImageEncoder(nn.Module):
    """Every camera's image to its feature map: resize, crop, normalise, ResNet (one for all cameras or one each).

    Depth is a fourth channel: m / depth_max_m up to 1, and -1 where nothing was measured. So is all of it, for a camera
    without depth whose ResNet is shared with one that has it.

    Attributes:
        channels: of a camera's map, those of all `n_obs_steps` side by side.
        map_sizes: (height, width) of each camera's map, in the order of `cameras`.
    """

    def __init__(
        self,
        config: PolicyConfig,
        cameras: Mapping[str, tuple[int, int]],
        depth: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        """`cameras` and `depth`, of some of them: {name: recorded (height, width)}."""
        super().__init__()
        self.cameras = tuple(cameras)
        self.recorded = dict(cameras)
        self.sizes = {name: config.image_size or size for name, size in cameras.items()}
        self.crops = {name: _cropped(size, config.image_crop) for name, size in self.sizes.items()}
        self.depth, self.depth_max_mm = dict(depth or {}), 1000 * config.depth_max_m
        self.normalise = ImageNormaliser()
        with_depth = [bool(self.depth)] if config.share_backbone else [name in self.depth for name in self.cameras]
        self.backbones = nn.ModuleList(ResNetTrunk(config, inputs=3 + further) for further in with_depth)
        self.channels = config.window * self._trunk(0).channels
        self.map_sizes = [self._trunk(0).map_size(*self.crops[name]) for name in self.cameras]

    def forward(self, images: Mapping[str, Tensor], depth: Mapping[str, Tensor] | None = None) -> list[Tensor]:
        """{camera: (B, 3, H, W) uint8 or float in [0, 1]} to one (B, channels, h, w) a camera.

        Args:
            depth: {camera: (B, 1, H, W)} mm, 0 where nothing was measured, of the cameras whose depth is read.

        Raises:
            ContractError: a camera or its depth is missing, or neither of the recorded size nor `image_size`.
        """
        ready = [self._prepare(name, images, depth or {}) for name in self.cameras]
        if len(self.backbones) > 1:
            return [backbone(image) for backbone, image in zip(self.backbones, ready, strict=True)]
        if len(set(self.crops.values())) > 1:
            return [self.backbones[0](image) for image in ready]
        together = self.backbones[0](torch.cat(ready))  # one pass keeps the device busy
        return list(together.split([image.shape[0] for image in ready]))

    def rename(self, names: Mapping[str, str]) -> None:
        """Read cameras under other names, {old: new}; their order stays."""
        self.cameras = tuple(names.get(name, name) for name in self.cameras)
        self.recorded = {names.get(name, name): size for name, size in self.recorded.items()}
        self.sizes = {names.get(name, name): size for name, size in self.sizes.items()}
        self.crops = {names.get(name, name): size for name, size in self.crops.items()}
        self.depth = {names.get(name, name): size for name, size in self.depth.items()}

    def _prepare(self, name: str, images: Mapping[str, Tensor], depth: Mapping[str, Tensor]) -> Tensor:
        if name not in images:
            raise ContractError(
                "camera '{name}' is missing; there are: {there}",
                name=name,
                there=", ".join(images) or Message("(none)"),
            )
        image, size = images[name], self.sizes[name]
        given = tuple(image.shape[-2:])
        if given not in {size, self.recorded[name]} or image.shape[-3] != 3:
            raise ContractError(
                "camera '{name}' must be (B, 3, {recorded_height}, {recorded_width}) as recorded or (B, 3, "
                "{height}, {width}), given {shape}",
                name=name,
                recorded_height=self.recorded[name][0],
                recorded_width=self.recorded[name][1],
                height=size[0],
                width=size[1],
                shape=tuple(image.shape),
            )
        image = self.normalise(image)
        if given != size:
            image = F.interpolate(image, size=list(size), mode="bilinear", antialias=True, align_corners=False)
        if name in self.depth or (self.depth and len(self.backbones) == 1):
            image = torch.cat([image, self._depth_channel(name, image, depth)], dim=1)
        if self.crops[name] != size:
            image = (random_crop if self.training else center_crop)(image, *self.crops[name])
        return image.contiguous(memory_format=torch.channels_last)

    def _depth_channel(self, name: str, image: Tensor, depth: Mapping[str, Tensor]) -> Tensor:
        """(B, 1, height, width) of the size of the camera's image."""
        if name not in self.depth:
            return torch.full_like(image[:, :1], -1)
        if name not in depth:
            raise ContractError(
                "depth of camera '{name}' is missing; there are: {there}",
                name=name,
                there=", ".join(depth) or Message("(none)"),
            )
        given, size = tuple(depth[name].shape[-2:]), self.sizes[name]
        if given not in {size, self.depth[name]} or depth[name].shape[-3] != 1:
            raise ContractError(
                "depth of camera '{name}' must be (B, 1, {recorded_height}, {recorded_width}) as recorded or (B, "
                "1, {height}, {width}), given {shape}",
                name=name,
                recorded_height=self.depth[name][0],
                recorded_width=self.depth[name][1],
                height=size[0],
                width=size[1],
                shape=tuple(depth[name].shape),
            )
        values = nearest(depth[name], size)
        return torch.where(values > 0, (values / self.depth_max_mm).clamp(max=1), -1)

    def _trunk(self, index: int) -> ResNetTrunk:
        return cast(ResNetTrunk, self.backbones[index])

    def load_pretrained(self, name: str) -> None:
        """Fill every backbone with torchvision's ImageNet weights; they are downloaded once and cached.

        Raises:
            ConfigError: they are neither on this machine nor downloadable; names the file and its folder.
        """
        weights = _WEIGHTS[name]
        file = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[-1]
        try:
            state = weights.get_state_dict(progress=True, check_hash=True)
        except (OSError, RuntimeError) as error:  # no network, or a download cut short
            raise ConfigError(
                "cannot fetch the pretrained weights of {name} ({error}). Put {url} at {file}, or train from "
                "scratch: --no-pretrained-backbone --backbone-norm group",
                name=name,
                error=error,
                url=weights.url,
                file=file,
            ) from error
        for backbone in self.backbones:
            own = backbone.state_dict()
            known = {key: value for key, value in state.items() if key in own}
            if further := own["conv1.weight"].shape[1] - 3:  # depth: it has no effect until it is trained
                known["conv1.weight"] = F.pad(known["conv1.weight"], (0, 0, 0, 0, 0, further))
            backbone.load_state_dict(known)
