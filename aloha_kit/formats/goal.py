"""Goal observation from a recorded episode of any format."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy.typing as npt

from aloha_kit.core import Contract, ContractError, UsageError
from aloha_kit.core.features import DEPTH, DEPTHS, IMAGE, IMAGES
from aloha_kit.core.inputs import assembled, read
from aloha_kit.formats import open_source
from aloha_kit.storage.hdf5 import damage_reported


def read_goal(place: str, contract: Contract, flag: str = "--goal") -> dict[str, npt.NDArray[Any]]:
    """{input: its values} of one observation of an episode, `PLACE[:EPISODE][@STEP]`, in any format of `open_source`.

    Without a step it is that of the episode's last action, as in training (`EpisodeTable.last_rows`). EPISODE counts
    from 0, and only a place with several episodes needs it; of a place with one, `PLACE:STEP` is a step too.

    Raises:
        UsageError: an episode or a step that is not there, or no episode is named where there are several.
        EpisodeError: no such place, or an episode that is damaged.
        ContractError: the episode lacks an input, or has another size of it.
    """
    where, step = _number_after(place, "@")
    where, number = _number_after(where, ":")
    source = open_source(where)
    if len(source) == 1 and step is None:
        number, step = 0, number
    elif number is None:
        if len(source) > 1:
            named = f"{where}:EPISODE, 0 to {len(source) - 1}"
            raise UsageError(
                "{flag} {place}: {where} holds {count} episodes; name one: {named}",
                flag=flag,
                place=place,
                where=where,
                count=len(source),
                named=named,
            )
        number = 0
    if number is None or number >= len(source):
        raise UsageError(
            "{flag} {place}: {where} holds episodes 0 to {last}",
            flag=flag,
            place=place,
            where=where,
            last=len(source) - 1,
        )
    with closing(source.episode(number)) as episode, damage_reported(episode.where):
        step = episode.length - 1 if step is None else step
        if not 0 <= step < episode.frames:
            raise UsageError(
                "{flag} {place}: the episode has observations 0 to {last}",
                flag=flag,
                place=place,
                last=episode.frames - 1,
            )
        values: dict[str, Any] = {}
        for feature in contract.inputs:
            camera = feature.name.removeprefix(DEPTHS if feature.role == DEPTH else IMAGES)
            if feature.role == IMAGE and camera in episode.cameras:
                values[feature.name] = episode.image(camera, step)
            elif feature.role == DEPTH and camera in episode.depth_cameras:
                values[feature.name] = episode.depth(camera, step)
            elif feature.name in episode.vectors:
                values[feature.name] = episode.vectors[feature.name][step]
    try:
        return read(assembled(values), contract)
    except ContractError as error:
        raise ContractError("{flag} {place}: {error}", flag=flag, place=place, error=error) from error


def _number_after(text: str, mark: str) -> tuple[str, int | None]:
    """`TEXT<mark>NUMBER` as both; the whole text where it ends otherwise, or is a path."""
    before, found, number = text.rpartition(mark)
    if not found or not number.isdecimal() or Path(text).exists():
        return text, None
    return before, int(number)
