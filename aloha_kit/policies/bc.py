"""Behaviour cloning as in robomimic (Mandlekar et al., 2021): BC, BC-RNN, and either with Gaussian outputs.

The LSTM reads the window of `n_obs_steps` observations anew at each inference, so no state outlives an inference and
clients of one server cannot mix theirs. robomimic carries the state from step to step and resets it after every
`rnn_horizon` steps; `n_obs_steps` is the counterpart of `rnn_horizon`. A goal is the observation of an episode's last
step (`goal_mode`), or any vector of the episodes, by its name in `sensors`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn, Tensor

from aloha_kit.config.bc import BcConfig
from aloha_kit.core import Contract
from aloha_kit.data.batch import Batch
from aloha_kit.data.stats import Statistics
from aloha_kit.policies.generator import BatchGenerator
from aloha_kit.policies.network import masked_mean
from aloha_kit.policies.step_features import perceptron, StepFeatureNetwork


class BcNetwork(StepFeatureNetwork):
    """Perceptron or LSTM whose output is a chunk of actions, or M Gaussians over such chunks."""

    config: BcConfig

    def __init__(self, config: BcConfig, contract: Contract, stats: Statistics) -> None:
        super().__init__(config, contract, stats, config.keypoints)
        self.samples = config.output == "gmm"
        self.loss_columns = ("l2", "l1", "cos") if config.output == "deterministic" else ("nll", "l2")
        self.modes = config.num_modes if config.output == "gmm" else 1
        width = self.step_dim * config.window
        if config.actor == "lstm":
            self.lstm = nn.LSTM(
                self.step_dim * (1 + config.reads_goal), config.lstm_units, config.lstm_layers, batch_first=True
            )
            width = config.lstm_units
        self.mlp = perceptron(width, *config.layer_dims)
        width = (width, *config.layer_dims)[-1]
        outputs = self.modes * config.chunk_size * self.action_dim
        self.mean = nn.Linear(width, outputs)
        if config.output != "deterministic":
            self.deviation = nn.Linear(width, outputs)
        if config.output == "gmm":
            self.logits = nn.Linear(width, self.modes)

    @property
    def head(self) -> nn.Module:
        return self.mean

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`loss` = l2_weight · l2 + l1_weight · l1 + cos_weight · cos; of a distribution `nll`, for one action.

        `l2` is then the error of the most probable mean.
        """
        actions, is_pad = self.targets(batch)
        features = self._features(batch)
        means = self._means(features)
        if self.config.output == "deterministic":
            return self._regression(means[:, 0], batch)
        log_weights = self._log_weights(features)
        nll = self._negative_log_likelihood(features, means, log_weights, batch)
        best = _picked(means, log_weights.argmax(-1))
        l2 = masked_mean((best - actions).square(), is_pad, over="valid", valid_rows=batch.get("valid_rows"))
        return {"loss": nll, "nll": nll.detach(), "l2": l2.detach()}

    def predict(self, batch: Batch, generator: BatchGenerator | None = None) -> Tensor:
        """The actions, the mean of the Gaussian, or the mean of one Gaussian of the mixture, drawn by its weight.

        In evaluation robomimic narrows the Gaussians to a deviation of 0.0001, which is the same to that amount.
        """
        features = self._features(batch)
        means, picked = self._means(features), torch.zeros(features.shape[0], dtype=torch.long, device=features.device)
        if self.config.output == "gmm":
            draws = (generator or self.default_generator(batch)).uniform(1).to(features.device)
            shares = self._log_weights(features).exp().cumsum(-1)[:, :-1]
            picked = (draws >= shares).sum(-1)
        return self.normaliser.undo("action", _picked(means, picked))

    def _regression(self, predicted: Tensor, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        actions, is_pad = self.targets(batch)
        raw = batch["actions"][:, : self.chunk_size, :3]
        cosine = F.cosine_similarity(self.normaliser.undo("action", predicted)[..., :3], raw, dim=-1)
        errors = {
            "l2": (predicted - actions).square(),
            "l1": F.smooth_l1_loss(predicted, actions, reduction="none"),
            "cos": (1 - cosine).unsqueeze(-1),
        }
        valid_rows = batch.get("valid_rows")
        terms = {k: masked_mean(e, is_pad, over="valid", valid_rows=valid_rows) for k, e in errors.items()}
        loss = config.l2_weight * terms["l2"] + config.l1_weight * terms["l1"] + config.cos_weight * terms["cos"]
        return {"loss": loss, **{name: value.detach() for name, value in terms.items()}}

    def _negative_log_likelihood(self, features: Tensor, means: Tensor, log_weights: Tensor, batch: Batch) -> Tensor:
        """Negative log-likelihood of demonstrated chunks per action: the components are Gaussians of whole chunks."""
        actions, is_pad = self.targets(batch)
        deviations = F.softplus(self.deviation(features).float()).view_as(means) + self.config.min_std
        scaled = (actions.unsqueeze(1) - means) / deviations
        likelihood = -0.5 * scaled.square() - deviations.log() - 0.5 * math.log(2 * math.pi)
        valid = ~is_pad[:, None, :, None]
        chunks = (likelihood * valid).sum((2, 3))  # (B, M)
        total = -torch.logsumexp(log_weights + chunks, dim=-1).sum()
        rows = batch.get("valid_rows")
        count = (~is_pad).sum() if rows is None else len(actions) * rows
        return total / count.clamp(min=1)

    def _features(self, batch: Batch) -> Tensor:
        """(B, H) of the window."""
        steps = self.step_features(batch)
        if self.config.actor == "lstm":
            if self.config.reads_goal:
                goal, steps = steps[:, :1], steps[:, 1:]
                steps = torch.cat([steps, goal.expand_as(steps)], dim=-1)
            x = self.lstm(steps)[0][:, -1]
        else:
            x = steps.flatten(1)
        out: Tensor = self.mlp(x)
        return out

    def _means(self, features: Tensor) -> Tensor:
        """Normalised (B, M, K, A); fp32 under autocast too."""
        means: Tensor = self.mean(features).float().view(-1, self.modes, self.chunk_size, self.action_dim)
        return means.tanh() if self.config.squash else means

    def _log_weights(self, features: Tensor) -> Tensor:
        """(B, M) log-weights of the Gaussians."""
        if self.config.output != "gmm":
            return features.new_zeros(features.shape[0], 1, dtype=torch.float32)
        out: Tensor = self.logits(features).float().log_softmax(-1)
        return out


def _picked(means: Tensor, modes: Tensor) -> Tensor:
    """(B, K, A) of one mode a row: means (B, M, K, A), modes (B,)."""
    places = modes.view(-1, 1, 1, 1).expand(-1, 1, *means.shape[2:])
    return means.gather(1, places).squeeze(1)
