"""Setup of a training: its values, episodes and folder, and which values exclude one another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aloha_kit.config import TaskConfig
from aloha_kit.config.policies import PolicyConfig
from aloha_kit.config.training import TrainConfig
from aloha_kit.core import UsageError
from aloha_kit.core.files import make_folder
from aloha_kit.core.source import EpisodeSource
from aloha_kit.train.launch import Rank


@dataclass(frozen=True)
class TrainingSetup:
    """Values, episodes and folder of a training.

    Attributes:
        policy: name of the file of the network's values.
        weights: of the data sets that `source` reads as one, see `Sampler`; empty for none.
        rollout_tasks: of the rollouts while training; empty for none.
        cameras: that the policy reads, under its names; None for all.
        resume: run or checkpoint to go on from.
        snapshot: values of all flags, which are saved in the run's folder.
        notes: what is reported at the start.
    """

    config: TrainConfig
    network: PolicyConfig
    policy: str
    task: TaskConfig | None
    source: EpisodeSource
    cameras: tuple[str, ...] | None
    folder: Path  # of the run
    resume: Path | None
    preflight: bool
    preflight_only: bool
    snapshot: Mapping[str, Any]
    rank: Rank
    notes: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    rollout_tasks: tuple[TaskConfig, ...] = ()


@contextmanager
def reserved(setup: TrainingSetup) -> Iterator[None]:
    """Make the run's folder, so that an obstacle is reported before minutes of decoding; remove it if it stays empty.

    Raises:
        ConfigError: it cannot be made or written to.
    """
    if setup.preflight_only or not setup.rank.first:
        yield
        return
    make_folder(setup.folder)
    try:
        yield
    finally:
        with suppress(OSError):  # not empty
            setup.folder.rmdir()


def require_pieces(config: TrainConfig, network: PolicyConfig, processes: int) -> None:
    """Raise `UsageError` where a batch in pieces would not give the gradients of the whole batch."""
    pieces = processes * config.accumulate
    if config.batch_size % pieces:
        near = config.batch_size // pieces * pieces
        fitting = f"{near} or {near + pieces}" if near else str(pieces)
        raise UsageError(
            "--batch_size {batch_size} is the batch of all processes together, and {processes} with "
            "--accumulate {accumulate} cannot divide it evenly; take {fitting}",
            batch_size=config.batch_size,
            processes=processes,
            accumulate=config.accumulate,
            fitting=fitting,
        )
    if pieces > 1 and network.use_images and network.backbone_norm == "batch":
        raise UsageError(
            "backbone_norm batch takes its statistics from a whole batch, and {processes} processes with "
            "--accumulate {accumulate} divide it into {pieces} pieces; use --backbone_norm frozen or group",
            processes=processes,
            accumulate=config.accumulate,
            pieces=pieces,
        )


def require_statistics(config: TrainConfig, network: PolicyConfig) -> None:
    """Raise `UsageError` where averaged weights would be combined with running statistics that are not averaged."""
    if config.ema and network.use_images and network.backbone_norm == "batch":
        raise UsageError(
            "--ema {ema:g} averages weights, and backbone_norm batch keeps running statistics that belong to "
            "the weights of one step: the averaged network would be validated and saved with another's. Use "
            "--ema 0, or --backbone_norm frozen or group",
            ema=config.ema,
        )
