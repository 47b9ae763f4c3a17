"""The published ACT's side of `train_step.py`: its arithmetic rebuilt from plain torch.nn, as no index has the program.

What costs time is as published: seven decoder layers computed of which the first is read, attention that also returns
its weights, normalisation apart from the convolutions, cameras one after the other, positions made anew at every step,
PyTorch's default AdamW. Needs only torch and torchvision.
"""

from __future__ import annotations

import argparse
import json
import math

import torch
import torch.nn.functional as F
from stopwatch import timed
from torch import nn, Tensor
from torchvision.models import resnet18
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops.misc import FrozenBatchNorm2d

JOINTS, CHUNK, WIDTH, HEADS, FEED_FORWARD, LATENT = 14, 100, 512, 8, 3200, 32
ENCODERS, DECODERS = 4, 7
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


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
        for number, (attention, norm) in enumerate(zip(self.attention, self.norms, strict=False)):
            there, where = (x, place) if number == 0 or memory is None else memory
            x = norm(x + F.dropout(attention(x + place, there + where, there, key_padding_mask=padding)[0], 0.1))
        return self.norms[-1](x + F.dropout(self.back(F.dropout(F.relu(self.wide(x)), 0.1)), 0.1))


class Reference(nn.Module):
    """The network and its loss."""

    def __init__(self) -> None:
        super().__init__()
        trunk = resnet18(weights=None, norm_layer=FrozenBatchNorm2d)
        self.backbone = create_feature_extractor(trunk, {"layer4": "map"})
        self.project = nn.Conv2d(512, WIDTH, 1)
        self.styles = nn.ModuleList(Layer() for _ in range(ENCODERS))
        self.encoder = nn.ModuleList(Layer() for _ in range(ENCODERS))
        self.decoder = nn.ModuleList(Layer(decoder=True) for _ in range(DECODERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.queries, self.cls = nn.Embedding(CHUNK, WIDTH), nn.Embedding(1, WIDTH)
        self.extra = nn.Embedding(2, WIDTH)
        self.joints, self.style_joints, self.style_actions = (nn.Linear(JOINTS, WIDTH) for _ in range(3))
        self.to_latent, self.from_latent = nn.Linear(WIDTH, 2 * LATENT), nn.Linear(LATENT, WIDTH)
        self.action, self.is_pad = nn.Linear(WIDTH, JOINTS), nn.Linear(WIDTH, 1)

    def forward(self, qpos: Tensor, pictures: Tensor, actions: Tensor, is_pad: Tensor) -> Tensor:
        """The loss of (B, 14), (B, cameras, 3, H, W) in [0, 1], (B, 100, 14) and (B, 100)."""
        mean, log_variance = self.style(qpos, actions, is_pad).split(LATENT, dim=1)
        latent = self.from_latent(mean + torch.exp(log_variance / 2) * torch.randn_like(mean))
        pictures = (pictures - MEAN.to(qpos.device)[:, None, None]) / STD.to(qpos.device)[:, None, None]
        maps = torch.cat([self.project(self.backbone(picture)["map"]) for picture in pictures.unbind(1)], dim=3)
        sines = torch.cat([picture_places(*maps.shape[2:], qpos.device)])
        place = torch.cat([self.extra.weight, sines])[:, None]
        memory = torch.cat([torch.stack([latent, self.joints(qpos)]), maps.flatten(2).permute(2, 0, 1)])
        for layer in self.encoder:
            memory = layer(memory, place)
        x, where = torch.zeros(CHUNK, len(qpos), WIDTH, device=qpos.device), self.queries.weight[:, None]
        outputs = []
        for layer in self.decoder:
            x = layer(x, where, (memory, place))
            outputs.append(self.norm(x))
        read = torch.stack(outputs)[0].transpose(0, 1)
        predicted, _ = self.action(read), self.is_pad(read)
        error = (F.l1_loss(predicted, actions, reduction="none") * ~is_pad[..., None]).mean()
        divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1).mean()
        return error + 10 * divergence

    def style(self, qpos: Tensor, actions: Tensor, is_pad: Tensor) -> Tensor:
        """(B, 64) mean and log-variance of the latent."""
        cls = self.cls.weight.expand(len(qpos), -1)[None]
        tokens = torch.cat([cls, self.style_joints(qpos)[None], self.style_actions(actions).transpose(0, 1)])
        place = sines(torch.arange(len(tokens), device=qpos.device), WIDTH)[:, None]
        padding = torch.cat([torch.zeros_like(is_pad[:, :2]), is_pad], dim=1)
        for layer in self.styles:
            tokens = layer(tokens, place, padding=padding)
        return self.to_latent(tokens[0])


def sines(place: Tensor, dim: int) -> Tensor:
    """(N,) places to (N, dim)."""
    pair = torch.arange(dim, device=place.device) // 2
    angle = place[:, None] / 10000 ** (2 * pair / dim)
    return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=2).flatten(1)


def picture_places(height: int, width: int, device: torch.device) -> Tensor:
    """(H W, 512): rows in one half, columns in the other."""
    down, along = (torch.arange(1, n + 1, device=device) / n * 2 * math.pi for n in (height, width))
    rows = sines(down, WIDTH // 2)[:, None].expand(height, width, -1)
    columns = sines(along, WIDTH // 2)[None].expand(height, width, -1)
    return torch.cat([rows, columns], dim=2).flatten(0, 1)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("height", "width", "cameras", "batch", "steps"):
        parser.add_argument(name, type=int)
    parser.add_argument("device")
    args = parser.parse_args()
    torch.manual_seed(0)
    network = Reference().to(args.device).train()
    given = (
        torch.randn(args.batch, JOINTS),
        torch.rand(args.batch, args.cameras, 3, args.height, args.width),
        torch.randn(args.batch, CHUNK, JOINTS),
        torch.zeros(args.batch, CHUNK, dtype=torch.bool),
    )
    batch = [values.to(args.device) for values in given]
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-5, weight_decay=1e-4)

    def step() -> None:
        network(*batch).backward()
        optimiser.step()
        optimiser.zero_grad()

    result = timed(step, args.steps, args.device, warm_up=10 if args.device == "cuda" else 1)
    print(json.dumps({**result, "parameters": sum(p.numel() for p in network.parameters())}))


if __name__ == "__main__":
    main()
