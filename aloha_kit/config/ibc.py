"""Configuration of implicit behavioural cloning: energy model, contrastive training, sampling of actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from aloha_kit.config.keypoints import KeypointConfig
from aloha_kit.core.lang import Message
from aloha_kit.core.value_checks import at_least, positive


@dataclass(frozen=True)
class IbcConfig(KeypointConfig):
    """Implicit behavioural cloning (Florence et al., 2021): the actions of lowest energy, found by sampling."""

    network: ClassVar[str] = "aloha_kit.policies.ibc:IbcNetwork"

    chunk_size: int = 1
    """Actions predicted at once; published results are of one."""
    n_obs_steps: int = 2
    """Steps of observation that are read, the present one included; at an episode's start the first is repeated."""
    encoder_dims: tuple[int, ...] = ()
    """Widths of a perceptron of the observation alone, before the energy model; it runs once for all actions."""
    layer_dims: tuple[int, ...] = (512, 512, 512, 512)
    """Widths of the energy model's hidden layers."""
    sampler: Literal["dfo", "langevin"] = "dfo"
    """Derivative-free optimisation, or Langevin dynamics, which then also draws the negatives of training."""
    negatives: int = 256
    """Negative actions of a sample in training."""
    local_negatives: int = 0
    """Derivative-free only: further negatives near the demonstrated action, in a loss of their own; 0 for none. Of
    uniform ones few come close enough to train where exactly the minimum is."""
    local_std: tuple[float, float] = (0.005, 0.5)
    """Smallest and largest standard deviation of those negatives in normalised units; drawn log-uniformly."""
    candidates: int = 1024
    """Actions that an inference starts from."""
    dfo_iterations: int = 3
    """Iterations of the derivative-free optimisation: resample by probability, then add noise."""
    dfo_std: float = 0.33
    """Standard deviation of that noise in the first iteration."""
    dfo_shrink: float = 0.5
    """Factor of the standard deviation from one iteration to the next."""
    choice: Literal["argmax", "sample"] = "argmax"
    """The most probable of the last candidates, or one drawn by probability."""
    langevin_iterations: int = 100
    """Steps of Langevin dynamics."""
    langevin_step: tuple[float, float] = (0.1, 1e-5)
    """Step size at the first and at the last step; between them it falls with the square of what is left."""
    langevin_noise: float = 1.0
    """Standard deviation of the noise of a step, before it is multiplied by the step size."""
    langevin_clip: float = 0.1
    """Largest change of an action's entry in one step."""
    gradient_margin: float = 1.0
    """Langevin only: entries of the energy's gradient beyond this cost their square."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(
            1,
            negatives=self.negatives,
            candidates=self.candidates,
            layer_dims=len(self.layer_dims),
            **{f"layer_dims[{i}]": width for i, width in enumerate(self.layer_dims)},
            **{f"encoder_dims[{i}]": width for i, width in enumerate(self.encoder_dims)},
        )
        at_least(0, dfo_iterations=self.dfo_iterations, local_negatives=self.local_negatives)
        at_least(2, langevin_iterations=self.langevin_iterations)
        if self.normalisation != "min_max_11":
            raise ValueError(
                Message(
                    "actions are sampled in [-1, 1], which needs normalisation min_max_11, given {normalisation}",
                    normalisation=self.normalisation,
                )
            )
        positive(
            dfo_std=self.dfo_std,
            dfo_shrink=self.dfo_shrink,
            langevin_clip=self.langevin_clip,
            gradient_margin=self.gradient_margin,
        )
        if self.local_negatives and self.sampler == "langevin":
            raise ValueError(Message("local_negatives are of sampler dfo: langevin draws its negatives from a chain"))
        if not 0 < self.local_std[0] <= self.local_std[1]:
            raise ValueError(
                Message("local_std must be positive, the smallest first, given {local_std}", local_std=self.local_std)
            )
        if min(self.langevin_step) <= 0 or self.langevin_noise < 0:
            raise ValueError(
                Message(
                    "langevin_step must be positive and langevin_noise not negative, given {langevin_step} and "
                    "{langevin_noise}",
                    langevin_step=self.langevin_step,
                    langevin_noise=self.langevin_noise,
                )
            )
