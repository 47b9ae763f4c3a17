"""A small version of any training, which runs through all its parts in under a minute."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from aloha_kit.config import load, RigConfig, TaskConfig, to_mapping
from aloha_kit.config.policies import PolicyConfig
from aloha_kit.config.training import TrainConfig
from aloha_kit.core import ConfigError
from aloha_kit.envs import needs_ros

STEPS = 3
EPISODES = 3
EPISODE_LEN = 20
IMAGE_SIZE = (96, 128)


def small_training(config: TrainConfig, *, processes: int, simulated: bool) -> TrainConfig:
    """Three steps, a validation, and two rollouts where the task has a simulation."""
    pieces = processes * config.accumulate
    return dataclasses.replace(
        config,
        num_steps=STEPS,
        num_epochs=None,
        batch_size=min(config.batch_size, 2 * pieces),
        val_every=STEPS,
        val_batches=1,
        eval_every=STEPS if simulated else 0,
        eval_rollouts=2,
        wandb=None,
    )


def small_network(network: PolicyConfig) -> PolicyConfig:
    """Network configuration with images of at most 96x128."""
    size = network.image_size
    if not network.use_images or (size is not None and size[0] * size[1] <= IMAGE_SIZE[0] * IMAGE_SIZE[1]):
        return network
    return dataclasses.replace(network, image_size=IMAGE_SIZE)


def small_task(task: TaskConfig) -> TaskConfig:
    """The task with rollouts of at most 20 steps."""
    return dataclasses.replace(task, episode_len=min(task.episode_len, EPISODE_LEN))


def simulated(task: TaskConfig | None) -> bool:
    """Whether rollouts of the task run in a simulation in this process."""
    try:
        return task is not None and not needs_ros(load(RigConfig, "rigs", task.rig))
    except ConfigError:  # its simulation is not installed
        return False


def debug_folder(folder: Path) -> Path:
    """`folder` with `_debug`, and a number from the second one on: a run that nothing else uses."""
    number, free = 1, folder.with_name(f"{folder.name}_debug")
    while free.exists():
        number += 1
        free = folder.with_name(f"{folder.name}_debug_{number}")
    return free


def changes(before: TrainConfig | PolicyConfig, after: TrainConfig | PolicyConfig) -> list[str]:
    """`num_steps 4 (20000)` for each value that differs."""
    was = to_mapping(before)
    return [f"{key} {value} ({was[key]})" for key, value in to_mapping(after).items() if value != was[key]]
