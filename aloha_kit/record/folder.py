"""The folder that is recorded into: what it holds already, and where failures go."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

from aloha_kit.core import AlohaKitError, Contract, EpisodeError
from aloha_kit.episode import Episode, files, list_episodes
from aloha_kit.episode.reader import DAMAGE, describe_of

FAILED = "failed"
"""Folder, inside the data set's, of failed demonstrations that are kept."""


def survey(folder: Path, task: str, contract: Contract) -> tuple[int, set[int]]:
    """How many successful episodes a folder holds, and the seeds that were recorded, failures put aside included.

    Raises:
        EpisodeError: a damaged file, or episodes of another task or with other joints, cameras, picture sizes
            or rate: one data set is learnt from as a whole.
    """
    kept = list_episodes(folder)
    aside = list_episodes(folder / FAILED) if (folder / FAILED).is_dir() else []
    present, used = 0, set()
    for file in [*kept, *aside]:
        try:
            with Episode.open(file) as episode:
                recorded, theirs = episode.attrs.get("task", task), episode.contract
                seed, success = describe_of(episode).get("seed"), episode.success
        except (AlohaKitError, *DAMAGE) as error:
            raise EpisodeError(
                f"{error}\nMove {file} away, or see `python -m aloha_kit.episode validate {folder}`"
            ) from error
        if recorded != task:
            raise EpisodeError(
                f"{file} is of task '{recorded}', not '{task}'; record into another folder with --dataset_dir"
            )
        if found := theirs.differences(contract) or contract.differences(theirs):
            lines = "\n  ".join(found)
            raise EpisodeError(
                f"{file} was recorded otherwise:\n  {lines}\nRecord alike, or into another folder with --dataset_dir"
            )
        if seed is not None:
            used.add(int(seed))
        present += success is not False and file.parent == folder
    return present, used


def put_aside(file: Path, folder: Path) -> Path:
    """Move a committed episode into a folder, under the lowest index that is free there.

    Raises:
        EpisodeError: the disk refuses; the episode stays where it is.
    """
    try:
        folder.mkdir(exist_ok=True)
        for index in itertools.count():
            place = folder / f"episode_{index}.hdf5"
            with contextlib.suppress(EpisodeError):  # that name is taken
                files.commit(file, place)
                return place
    except OSError as error:
        raise EpisodeError(f"{file} could not be moved to {folder} and stays: {error}") from error
    raise AssertionError("counting never ends")
