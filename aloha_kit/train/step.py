"""One optimiser step: gradients of a batch in pieces, update of the weights, update of their average."""

from __future__ import annotations

import logging
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
from aloha_kit.train.distributed import Distributed
from aloha_kit.train.optim import AveragedWeights, build_optimiser

LOG = logging.getLogger(__name__)
BACKEND = "inductor"  # of torch.compile
DTYPES = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Losses(nn.Module):
    """A network's losses as a module's forward, as DistributedDataParallel needs it."""

    def __init__(self, network: ChunkNetwork) -> None:
        super().__init__()
        self.network = network
        # or its compiled form, which as no part of the module changes no weight's name
        self.compute: Callable[[Batch], dict[str, Tensor]] = network.losses

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.compute(batch)


class TrainingStep:
    """Network, optimiser and averaged weights, and the step that updates them; `state` gives all of it.

    What a step draws (augmentation, dropout, latents) is a function of the seed and its number, so no generator's
    state is saved. Augmentation is drawn for the whole batch, so it does not depend on pieces and processes either.
    """

    def __init__(self, network: ChunkNetwork, config: TrainConfig, world: Distributed) -> None:
        self.network, self.config, self.world = network, config, world
        self.device = next(network.parameters()).device
        self.optimiser = build_optimiser(network, config)
        self.averaged = AveragedWeights(network, config.ema, config.ema_power) if config.ema else None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.amp == "fp16")
        self._augment = augmentation(config) if config.augment else None
        self._losses = Losses(network)
        self._wrapped = world.wrap_ddp(
            self._losses, self.device, find_unused_parameters=network.config.find_unused_parameters
        )
        self._to_compile = config.compile

    def __call__(self, batch: Batch, number: int, factor: float) -> tuple[dict[str, Tensor], Tensor]:
        """Do step `number` with `factor` times the full learning rate.

        Returns the losses of the whole batch and the gradient's norm, on their device.
        """
        if self._to_compile:
            self._compile(next(self.pieces(batch, number)))
        torch.manual_seed(seed_of(self.config.seed, number, self.world.rank))
        for group in self.optimiser.param_groups:
            group["lr"] = group["base_lr"] * factor
        self.optimiser.zero_grad()
        losses = self.gradients(batch, number)
        self.scaler.unscale_(self.optimiser)
        norm = self._clip()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if self.averaged:
            self.averaged.update(self.network)
        return losses, self._reported(norm)

    def pieces(self, batch: Batch, number: int) -> Iterator[Batch]:
        """Pieces of this process's share of a batch, on the device and augmented."""
        count, world = self.config.accumulate, self.world
        for part, piece in enumerate(split(batch, count), start=world.rank * count):
            moved = to_device(piece, str(self.device))
            yield self._augment(moved, number, part=part, parts=world.size * count) if self._augment else moved

    def gradients(self, batch: Batch, number: int) -> dict[str, Tensor]:
        """Add the gradients of the whole batch to the parameters; returns its losses.

        Pieces are equal in size and hold the number of rows of the whole batch, so that the mean over them is exact.
        """
        count = self.config.accumulate
        parts: list[dict[str, Tensor]] = []
        for piece in self.pieces(batch, number):
            with self._exchange(len(parts) == count - 1):
                with self.autocast():
                    losses = self._wrapped(piece)
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
            group.update({key: new[key] for key in ("base_lr", "betas", "weight_decay")})  # these may be changed
        if self.averaged:
            # averaging that begins with this session starts from the weights as they are
            self.averaged.network.load_state_dict(state["averaged"] or state["network"])
            self.averaged.updates = state["averaged_updates"]
        if state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])

    def _clip(self) -> Tensor:
        """Norm of the gradients as they were; beyond `grad_clip` they are scaled down to it."""
        parameters = list(self.network.parameters())
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        limit = self.config.grad_clip or torch.inf
        # a GPU is not waited for: there they are multiplied by 1
        if self.device.type != "cpu" or not bool(norm + 1e-6 <= limit):
            torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        return norm

    def _exchange(self, wanted: bool) -> AbstractContextManager[None]:
        """Average gradients over the processes inside, or only add them up in this one."""
        if wanted or not isinstance(self._wrapped, DistributedDataParallel):
            return nullcontext()
        return self._wrapped.no_sync()

    def _reported(self, norm: Tensor) -> Tensor:
        """The gradient's norm for the log: 0 where fp16 skipped a step whose scaled gradients overflow.

        Only where a scale below 1 would be needed is the gradient itself not finite.
        """
        if not self.scaler.is_enabled():
            return norm
        scale = self.scaler.scale(torch.ones_like(norm))
        return torch.where(norm.isfinite() | (scale < 1), norm, 0.0)

    def _compile(self, piece: Batch) -> None:
        """Compile the losses; where that fails in any process, all go on without."""
        self._to_compile = False
        fast, why = compiled(self.network, piece, self.autocast())
        if self.world.total(float(why != ""))[0]:
            LOG.warning("--compile: training goes on uncompiled, since %s", why or "it failed in another process")
        else:
            self._losses.compute = fast


def compiled(
    network: ChunkNetwork, example: Batch, autocast: torch.autocast
) -> tuple[Callable[[Batch], dict[str, Tensor]], str]:
    """The losses compiled by torch.compile and an empty text; or as they are, and why they cannot be compiled.

    Reasons are a missing C++ compiler or Triton, and operations that the compiler lacks. It is tried forward and
    backward on a batch, since either may fail; weights, gradients and statistics are restored.
    """
    fast = torch.compile(network.losses, backend=BACKEND, dynamic=False)
    saved = [buffer.clone() for buffer in network.buffers()]
    try:
        with autocast:
            loss = fast(example)["loss"]
        torch.autograd.grad(loss, [p for p in network.parameters() if p.requires_grad], allow_unused=True)
    except Exception as error:  # whatever a compiler may raise
        return network.losses, " ".join(str(error).partition("\n\n")[0].split())
    finally:
        for buffer, before in zip(network.buffers(), saved, strict=True):
            buffer.copy_(before)
    return fast, ""


def augmentation(config: TrainConfig) -> Augment:
    """Augmentation by a training's amounts and seed."""
    return Augment(
        crop=config.augment_crop,
        shift=config.augment_shift,
        rotate_deg=config.augment_rotate_deg,
        brightness=config.augment_brightness,
        contrast=config.augment_contrast,
        saturation=config.augment_saturation,
        seed=config.seed,
    )


def seed_of(*numbers: int) -> int:
    """One seed from several numbers, the same in every process and on every day."""
    return hash(numbers) & 0x7FFF_FFFF_FFFF_FFFF
