"""Goal observation from a recorded episode. numpy only."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy.typing as npt

from aloha_kit.core import Contract, ContractError, UsageError
from aloha_kit.core.features import IMAGE, IMAGES
from aloha_kit.core.inputs import assembled, read
from aloha_kit.storage import Episode
from aloha_kit.storage.hdf5 import damage_reported


def read_goal(place: str, contract: Contract) -> dict[str, npt.NDArray[Any]]:
    """{input: its values} of one observation of an episode file, `EPISODE[:STEP]`; by default of its last action's.

    That observation is the goal of training too (`EpisodeTable.last_rows`).

    Raises:
        UsageError: a step that the episode lacks.
        EpisodeError: no such episode, or one that is damaged.
        ContractError: the episode lacks an input, or has another size of it.
    """
    file, colon, number = place.rpartition(":")
    if not (colon and number.isdigit()):
        file, number = place, ""
    with closing(Episode.open(Path(file))) as episode, damage_reported(file):
        step = int(number) if number else episode.length - 1
        if not 0 <= step < episode.frames:
            raise UsageError(f"--goal {place}: the episode has observations 0 to {episode.frames - 1}")
        values: dict[str, Any] = {}
        for feature in contract.inputs:
            camera = feature.name.removeprefix(IMAGES)
            if feature.role == IMAGE and camera in episode.cameras:
                values[feature.name] = episode.image(camera, step)
            elif feature.name in episode.vectors:
                values[feature.name] = episode.vectors[feature.name][step]
    try:
        return read(assembled(values), contract)
    except ContractError as error:
        raise ContractError(f"--goal {place}: {error}") from error
