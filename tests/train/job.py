"""The smallest job that still has everything: cameras, dropout, a sampled latent, averaged weights, augmentation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from aloha_kit.config.training import TrainConfig
from aloha_kit.data.camera_frames import DirectFrames
from aloha_kit.data.index import EpisodeTable, read_table, split
from aloha_kit.data.loader import Loader
from aloha_kit.data.sampler import Sampler, validation_rows
from aloha_kit.formats import open_source
from aloha_kit.policies.build import build
from aloha_kit.train.loop import Trainer, TrainingJob
from aloha_kit.train.metrics import Columns
from aloha_kit.train.progress import Progress
from aloha_kit.train.run_folder import Run
from tests.tiny import ACT

TRAINING = TrainConfig(
    num_steps=24,
    batch_size=8,
    lr=1e-3,
    warmup_steps=3,
    ema=0.9,
    ema_power=0.75,
    val_fraction=0.34,
    val_every=10,
    val_batches=2,
    device="cpu",
    seed=3,
)

COLUMNS = Columns(("l1", "kl"), ("val_loss", "val_deployed"), "val_deployed")
"""Those of an ACT, without the errors by group of joints."""


def job(folder: Path, table: EpisodeTable, config: TrainConfig = TRAINING, **changes: Any) -> TrainingJob:
    """A fresh job on a table's episodes, seeded as the application does it."""
    torch.manual_seed(config.seed)
    training, validation = split(len(table.names), config.val_fraction, config.seed)
    network = build(changes.pop("policy", ACT), table.contract, table.statistics())
    run = Run(folder) if folder.exists() else Run.create(folder, {})
    frames = DirectFrames(table, table.contract.cameras, workers=1) if table.cameras else None
    made = TrainingJob(
        config=config,
        network=network,
        loader=Loader(
            table, frames, network.chunk_size, n_obs_steps=network.config.n_obs_steps, goal=network.config.reads_goal
        ),
        sampler=Sampler(table, training, config.batch_size, seed=config.seed, sampling=config.sampling),
        validation=validation_rows(table, validation, config.batch_size, config.val_batches),
        run=run,
        num_steps=config.num_steps,
    )
    return dataclasses.replace(made, **changes)


def trainer(made: TrainingJob, *, resume: bool = False) -> Trainer:
    """A trainer of a job, from the start or from the run's last checkpoint."""
    resumed = made.run.state(made.run.folder) if resume else None
    first = resumed["position"]["step"] if resumed else 0
    columns = Columns.of(made.network)
    progress = Progress(made.run, first_step=first, num_steps=made.num_steps, columns=columns, show=False)
    return Trainer(made, progress, resumed)


def stop_at(step: int, of: Callable[[], Trainer]) -> Callable[[], bool]:
    """A request to stop that comes after so many steps."""
    return lambda: of().position.step >= step


def dataset(folder: Path) -> EpisodeTable:
    """Three short episodes with one camera."""
    from tests.synthetic import write_dataset

    write_dataset(folder, lengths=(30, 41, 25))
    return read_table(open_source(folder))
