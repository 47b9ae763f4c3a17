"""The command line of recording."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from aloha_kit.config import load, TaskConfig
from aloha_kit.core import ConfigError


@dataclass(frozen=True)
class RecordArgs:
    """Record demonstrations of a task, in parallel, until there are enough successful ones.

    Interrupted or run again, it goes on where it stopped: episodes that are there count, and seeds continue.
    """

    task: Annotated[str, tyro.conf.arg(aliases=["--task_name"])]
    """Task name (configs/tasks) or YAML path."""
    num_episodes: int = 50
    """Successful episodes that the folder holds in the end."""
    dataset_dir: str | None = None
    """Folder to record into, in place of the task's."""
    seed: int = 0
    """Seed of the first episode; later ones count up from it."""
    noise: float = 0.0
    """Motion noise of the scripted expert: 0 is the same motion for the same start, about 1 is lively."""
    workers: int | None = None
    """Processes that record at the same time; the cores of the machine when not given."""
    image_size: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="H W")] = None
    """Height and width of the pictures, in place of the rig's."""
    cameras: tuple[str, ...] | None = None
    """Cameras to record, in place of the task's."""
    images: Literal["jpeg", "raw"] = "jpeg"
    """How pictures are kept."""
    quality: int = 95
    """JPEG quality, 1 to 100."""
    episode_len: int | None = None
    """Steps an episode, in place of the task's."""
    keep_failures: bool = False
    """Keep failed demonstrations in a folder failed/ beside the others instead of dropping them."""
    max_attempts: int | None = None
    """Give up after so many episodes; three times --num_episodes, and at least 10, when not given."""

    def __post_init__(self) -> None:
        for name in ("num_episodes", "workers", "max_attempts"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, given {value}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality must lie in 1 to 100, given {self.quality}")
        if self.seed < 0:
            raise ValueError(f"seed cannot be negative, given {self.seed}")
        if not (self.noise >= 0 and math.isfinite(self.noise)):
            raise ValueError(f"noise must be a finite number from 0 on, given {self.noise}")


def parse(argv: Sequence[str] | None = None) -> RecordArgs:
    """Flags to values; `--help` and mistakes end the process as usual, naming the nearest flag.

    Raises:
        ConfigError: a value that cannot be.
    """
    given = None if argv is None else list(argv)
    try:
        return tyro.cli(RecordArgs, prog="python -m aloha_kit.record", args=given, use_underscores=True)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def task_of(args: RecordArgs) -> TaskConfig:
    """The task with what the flags say in place of its own.

    Raises:
        ConfigError: an unknown task, or values that it refuses.
    """
    task = load(TaskConfig, "tasks", args.task)
    changed = {
        key: value
        for key in ("image_size", "cameras", "episode_len", "dataset_dir")
        if (value := getattr(args, key)) is not None
    }
    try:
        return dataclasses.replace(task, **changed)
    except ValueError as error:
        raise ConfigError(f"task '{task.name}': {error}") from error
