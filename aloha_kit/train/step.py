"""One optimiser step: a batch in pieces to gradients, gradients to weights, weights to their average."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn, Tensor
from torch.nn.parallel import DistributedDataParallel

from aloha_kit.config.training import TrainConfig
from aloha_kit.data.augment import Augment
from aloha_kit.data.batch import Batch, split, to_device
from aloha_kit.policies.network import ChunkNetwork
from aloha_kit.train.compiling import compiled
from aloha_kit.train.distributed import Distributed
from aloha_kit.train.optim import AveragedWeights, build_optimiser

DTYPES = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Losses(nn.Module):
    """A network's losses as a module's forward, which is what can be spread over processes."""

    def __init__(self, network: ChunkNetwork) -> None:
        super().__init__()
        self.network = network
        # or its compiled form, which as no part of the module changes no weight's name
        self.compute: Callable[[Batch], dict[str, Tensor]] = network.losses

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.compute(batch)


class Step:
    """Holds all that changes from step to step; `state` gives it.

    What a step draws (augmentation, dropout, latents) is a function of the seed and its number, so nothing of it has
    to be kept. Augmentation is drawn for the whole batch, so it does not depend on pieces and processes either.
    """

    def __init__(self, network: ChunkNetwork, config: TrainConfig, world: Distributed) -> None:
        self.network, self.config, self.world = network, config, world
        self.device = next(network.parameters()).device
        self.optimiser = build_optimiser(network, config)
        self.averaged = AveragedWeights(network, config.ema) if config.ema else None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.amp == "fp16")
        self._augment = Augment(seed=config.seed) if config.augment else None
        self._losses = Losses(network)
        self._joined = world.wrap_ddp(self._losses, self.device, idle_parameters=network.config.find_unused_parameters)
        self._untried = config.compile

    def __call__(self, batch: Batch, number: int, factor: float) -> tuple[dict[str, Tensor], Tensor]:
        """Step `number` with this share of the full learning rate: losses of the whole batch and the gradient's norm,
        on their device."""
        if self._untried:
            self._compile(next(self.pieces(batch, number)))
        torch.manual_seed(seed_of(self.config.seed, number, self.world.rank))
        for group in self.optimiser.param_groups:
            group["lr"] = group["base_lr"] * factor
        self.optimiser.zero_grad()
        losses = self.gradients(batch, number)
        self.scaler.unscale_(self.optimiser)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.grad_clip or torch.inf)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if self.averaged:
            self.averaged.update(self.network)
        return losses, self._reported(norm)

    def pieces(self, batch: Batch, number: int) -> Iterator[Batch]:
        """This process's share of a batch, piece by piece, on the device and augmented."""
        count, world = self.config.accumulate, self.world
        for part, piece in enumerate(split(batch, count), start=world.rank * count):
            moved = to_device(piece, str(self.device))
            yield self._augment(moved, number, part=part, parts=world.size * count) if self._augment else moved

    def gradients(self, batch: Batch, number: int) -> dict[str, Tensor]:
        """Add the gradients of the whole batch to the parameters; its losses. Pieces are equal in size and know how
        many rows the whole batch has, so that the mean over them is exact."""
        count = self.config.accumulate
        parts: list[dict[str, Tensor]] = []
        for piece in self.pieces(batch, number):
            with self._exchange(len(parts) == count - 1):
                with self.autocast():
                    losses = self._joined(piece)
                self.scaler.scale(losses["loss"] / count).backward()
            parts.append({key: value.detach() for key, value in losses.items()})
        return self.world.mean({key: torch.stack([part[key] for part in parts]).mean() for key in parts[0]})

    def autocast(self) -> torch.autocast:
        """The number format of the forward pass; weights and optimiser stay fp32."""
        dtype = DTYPES[self.config.amp]
        return torch.autocast(self.device.type, dtype or torch.bfloat16, enabled=dtype is not None)

    def state(self) -> dict[str, Any]:
        """Weights, optimiser, averages, fp16's scale."""
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "averaged": self.averaged.network.state_dict() if self.averaged else None,
            "averaged_updates": self.averaged.updates if self.averaged else 0,
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`, with this session's learning rates, averaging and number format."""
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        fresh = build_optimiser(self.network, self.config).param_groups
        for group, new in zip(self.optimiser.param_groups, fresh, strict=True):
            group.update(base_lr=new["base_lr"], weight_decay=new["weight_decay"])  # these may be changed
        if self.averaged:
            # averaging that begins with this session starts from the weights as they are
            self.averaged.network.load_state_dict(state["averaged"] or state["network"])
            self.averaged.updates = state["averaged_updates"]
        if state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])

    def _exchange(self, wanted: bool) -> AbstractContextManager[None]:
        """Inside, gradients are averaged over the processes, or only added up here."""
        if wanted or not isinstance(self._joined, DistributedDataParallel):
            return nullcontext()
        return self._joined.no_sync()

    def _reported(self, norm: Tensor) -> Tensor:
        """fp16 leaves out steps whose gradients overflow, 0 in the log, and scales less; only where less than nothing
        would be needed is the gradient itself at fault."""
        if not self.scaler.is_enabled():
            return norm
        scale = self.scaler.scale(torch.ones_like(norm))
        return torch.where(norm.isfinite() | (scale < 1), norm, 0.0)

    def _compile(self, piece: Batch) -> None:
        """Have the losses compiled; where that fails in any process, all go on without."""
        self._untried = False
        fast, why = compiled(self.network, piece, self.autocast())
        if self.world.total(float(why != ""))[0]:
            print(f"--compile: training goes on uncompiled, since {why or 'it failed in another process'}")
        else:
            self._losses.compute = fast


def seed_of(*numbers: int) -> int:
    """One seed from several numbers, the same in every process and on every day."""
    return hash(numbers) & 0x7FFF_FFFF_FFFF_FFFF
