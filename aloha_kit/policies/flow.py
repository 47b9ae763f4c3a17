"""Action chunks by flow matching (Lipman et al., 2023), and by two regressions (Pan et al., 2025)."""

from __future__ import annotations

import torch
from torch import Tensor

from aloha_kit.config.denoising import FlowConfig, MipConfig
from aloha_kit.data.batch import Batch
from aloha_kit.policies.denoising import DenoisingNetwork
from aloha_kit.policies.generator import BatchGenerator


class FlowNetwork(DenoisingNetwork):
    """Chunks move on the straight line from noise at time 0 to the clean chunk at time 1, with velocity clean - noise.

    The network predicts the velocity, or the clean chunk (`prediction_type`), see Li and He, 2025, arXiv 2511.13720.
    """

    samples = True
    config: FlowConfig

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`loss` = `mse`, of what the network predicts, at a random time of each sample."""
        clean = self.clean_chunk(batch)
        noise = torch.randn_like(clean)
        time = torch.rand(len(clean), device=clean.device)
        predicted = self.denoise(torch.lerp(noise, clean, time.view(-1, 1, 1)), 100 * time, self.condition(batch))
        target = clean if self._predicts_chunk else clean - noise
        loss = self.mean_square(predicted - target, batch)
        return {"loss": loss, "mse": loss.detach()}

    def predict(self, batch: Batch, generator: BatchGenerator | None = None) -> Tensor:
        """Integrate the velocity from noise by Euler steps of equal length."""
        generator = generator or self.default_generator(batch)
        condition, steps = self.condition(batch), self.config.inference_steps
        chunk = generator.normal(self.chunk_size, self.action_dim).to(condition.device)
        for step in range(steps):
            time = torch.full((chunk.shape[0],), 100 * step / steps, device=chunk.device)
            predicted = self.denoise(chunk, time, condition).float()
            # the clean chunk is reached at the end, `steps - step` Euler steps ahead
            chunk = chunk + ((predicted - chunk) / (steps - step) if self._predicts_chunk else predicted / steps)
        return self.normaliser.undo("action", chunk)

    @property
    def _predicts_chunk(self) -> bool:
        return self.config.prediction_type == "sample"


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
