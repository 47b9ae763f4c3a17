"""Action chunks by flow matching (Lipman et al., 2023), and by two regressions (Pan et al., 2025)."""

from __future__ import annotations

import torch
from torch import Tensor

from aloha_kit.config.denoising import FlowConfig, MipConfig
from aloha_kit.data.batch import Batch
from aloha_kit.policies.denoising import DenoisingNetwork
from aloha_kit.policies.generator import BatchGenerator


class FlowNetwork(DenoisingNetwork):
    """The network predicts the velocity (clean - noise) on the straight line from noise at time 0 to the chunk at 1."""

    samples = True
    config: FlowConfig

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`loss` = `mse`, of the velocity at a random time of each sample."""
        clean = self.clean_chunk(batch)
        noise = torch.randn_like(clean)
        time = torch.rand(len(clean), device=clean.device)
        velocity = self.denoise(torch.lerp(noise, clean, time.view(-1, 1, 1)), 100 * time, self.condition(batch))
        loss = self.mean_square(velocity - (clean - noise), batch)
        return {"loss": loss, "mse": loss.detach()}

    def predict(self, batch: Batch, generator: BatchGenerator | None = None) -> Tensor:
        """Integrate the velocity from noise by Euler steps of equal length."""
        generator = generator or self.default_generator(batch)
        condition, steps = self.condition(batch), self.config.inference_steps
        chunk = generator.normal(self.chunk_size, self.action_dim).to(condition.device)
        for step in range(steps):
            time = torch.full((chunk.shape[0],), 100 * step / steps, device=chunk.device)
            chunk = chunk + self.denoise(chunk, time, condition).float() / steps
        return self.normaliser.undo("action", chunk)


class MipNetwork(DenoisingNetwork):
    """Two passes: a regression of the chunk from zeros, and one from the chunk with a little noise.

    Both are trained on the demonstrations' chunk. At inference the second pass refines what the first predicts.
    """

    loss_columns = ("mse", "second_mse")
    config: MipConfig

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`mse` of the first pass, `second_mse` of the second; `loss` weighs them by 1/t^2 and 1/(1-t)^2."""
        clean, condition, time = self.clean_chunk(batch), self.condition(batch), self.config.second_time
        noisy = clean + (1 - time) * torch.randn_like(clean)
        first = self.mean_square(self._at(0.0, torch.zeros_like(clean), condition) - clean, batch)
        second = self.mean_square(self._at(time, noisy, condition) - clean, batch)
        loss = first / time**2 + second / (1 - time) ** 2
        return {"loss": loss, "mse": first.detach(), "second_mse": second.detach()}

    def predict(self, batch: Batch, generator: BatchGenerator | None = None) -> Tensor:
        condition = self.condition(batch)
        zeros = condition.new_zeros(condition.shape[0], self.chunk_size, self.action_dim)
        chunk = self._at(self.config.second_time, self._at(0.0, zeros, condition), condition)
        return self.normaliser.undo("action", chunk)

    def _at(self, time: float, chunk: Tensor, condition: Tensor) -> Tensor:
        """The network at one time for the whole batch."""
        return self.denoise(chunk, torch.full((chunk.shape[0],), 100 * time, device=chunk.device), condition)
