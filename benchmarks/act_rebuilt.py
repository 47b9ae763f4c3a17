"""ACT rebuilt in plain torch.nn from its description: the published program is in no package index, and LeRobot cannot
be installed everywhere.

What costs time is as in the originals: attention that also returns its weights, normalisation apart from the
convolutions, cameras one after the other, positions made anew at every step. The published ACT computes seven decoder
layers of which the first is read, LeRobot's one. Needs only torch and torchvision.
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn, Tensor
from torchvision.models import resnet18
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops.misc import FrozenBatchNorm2d

JOINTS, CHUNK, WIDTH, HEADS, FEED_FORWARD, LATENT = 14, 100, 512, 8, 3200, 32
ENCODERS = 4
DECODERS = {"published": 7, "lerobot": 1}


class Layer(nn.Module):
    """Attention and feed-forward, normalised after each; a decoder's layer also attends to a memory."""

    def __init__(self, decoder: bool = False) -> None:
        super().__init__()
        self.attention = nn.ModuleList(nn.MultiheadAttention(WIDTH, HEADS, dropout=0.1) for _ in range(1 + decoder))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2 + decoder))
        self.wide, self.back = nn.Linear(WIDTH, FEED_FORWARD), nn.Linear(FEED_FORWARD, WIDTH)

    def forward(
        self, x: Tensor, place: Tensor, memory: tuple[Tensor, Tensor] | None = None, padding: Tensor | None = None
    ) -> Tensor:
        """(L, B, 512) tokens; positions are added to queries and keys only."""
        drop = partial(F.dropout, p=0.1, training=self.training)
        for number, (attention, norm) in enumerate(zip(self.attention, self.norms, strict=False)):
            there, where = (x, place) if number == 0 or memory is None else memory
            x = norm(x + drop(attention(x + place, there + where, there, key_padding_mask=padding)[0]))
        normed: Tensor = self.norms[-1](x + drop(self.back(drop(F.relu(self.wide(x))))))
        return normed


class RebuiltAct(nn.Module):
    """The network and its loss.

    Args:
        decoders: layers of the decoder; the first one's output is read, whatever their number.
    """

    def __init__(self, decoders: int) -> None:
        super().__init__()
        trunk = resnet18(weights=None, norm_layer=FrozenBatchNorm2d)
        self.backbone = create_feature_extractor(trunk, {"layer4": "map"})
        self.project = nn.Conv2d(512, WIDTH, 1)
        self.posterior_layers = nn.ModuleList(Layer() for _ in range(ENCODERS))
        self.encoder = nn.ModuleList(Layer() for _ in range(ENCODERS))
        self.decoder = nn.ModuleList(Layer(decoder=True) for _ in range(decoders))
        self.norm = nn.LayerNorm(WIDTH)
        self.queries, self.cls = nn.Embedding(CHUNK, WIDTH), nn.Embedding(1, WIDTH)
        self.extra = nn.Embedding(2, WIDTH)
        self.joints, self.posterior_joints, self.posterior_actions = (nn.Linear(JOINTS, WIDTH) for _ in range(3))
        self.to_latent, self.from_latent = nn.Linear(WIDTH, 2 * LATENT), nn.Linear(LATENT, WIDTH)
        self.action, self.is_pad = nn.Linear(WIDTH, JOINTS), nn.Linear(WIDTH, 1)

    def forward(self, qpos: Tensor, images: Tensor, actions: Tensor, is_pad: Tensor) -> Tensor:
        """The loss of (B, 14), (B, cameras, 3, H, W) normalised, (B, 100, 14) and (B, 100)."""
        mean, log_variance = self.posterior(qpos, actions, is_pad).tensor_split(2, dim=1)
        predicted = self.predict(qpos, images, mean + torch.exp(log_variance / 2) * torch.randn_like(mean))
        error = (F.l1_loss(predicted, actions, reduction="none") * ~is_pad[..., None]).mean()
        divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1).mean()
        return error + 10 * divergence

    def predict(self, qpos: Tensor, images: Tensor, latent: Tensor) -> Tensor:
        """(B, 100, 14) actions for a latent (B, 32), which is zero at inference."""
        maps = torch.cat([self.project(self.backbone(image)["map"]) for image in images.unbind(1)], dim=3)
        place = torch.cat([self.extra.weight, image_positions(maps.shape[2], maps.shape[3], qpos.device)])[:, None]
        memory = torch.cat(
            [torch.stack([self.from_latent(latent), self.joints(qpos)]), maps.flatten(2).permute(2, 0, 1)]
        )
        for layer in self.encoder:
            memory = layer(memory, place)
        x, where = torch.zeros(CHUNK, len(qpos), WIDTH, device=qpos.device), self.queries.weight[:, None]
        outputs = []
        for layer in self.decoder:
            x = layer(x, where, (memory, place))
            outputs.append(self.norm(x))
        read = torch.stack(outputs)[0].transpose(0, 1)
        predicted: Tensor = self.action(read)
        self.is_pad(read)
        return predicted

    def posterior(self, qpos: Tensor, actions: Tensor, is_pad: Tensor) -> Tensor:
        """(B, 64) mean and log-variance of the latent."""
        cls = self.cls.weight.expand(len(qpos), -1)[None]
        tokens = torch.cat([cls, self.posterior_joints(qpos)[None], self.posterior_actions(actions).transpose(0, 1)])
        place = sines(torch.arange(len(tokens), device=qpos.device), WIDTH)[:, None]
        padding = torch.cat([torch.zeros_like(is_pad[:, :2]), is_pad], dim=1)
        for layer in self.posterior_layers:
            tokens = layer(tokens, place, padding=padding)
        moments: Tensor = self.to_latent(tokens[0])
        return moments


