"""Data of a training: the episodes, their split, and the steps that follow from them."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

import torch

from aloha_kit.config.policies import PolicyConfig
from aloha_kit.config.training import TrainConfig
from aloha_kit.core import plural
from aloha_kit.core.lang import tr, tr_plural
from aloha_kit.data.cache import cached_frames, folder_for
from aloha_kit.data.camera_frames import DEPTH, DirectFrames, FrameKind, Frames, RGB
from aloha_kit.data.index import EpisodeTable, read_table, split
from aloha_kit.data.resident import resident_frames
from aloha_kit.data.sampler import Sampler
from aloha_kit.train.setup import TrainingSetup

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingData:
    """The episodes of a training, split, and the order in which it goes through them.

    Attributes:
        table: the episodes, with those of their features that the policy reads.
        training, validation: numbers of episodes.
        num_steps: of the training, from the configuration's steps or epochs.
    """

    table: EpisodeTable
    training: list[int]
    validation: list[int]
    sampler: Sampler
    num_steps: int

    @classmethod
    def read(cls, setup: TrainingSetup) -> TrainingData:
        """Read the episodes of a training.

        Raises:
            EpisodeError, ConfigError, ContractError: see `read_table` and `split`.
        """
        config, table = setup.config, _table(setup)
        own = [number for number, name in enumerate(table.names) if name in setup.source.validation]
        training, validation = split(len(table.names), config.val_fraction, config.seed, own)
        sampler = Sampler(
            table,
            training,
            config.batch_size,
            seed=config.seed,
            sampling=config.sampling,
            weights=setup.weights,
            windowed=decodes_episodes(table, setup.network, config),
        )
        if sampler.windows > 1:
            LOG.info("an epoch reads %d windows of shards, two of which --cache_gb holds", sampler.windows)
        for part, share in enumerate(sampler.shares):
            count = sum(setup.source.part(table.numbers[number]) == part for number in training)
            LOG.info("samples: %.0f %% of data set %d (%s)", 100 * share, part + 1, plural(count, "episode"))
        num_steps = sampler.steps(config.num_epochs) if config.num_epochs else config.num_steps
        return cls(table, training, validation, sampler, num_steps)

    def report(self, network: torch.nn.Module, place: str) -> None:
        """Log the sizes of data and network; `place` is where it trains."""
        table, batch_size = self.table, self.sampler.batch_size
        count = sum(p.numel() for p in network.parameters() if p.requires_grad)
        skipped = tr(", {n} failures left out", n=table.failed) if table.failed else ""
        LOG.info(
            tr_plural(
                "{n} episode to train on, {validation} to validate{skipped}; {steps}; cameras: {cameras}",
                "{n} episodes to train on, {validation} to validate{skipped}; {steps}; cameras: {cameras}",
                len(self.training),
                validation=len(self.validation),
                skipped=skipped,
                steps=tr_plural("{n} step", "{n} steps", len(table)),
                cameras=", ".join(table.cameras) or tr("(none)"),
            )
        )
        LOG.info(
            tr_plural(
                "{count:.2f} M parameters on {place}; {n} step of {batch}, {epochs:.1f} epochs of {epoch}",
                "{count:.2f} M parameters on {place}; {n} steps of {batch}, {epochs:.1f} epochs of {epoch}",
                self.num_steps,
                count=count / 1e6,
                place=place,
                batch=batch_size,
                epochs=self.num_steps * batch_size / self.sampler.epoch_size,
                epoch=self.sampler.epoch_size,
            )
        )


def _table(setup: TrainingSetup) -> EpisodeTable:
    """The episodes, with those of their features that the policy reads."""
    task = setup.task
    table = read_table(
        setup.source,
        cameras=setup.cameras,
        sensors=setup.network.sensors,
        depth_cameras=setup.network.depth_cameras,
        action_offset=setup.config.action_offset,
        include_failed=setup.config.include_failed,
    )
    for note in (*table.assumptions, *table.notes):
        LOG.info(tr("note: {note}", note=note))
    if task is not None and any(name != task.name for name in table.tasks):
        recorded = ", ".join(table.tasks)
        LOG.warning(
            tr("the episodes were recorded for {recorded}, not for --task {task}", recorded=recorded, task=task.name)
        )
    return table if setup.network.use_environment_state else table.without_privileged()


def decodes_episodes(table: EpisodeTable, network: PolicyConfig, config: TrainConfig) -> bool:
    """Whether each batch decodes images from the episodes; else there are none, or all are in the frame cache."""
    return network.use_images and bool(table.cameras or network.depth_cameras) and _cache(table, config) == "none"


def _cache(table: EpisodeTable, config: TrainConfig) -> str:
    """`TrainConfig.cache` of these episodes, `auto` resolved: none where any of them is in a shard, else disk."""
    if config.cache != "auto":
        return config.cache
    sharded = any(table.source.shard(number) is not None for number in table.numbers)
    return "none" if sharded else "disk"


def open_frames(
    table: EpisodeTable, network: PolicyConfig, config: TrainConfig, device: str, kind: FrameKind = RGB
) -> Frames | None:
    """Images, or depth, at the network's size, cached or decoded as needed; None for a network that reads none."""
    cameras = network.depth_cameras if kind is DEPTH else table.cameras
    if not (network.use_images and cameras):
        return None
    sizes = {name: network.image_size or table.contract.cameras[name] for name in cameras}
    workers = config.workers or os.cpu_count() or 1
    cache = _cache(table, config)
    if cache == "none":
        return DirectFrames(table, sizes, workers, kind)
    folder = folder_for(table, config.cache_dir)
    if cache == "device":
        return resident_frames(table, sizes, folder, device, workers=workers, kind=kind)
    return cached_frames(table, sizes, folder, workers=workers, kind=kind)
