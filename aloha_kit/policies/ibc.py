"""Implicit behavioural cloning (Florence et al., 2021): an energy of observation and actions, minimised by sampling.

A low energy means probable actions: p(actions | observation) is proportional to exp(-energy). Demonstrated actions,
negatives and candidates are all normalised to [-1, 1]; only the actions that are chosen are unnormalised.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn, Tensor

from aloha_kit.config.ibc import IbcConfig
from aloha_kit.core import Contract
from aloha_kit.data.batch import Batch
from aloha_kit.data.stats import Statistics
from aloha_kit.policies.generator import BatchGenerator
from aloha_kit.policies.step_features import perceptron, StepFeatureNetwork


class EnergyModel(nn.Module):
    """Energies of N actions (B, N, A) each, given features (B, D): a perceptron, and its gradient by the actions.

    The gradient is written out: autograd is off in an inference, and engines convert operations only.
    """

    def __init__(self, features: int, actions: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.features = nn.Linear(features, widths[0])
        self.actions = nn.Linear(actions, widths[0], bias=False)
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.energy = nn.Linear(widths[-1], 1)

    def forward(self, features: Tensor, actions: Tensor) -> Tensor:
        """(B, N) energies, fp32 under autocast too."""
        out: Tensor = self.energy(self._activations(features, actions)[-1])
        return out.squeeze(-1).float()

    def gradient(self, features: Tensor, actions: Tensor) -> Tensor:
        """(B, N, A) derivatives of the energies by the actions."""
        activations = self._activations(features, actions)
        flow = self.energy.weight.expand_as(activations[-1])
        weights = [cast(Tensor, layer.weight) for layer in self.hidden]
        for activation, weight in zip(reversed(activations), [*reversed(weights), self.actions.weight], strict=True):
            flow = (flow * (activation > 0)) @ weight
        return flow.float()

    def _activations(self, features: Tensor, actions: Tensor) -> list[Tensor]:
        x = F.relu(self.features(features).unsqueeze(1) + self.actions(actions))
        found = [x]
        for layer in self.hidden:
            x = F.relu(layer(x))
            found.append(x)
        return found


class IbcNetwork(StepFeatureNetwork):
    """Implicit behavioural cloning as in the module; its settings are in `IbcConfig`."""

    samples = True
    config: IbcConfig

    def __init__(self, config: IbcConfig, contract: Contract, stats: Statistics) -> None:
        super().__init__(config, contract, stats, config.keypoints)
        second = "gradient_penalty" if config.sampler == "langevin" else "local_info_nce"
        has_second = config.sampler == "langevin" or config.local_negatives > 0
        self.loss_columns = ("info_nce", second) if has_second else ("info_nce",)
        widths = (self.step_dim * config.n_obs_steps, *config.encoder_dims)
        self.encoder = perceptron(*widths)
        self.energy_model = EnergyModel(widths[-1], config.chunk_size * self.action_dim, config.layer_dims)

    @property
    def head(self) -> nn.Module:
        return self.energy_model.energy

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`info_nce`, the cross-entropy of the demonstrated chunk among it and the negatives, near ln(1 + negatives) at
        the start; `loss` adds that of `local_negatives` or, of Langevin dynamics, the penalty.
        """
        features = self._features(batch)
        positive = self.clean_chunk(batch).flatten(1).unsqueeze(1)
        negatives = torch.rand(len(positive), self.config.negatives, positive.shape[2], device=positive.device) * 2 - 1
        if self.config.sampler == "langevin":
            with torch.no_grad():
                noise = (torch.randn_like(negatives) for _ in range(self.config.langevin_iterations))
                negatives = self._langevin(features, negatives, noise)
        actions = torch.cat([positive, negatives], dim=1)
        parts = {"info_nce": _info_nce(self.energy_model(features, actions))}
        if self.config.sampler == "langevin":
            steepest = self.energy_model.gradient(features, actions).abs().amax(-1)
            parts["gradient_penalty"] = F.relu(steepest - self.config.gradient_margin).square().mean()
        elif self.config.local_negatives:
            nearby = torch.cat([positive, self._local_negatives(positive)], dim=1)
            parts["local_info_nce"] = _info_nce(self.energy_model(features, nearby))
        loss = torch.stack(list(parts.values())).sum()
        return {"loss": loss, **{name: part.detach() for name, part in parts.items()}}

    def predict(self, batch: Batch, generator: BatchGenerator | None = None) -> Tensor:
        draws = generator or self.default_generator(batch)
        features, config = self._features(batch), self.config
        shape, device = (config.candidates, self.chunk_size * self.action_dim), features.device
        candidates = draws.uniform(*shape).to(device) * 2 - 1
        # the numbers of all iterations are drawn at once: one copy to a GPU instead of one in each
        if config.sampler == "langevin":
            noise = draws.normal(config.langevin_iterations, *shape).to(device).unbind(1)
            candidates = self._langevin(features, candidates, noise)
        elif config.dfo_iterations:
            picks = draws.uniform(config.dfo_iterations, config.candidates).to(device).unbind(1)
            noise = draws.normal(config.dfo_iterations, *shape).to(device).unbind(1)
            candidates = self._derivative_free(features, candidates, picks, noise)
        energies = self.energy_model(features, candidates)
        if config.choice == "argmax":
            picked = energies.argmin(-1, keepdim=True)
        else:
            picked = _drawn(energies, draws.uniform(1).to(device))
        chunk = _rows(candidates, picked).view(-1, self.chunk_size, self.action_dim)
        return self.normaliser.undo("action", chunk)

    def _local_negatives(self, positive: Tensor) -> Tensor:
        """(B, N, A) negatives near the positives (B, 1, A).

        They are drawn around a point that is itself drawn around the positive, so positive and negatives are equally
        far from it: none stands in the middle, and the cross-entropy is lowest where exp(-energy) is the density.
        """
        count, (low, high) = self.config.local_negatives, self.config.local_std
        std = low * (high / low) ** torch.rand(len(positive), 1, 1, device=positive.device)
        centre = positive + std * torch.randn_like(positive)
        return centre + std * torch.randn(len(positive), count, positive.shape[2], device=positive.device)

    def _derivative_free(
        self, features: Tensor, candidates: Tensor, picks: Iterable[Tensor], noise: Iterable[Tensor]
    ) -> Tensor:
        """Resample by probability and add noise that shrinks, again and again (Florence et al., 2021, algorithm 1)."""
        std = self.config.dfo_std
        for pick, change in zip(picks, noise, strict=True):
            energies = self.energy_model(features, candidates)
            candidates = _rows(candidates, _drawn(energies, pick))
            candidates = (candidates + std * change).clamp(-1, 1)
            std *= self.config.dfo_shrink
        return candidates

    def _langevin(self, features: Tensor, actions: Tensor, noise: Iterable[Tensor]) -> Tensor:
        """Langevin dynamics with a step size that falls polynomially (Florence et al., 2021, appendix B.3)."""
        config, (first, last) = self.config, self.config.langevin_step
        for step, kick in enumerate(noise):
            left = 1 - step / (config.langevin_iterations - 1)
            size = last + (first - last) * left**2
            slope = 0.5 * self.energy_model.gradient(features, actions) + config.langevin_noise * kick
            change = (size * slope).clamp(-config.langevin_clip, config.langevin_clip)
            actions = (actions - change).clamp(-1, 1)
        return actions

    def _features(self, batch: Batch) -> Tensor:
        """(B, D) of all steps of observation."""
        out: Tensor = self.encoder(self.step_features(batch).flatten(1))
        return out


def _info_nce(energies: Tensor) -> Tensor:
    """Cross-entropy of the first of N actions among all: energies (B, N)."""
    return F.cross_entropy(-energies, torch.zeros(len(energies), dtype=torch.long, device=energies.device))


def _drawn(energies: Tensor, draws: Tensor) -> Tensor:
    """(B, M) of the numbers of N candidates, by probability: energies (B, N), draws (B, M) in [0, 1)."""
    shares = (-energies).softmax(-1).cumsum(-1)
    shares = shares / shares[:, -1:]  # rounding leaves the last one beside 1
    if torch.compiler.is_exporting():  # OpenVINO has no searchsorted
        return (draws.unsqueeze(-1) >= shares[:, None, :-1]).sum(-1)
    return torch.searchsorted(shares, draws, right=True).clamp(max=energies.shape[1] - 1)


def _rows(candidates: Tensor, picked: Tensor) -> Tensor:
    """(B, M, A): candidates (B, N, A) of these numbers (B, M)."""
    return candidates.gather(1, picked.unsqueeze(-1).expand(-1, -1, candidates.shape[2]))