def sines(place: Tensor, dim: int) -> Tensor:
    """(N,) places to (N, dim)."""
    pair = torch.arange(dim, device=place.device) // 2
    angle = place[:, None] / 10000 ** (2 * pair / dim)
    return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=2).flatten(1)


def image_positions(height: int, width: int, device: torch.device) -> Tensor:
    """(H W, 512): rows in one half, columns in the other."""
    down, along = (torch.arange(1, n + 1, device=device) / n * 2 * math.pi for n in (height, width))
    rows = sines(down, WIDTH // 2)[:, None].expand(height, width, -1)
    columns = sines(along, WIDTH // 2)[None].expand(height, width, -1)
    return torch.cat([rows, columns], dim=2).flatten(0, 1)


class LerobotStep:
    """A training step as LeRobot's training script does it, on its ACT rebuilt: losses read and gradients clipped at
    every step; on a GPU TF32 and cuDNN's own choice of kernels, and where wanted its AMP."""

    def __init__(self, device: str, amp: bool) -> None:
        as_lerobot_sets(device)
        self.network = RebuiltAct(DECODERS["lerobot"]).to(device).train()
        self._device, self._amp, self._half = device, amp, torch.get_autocast_dtype(device)
        self._optimiser = torch.optim.AdamW(self.network.parameters(), lr=1e-5, weight_decay=1e-4)
        self._scaler = torch.amp.GradScaler(device, enabled=amp and self._half == torch.float16)

    def __call__(self, qpos: Tensor, images: Tensor, actions: Tensor, is_pad: Tensor) -> None:
        with torch.autocast(self._device, self._half, enabled=self._amp):
            loss = self.network(qpos, images, actions, is_pad)
        loss.item()
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self._optimiser)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 10.0)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self._optimiser.zero_grad()


def as_lerobot_sets(device: str) -> None:
    """What LeRobot's scripts set on a GPU."""
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = True


def samples(batch: int, cameras: int, height: int, width: int, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random joints, normalised images, actions and padding."""
    given = (
        torch.randn(batch, JOINTS),
        torch.randn(batch, cameras, 3, height, width),
        torch.randn(batch, CHUNK, JOINTS),
        torch.zeros(batch, CHUNK, dtype=torch.bool),
    )
    joints, images, actions, is_pad = (values.to(device) for values in given)
    return joints, images, actions, is_pad
