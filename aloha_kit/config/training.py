"""Training configuration: everything except the network itself. `--help` shows the texts of the fields."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from tyro.conf import arg

from aloha_kit.core.lang import Message
from aloha_kit.core.value_checks import at_least, positive, within


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation, data and checkpoints of one run. Defaults are the improved ones; the reference's are noted."""

    # how long
    num_steps: int = 20_000
    """Optimiser steps, unless --num_epochs is given."""
    num_epochs: int | None = None
    """Passes over the training data (see --sampling), in place of --num_steps."""
    time_limit_s: float | None = None
    """Stop after so many seconds of training; the schedule follows the clock where that is ahead."""

    # optimisation
    batch_size: int = 8
    """Samples a step, all processes together: how many there are does not change the training."""
    accumulate: int = 1
    """Pieces that each process works on its share of a batch in, for batches that do not fit into memory at once."""
    lr: float = 1e-4
    """Learning rate (AdamW); the reference takes 1e-5 at batch 8."""
    lr_backbone: float | None = None
    """Learning rate of the image backbones; --lr when not given."""
    weight_decay: float = 1e-4
    """AdamW's decoupled weight decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decays of the gradient's averages."""
    schedule: Literal["constant", "cosine", "step"] = "cosine"
    """Learning rate over the run, after a linear warm-up: constant (reference), half a cosine down to 0, or step."""
    decay_epochs: int = 200
    """Schedule step multiplies the learning rate by --decay_factor after each so many passes over the data."""
    decay_factor: float = 0.1
    """See --decay_epochs."""
    warmup_steps: int = 500
    """Steps of linear warm-up; at most a tenth of the run."""
    grad_clip: float = 10.0
    """Largest gradient norm, 0 to leave gradients alone (reference)."""
    ema: float = 0.0
    """Decay of the averaged weights that are validated and deployed, 0 for none; 0.999 suits long runs."""
    ema_power: float | None = None
    """Update n decays by 1 - (1 + n)^-ema_power, at most by ema (Diffusion Policy: 0.75); None: (1 + n) / (10 + n)."""
    amp: Literal["no", "bf16", "fp16"] = "no"
    """Autocast; weights and optimiser stay fp32. bf16 (plain --amp) for GPUs and for CPUs with AVX512-BF16 (there twice
    as fast); fp16, with gradients scaled, for GPUs older than bf16."""
    tf32: bool = True
    """On a GPU, let matrix products and convolutions of fp32 round what they multiply to TF32 (10 bits of mantissa)."""
    compile: bool = False
    """Compile the loss (torch.compile): minutes at the start, faster steps; goes on without where that fails."""

    # data
    sampling: Literal["all_steps", "one_per_episode"] = "all_steps"
    """An epoch: every step of every episode, or one random start an episode (reference)."""
    action_offset: int | None = None
    """First target at step t: the action of t (0), or of t-1 (1, as for real ALOHA's files). None: by file."""
    include_failed: bool = False
    """Train also on episodes that are marked as failures."""
    val_fraction: float = 0.1
    """Share of the episodes used for validation (reference: 0.2); 0 for none."""
    augment: bool = True
    """Image augmentation in training, drawn for each image, by the amounts below."""
    augment_crop: float = 0.95
    """Side of the random crop, as a share of the image's; it is resized to the whole. 1 for none."""
    augment_shift: float = 0.0
    """Largest random shift along each side, as a share of it; the rim is repeated. 0 for none."""
    augment_rotate_deg: float = 5.0
    """Largest random rotation to either side, in degrees."""
    augment_brightness: float = 0.3
    """Largest random change of the brightness, as a share: a factor of 0.7 to 1.3 with 0.3."""
    augment_contrast: float = 0.4
    """Largest random change of the contrast, likewise."""
    augment_saturation: float = 0.5
    """Largest random change of the saturation, likewise."""
    cache: Literal["auto", "disk", "device", "none"] = "auto"
    """Frames decoded once into a memory-mapped file (disk); that file whole in the device's memory; or decoded each
    time (none). auto: none for shards, else disk."""
    cache_dir: str | None = None
    """Where the frame cache lies; when not given .cache beside the episodes, or ~/.cache where those are read-only.
    Shards of a URL are kept there too."""
    cache_gb: float = 100.0
    """Largest size of what is kept of a URL. Of a larger data set, an epoch shuffles one half of it after another."""
    workers: int | None = None
    """Threads that decode frames; the cores of the machine when not given."""

    # what is kept and when
    val_every: Annotated[int, arg(aliases=("--validate_every",))] = 500
    """Steps between validations."""
    val_batches: int = 20
    """Largest number of batches of a validation, evenly spread over the validation episodes."""
    save_every: int = 0
    """Steps between checkpoints that are kept for good (step_N), 0 for none; last and best are always kept."""
    save_every_epochs: int = 0
    """Epochs (passes over the data) between checkpoints that are kept for good (epoch_N), 0 for none."""
    eval_goal: Annotated[str | None, arg(metavar="PLACE[:EPISODE][@STEP]")] = None
    """Goal observation of those rollouts, for a policy that reads one; see --goal of evaluation."""
    eval_every: int = 0
    """Steps between rollouts in simulation, 0 for none; best is then the checkpoint that succeeds most."""
    eval_rollouts: int = 10
    """Rollouts of such an evaluation, in each task."""
    eval_tasks: Annotated[tuple[str, ...], arg(metavar="TASK [TASK ...]")] = ()
    """Tasks of those rollouts, each with its own instruction; --task when not given. best is then by their mean."""
    temporal_agg: bool = False
    """Run inference at every step of those rollouts and average the overlapping chunks."""
    wandb: str | None = None
    """Project of Weights & Biases to show the run in too, where the package wandb is installed."""

    # machine
    seed: int = 0
    """Decides initial weights, split, order, augmentation and dropout."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes the GPU where there is one, and each process of a machine one of its own."""
    threads: int | None = None
    """CPU threads of one operation (torch.set_num_threads)."""

    def __post_init__(self) -> None:
        at_least(
            1,
            num_steps=self.num_steps,
            num_epochs=self.num_epochs,
            decay_epochs=self.decay_epochs,
            batch_size=self.batch_size,
            accumulate=self.accumulate,
            val_every=self.val_every,
            val_batches=self.val_batches,
            eval_rollouts=self.eval_rollouts,
            workers=self.workers,
            threads=self.threads,
        )
        at_least(
            0,
            warmup_steps=self.warmup_steps,
            save_every=self.save_every,
            save_every_epochs=self.save_every_epochs,
            eval_every=self.eval_every,
            weight_decay=self.weight_decay,
            grad_clip=self.grad_clip,
            seed=self.seed,
            augment_shift=self.augment_shift,
            augment_rotate_deg=self.augment_rotate_deg,
        )
        positive(cache_gb=self.cache_gb, time_limit_s=self.time_limit_s, ema_power=self.ema_power)
        within("[0, 1)", ema=self.ema, val_fraction=self.val_fraction)
        within("(0, 1]", decay_factor=self.decay_factor, augment_crop=self.augment_crop)
        within(
            "[0, 1]",
            augment_brightness=self.augment_brightness,
            augment_contrast=self.augment_contrast,
            augment_saturation=self.augment_saturation,
        )
        if not self.lr > 0 or (self.lr_backbone is not None and self.lr_backbone < 0):
            raise ValueError(
                Message(
                    "learning rates must be positive, given lr {lr}, lr_backbone {lr_backbone}",
                    lr=self.lr,
                    lr_backbone=self.lr_backbone,
                )
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(Message("betas must be in [0, 1), given {betas}", betas=list(self.betas)))
        amounts = [each for each in fields(self) if each.name.startswith("augment_")]
        changed = [each.name for each in amounts if getattr(self, each.name) != each.default]
        if changed and not self.augment:
            raise ValueError(
                Message("{changed} is an amount of the augmentation, which augment false turns off", changed=changed[0])
            )
        if self.action_offset not in {None, 0, 1}:
            raise ValueError(
                Message("action_offset must be 0 or 1, given {action_offset}", action_offset=self.action_offset)
            )
