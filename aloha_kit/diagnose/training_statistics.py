"""Statistics of the data that a rollout's policy was trained on, from its checkpoint. Needs no torch, as a rule."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from aloha_kit.core import ConfigError, ContractError
from aloha_kit.core.lang import Message
from aloha_kit.data.stats import Statistics
from aloha_kit.policies.intact import require_intact

STATISTICS, REFERENCE = "statistics.json", "dataset_stats.pkl"
_WITHIN = ("", "checkpoints/best", "checkpoints/last", "best", "last")


def find_training(named: str, episode: Path, ckpt: Path | None = None) -> Statistics:
    """The statistics of a rollout's policy.

    Args:
        named: the episode's record of its policy: a path at the time of the rollout, or a server's description.
        episode: its path; by default rollouts lie in the run of their policy.
        ckpt: in place of both.

    Raises:
        ConfigError: there are none at `ckpt`, or they are damaged.
        ContractError: there are none at the path that the rollout records; the message names `--ckpt`.
    """
    if ckpt is not None:
        found = _statistics_of(ckpt)
        if found is None:
            raise ConfigError(
                "no {statistics} at {ckpt}; expected a run or a checkpoint's folder", statistics=STATISTICS, ckpt=ckpt
            )
        return found
    runs = [folder for folder in episode.absolute().parents if (folder / "checkpoints").is_dir()]
    for place in [*([Path(named)] if named else []), *runs[:1]]:
        found = _statistics_of(place)
        if found is not None:
            return found
    raise ContractError(
        "what the policy was trained on: there is no checkpoint at '{named}'; give --ckpt RUN",
        named=named or Message("(none named)"),
    )


def _statistics_of(place: Path) -> Statistics | None:
    folder = place.parent if place.suffix == ".ckpt" else place
    files = [folder / within / STATISTICS for within in _WITHIN] + [folder / REFERENCE]
    file = next((file for file in files if file.is_file()), None)
    return _of_lerobot(folder) if file is None else _read(file)


def _of_lerobot(place: Path) -> Statistics | None:
    try:
        from aloha_kit.policies import lerobot_files  # safetensors
    except ImportError:
        return None
    folder = lerobot_files.find(place)
    return None if folder is None else lerobot_files.read_statistics(folder, lerobot_files.read_config(folder))


def _read(file: Path) -> Statistics:
    if file.name == REFERENCE:
        try:
            from aloha_kit.policies.reference import read_stats  # torch
        except ImportError as error:
            raise ConfigError(
                "{file} is of the published ACT; reading it needs torch ({error})", file=file, error=error
            ) from error
        return read_stats(file)
    require_intact(file.parent, file.name)
    try:
        arrays = json.loads(file.read_text(encoding="utf-8"))
        return Statistics.from_arrays({key: np.asarray(value) for key, value in arrays.items()})
    except (OSError, ValueError, AttributeError, ContractError) as error:
        raise ConfigError("{file} is missing or damaged: {error}", file=file, error=error) from error
