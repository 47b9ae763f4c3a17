"""Diffusion Policy: action chunks by denoising diffusion (Chi et al., 2023; Ho et al., 2020; Song et al., 2021)."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from aloha_kit.config.denoising import DiffusionConfig
from aloha_kit.core import Contract
from aloha_kit.data.batch import Batch
from aloha_kit.data.stats import Statistics
from aloha_kit.policies.denoising import DenoisingNetwork
from aloha_kit.policies.generator import BatchGenerator


class DiffusionNetwork(DenoisingNetwork):
    """Diffusion Policy network, see the module; every choice is in `DiffusionConfig`."""

    samples = True
    config: DiffusionConfig

    def __init__(self, config: DiffusionConfig, contract: Contract, stats: Statistics) -> None:
        super().__init__(config, contract, stats)
        # DDPM is DDIM with eta 1 over all steps, and a DDIM step takes its noise from outside
        self._stochastic = config.sampler == "ddpm"
        scheduler: Any = DDIMScheduler  # untyped
        self.scheduler = scheduler(
            num_train_timesteps=config.diffusion_steps,
            beta_schedule=config.beta_schedule,
            prediction_type=config.prediction_type,
            clip_sample=config.clip_sample,
        )
        self.scheduler.set_timesteps(config.diffusion_steps if self._stochastic else config.inference_steps)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`loss` = `mse`, of the noise (or of the clean chunk) at a random noise level of each sample."""
        clean = self.clean_chunk(batch)
        noise = torch.randn_like(clean)
        level = torch.randint(self.config.diffusion_steps, (len(clean),), device=clean.device)
        predicted = self._predicted(self.scheduler.add_noise(clean, noise, level), level, self.condition(batch))
        target = noise if self.config.prediction_type == "epsilon" else clean
        loss = self.mean_square(predicted - target, batch)
        return {"loss": loss, "mse": loss.detach()}

    def predict(self, batch: Batch, generator: BatchGenerator | None = None) -> Tensor:
        generator = generator or self.default_generator(batch)
        condition = self.condition(batch)
        chunk = generator.normal(self.chunk_size, self.action_dim).to(condition.device)
        for level in self.scheduler.timesteps.tolist():
            predicted = self._predicted(chunk, torch.full((chunk.shape[0],), level, device=chunk.device), condition)
            chunk = self._less_noisy(predicted.float(), level, chunk, generator)
        return self.normaliser.undo("action", chunk)

    def _less_noisy(self, predicted: Tensor, level: int, chunk: Tensor, generator: BatchGenerator) -> Tensor:
        """The chunk at the next lower level."""
        if self._stochastic and level > 0:
            noise = generator.normal(self.chunk_size, self.action_dim).to(chunk.device)
            ddpm = {"eta": 1.0, "use_clipped_model_output": True, "variance_noise": noise}
        else:
            ddpm = {}
        out: Tensor = self.scheduler.step(predicted, level, chunk, **ddpm).prev_sample
        return out

    def _predicted(self, chunk: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        """The network's output at whole noise levels, scaled to its time of [0, 100]."""
        return self.denoise(chunk, level * (100 / self.config.diffusion_steps), condition)
