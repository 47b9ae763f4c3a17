"""Configuration of behaviour cloning by regression: perceptron or LSTM, deterministic or with a distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from aloha_kit.config.keypoints import KeypointConfig
from aloha_kit.core.lang import Message
from aloha_kit.core.value_checks import at_least, positive


@dataclass(frozen=True)
class BcConfig(KeypointConfig):
    """Behaviour cloning as in robomimic (Mandlekar et al., 2021): BC, BC-RNN and BC-RNN-GMM by `actor` and `output`."""

    network: ClassVar[str] = "aloha_kit.policies.bc:BcNetwork"

    chunk_size: int = 1
    """Actions predicted at once; robomimic predicts one."""
    actor: Literal["mlp", "lstm"] = "mlp"
    """A perceptron, or an LSTM over the window of n_obs_steps observations (robomimic's rnn_horizon, 10) before it."""
    goal_mode: Literal["none", "last", "sampled"] = "none"
    """Goal observation that is read beside: none; in training that of an episode's last step (robomimic's goal_mode),
    or of a later step of the same episode, drawn anew for each sample (hindsight); at inference the one that --goal
    names. An LSTM reads its features at every step."""
    layer_dims: tuple[int, ...] = (1024, 1024)
    """Widths of the perceptron's hidden layers; may be empty."""
    lstm_units: int = 400
    """Size of the LSTM's state: 400 for vectors, 1000 for images in robomimic."""
    lstm_layers: int = 2
    """Layers of the LSTM."""
    output: Literal["deterministic", "gaussian", "gmm"] = "deterministic"
    """Actions themselves, a Gaussian around them, or a mixture of Gaussians."""
    num_modes: int = 5
    """Gaussians of the mixture."""
    min_std: float = 0.05
    """Smallest standard deviation of a Gaussian, in normalised units. robomimic takes 0.0001 for `gmm` and 0.01 for
    `gaussian`: where demonstrations keep an entry exactly constant for a while, as a script keeps the gripper, its
    likelihood then outweighs that of all other entries, which stay untrained."""
    squash: bool = True
    """Bound actions (of a Gaussian, its mean) to [-1, 1] by tanh; needs normalisation min_max_11."""
    l2_weight: float = 1.0
    """Weight of the mean square error; of deterministic actions, as the two below."""
    l1_weight: float = 0.0
    """Weight of the smooth L1 error."""
    cos_weight: float = 0.0
    """Weight of 1 - cosine between the first three entries of predicted and demonstrated actions, in raw units."""

    @property
    def reads_goal(self) -> bool:
        return self.goal_mode != "none"

    @property
    def samples_goal(self) -> bool:
        return self.goal_mode == "sampled"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(
            1,
            lstm_units=self.lstm_units,
            lstm_layers=self.lstm_layers,
            num_modes=self.num_modes,
            **{f"layer_dims[{i}]": width for i, width in enumerate(self.layer_dims)},
        )
        if self.actor == "lstm" and self.n_obs_steps < 2:
            raise ValueError(
                Message(
                    "actor lstm reads a sequence: n_obs_steps must be at least 2, given {n_obs_steps}",
                    n_obs_steps=self.n_obs_steps,
                )
            )
        positive(min_std=self.min_std)
        if self.squash and self.normalisation != "min_max_11":
            raise ValueError(
                Message(
                    "squash bounds to [-1, 1] and needs normalisation min_max_11, given {normalisation}",
                    normalisation=self.normalisation,
                )
            )
        weights = (self.l2_weight, self.l1_weight, self.cos_weight)
        if min(weights) < 0 or not any(weights):
            raise ValueError(
                Message(
                    "l2_weight, l1_weight and cos_weight must not be negative, and one of them positive, given "
                    "{weights}",
                    weights=weights,
                )
            )
