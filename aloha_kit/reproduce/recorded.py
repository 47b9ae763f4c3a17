"""Demonstrations that were recorded before a reproduction, compared with what its preset would record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aloha_kit.config import load
from aloha_kit.config.rig import RigConfig
from aloha_kit.config.task import TaskConfig
from aloha_kit.core import ConfigError
from aloha_kit.core.errors import AlohaKitError, command
from aloha_kit.core.lang import joined, Message
from aloha_kit.reproduce.preset import RecordingFlags
from aloha_kit.storage import Episode, list_episodes
from aloha_kit.storage.hdf5 import DAMAGE

JOINTS = "joints"
"""Action space of episodes that name no other."""


@dataclass(frozen=True)
class _Recorded:
    """Of one episode, what a preset decides."""

    task: str | None  # None where the file does not record it
    cameras: dict[str, tuple[int, int]]  # {camera: (height, width)}
    noise: float | None
    seed: int | None
    action_space: str


def require_recorded(folder: Path, task_name: str, wanted: RecordingFlags) -> None:
    """Check that a folder holds the demonstrations that a preset would record: task, number, cameras, sizes, noise.

    Args:
        folder: of HDF5 episodes; failed ones are neither compared nor counted.
        task_name: a name in configs/tasks.
        wanted: the preset's flags of recording.

    Raises:
        ConfigError: no such folder, a file that cannot be read, or other demonstrations; names every difference.
    """
    if not folder.is_dir():
        raise ConfigError("no folder '{folder}': --episodes is a folder of recorded demonstrations", folder=folder)
    episodes = {file: found for file in list_episodes(folder) if (found := _read(file, folder)) is not None}
    differing: list[str] = []
    if len(episodes) != wanted.num_episodes:
        differing.append(
            Message(
                "{n} successful episodes (the preset records {wanted})", n=len(episodes), wanted=wanted.num_episodes
            )
        )
    for file, found in episodes.items():
        if different := [
            Message("{file}: {text}", file=file.name, text=text) for text in _differences(found, task_name, wanted)
        ]:
            differing += different
            break  # of a folder recorded otherwise, all files differ in the same way
    if differing:
        raise ConfigError(
            "'{folder}' cannot be used for this preset: {differing}. Take a folder recorded alike, or leave "
            "--episodes out to record",
            folder=folder,
            differing=joined(differing),
        )


def _read(file: Path, folder: Path) -> _Recorded | None:
    """None for a failure."""
    try:
        with Episode.open(file) as episode:
            if episode.success is False:
                return None
            cameras = {name: episode.image_size(name) for name in episode.cameras}
            described: dict[str, Any] = dict(episode.describe)
            return _Recorded(
                task=episode.attrs.get("task"),
                cameras=cameras,
                noise=described.get("noise"),
                seed=described.get("seed"),
                action_space=described.get("action_space", JOINTS),
            )
    except (AlohaKitError, *DAMAGE) as error:
        raise ConfigError(
            "{error}. See `{command}`", error=error, command=command("episode", "validate", folder)
        ) from error


def _differences(found: _Recorded, task_name: str, wanted: RecordingFlags) -> Iterator[str]:
    task = load(TaskConfig, "tasks", task_name)
    given = {key: value for key in ("cameras", "image_size") if (value := getattr(wanted, key)) is not None}
    task = replace(task, **given)
    if found.task is not None and found.task != task.name:
        yield Message("task {found} (the preset's is {wanted})", found=found.task, wanted=task.name)
    sizes = task.camera_sizes(load(RigConfig, "rigs", task.rig))
    if found.cameras != sizes:
        yield Message(
            "cameras {found} (the preset records {wanted})", found=_sizes(found.cameras), wanted=_sizes(sizes)
        )
    if found.action_space != (space := task.action_space or JOINTS):
        yield Message(
            "actions in the space {found} (the preset's are in {wanted})", found=found.action_space, wanted=space
        )
    noise = wanted.noise or 0.0
    if found.noise is not None and found.noise != noise:
        yield Message("noise {found:g} (the preset records with {wanted:g})", found=found.noise, wanted=noise)
    if found.seed is not None and found.seed < (wanted.seed or 0):
        yield Message("seed {found} (the preset records from {wanted} on)", found=found.seed, wanted=wanted.seed)


def _sizes(cameras: dict[str, tuple[int, int]]) -> str:
    return ", ".join(f"{name} {height}x{width}" for name, (height, width) in cameras.items()) or Message("none")
