"""Summary of a folder of episodes: one line per episode, and statistics of every dimension across them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from aloha_kit.core.features import SENSORS
from aloha_kit.core.source import RecordedEpisode
from aloha_kit.formats.curated import CuratedEpisode
from aloha_kit.storage.hdf5 import damage_reported
from aloha_kit.storage.reader import Episode
from aloha_kit.storage.vectors import names_of, require_consistent, tables

Vector = npt.NDArray[np.float64]


def info(episode: RecordedEpisode) -> dict[str, Any]:
    """Summary of one episode as plain values for JSON. Kind and bytes of its images are known of HDF5 files.

    Raises:
        EpisodeError: it is damaged.
    """
    episode = episode.flat() if isinstance(episode, CuratedEpisode) else episode
    edit = episode.edit.text() if isinstance(episode, CuratedEpisode) else ""
    original = episode.original if isinstance(episode, CuratedEpisode) else episode
    with damage_reported(episode.where):
        attrs, rate = episode.attrs, episode.rate_hz
        file = original if isinstance(original, Episode) else None
        encoded = file is not None and file.compressed
        return {
            "path": episode.where,
            "name": episode.name,
            "layout": attrs.get("schema", episode.layout),
            "steps": episode.length,
            "seconds": episode.length / rate,
            "rate_hz": rate,
            "state_names": list(episode.contract.state_names),
            "action_names": list(episode.contract.action_names),
            "units": episode.contract.units,
            "assumed": episode.assumption,
            "images": file.image_kind if file else original.layout,
            "jpeg_order": file.jpeg_order if file and encoded else None,
            "jpeg_order_source": file.jpeg_order_source if file and encoded else None,
            "notes": [*episode.notes],
            "cameras": {name: list(episode.image_size(name)) for name in episode.cameras},
            "sensors": {
                name.removeprefix(SENSORS): names_of(episode, name)
                for name in episode.vectors
                if name.startswith(SENSORS)
            },
            "depth_cameras": list(getattr(episode, "depth_cameras", ())),
            "bytes": file.path.stat().st_size if file else 0,
            "success": episode.success,
            "edits": edit,
            **{
                key: attrs.get(key)
                for key in ("reason", "task", "rig", "sim", "instruction", "created", "software", "note", "grade")
            },
        }


@dataclass(frozen=True)
class StreamStatistics:
    """Statistics of one vector stream over all rows of all episodes, each (D,)."""

    names: tuple[str, ...]
    rows: int
    mean: Vector
    std: Vector
    min: Vector
    max: Vector

    def to_mapping(self) -> dict[str, Any]:
        """Mapping for JSON."""
        numbers = {key: getattr(self, key).tolist() for key in ("mean", "std", "min", "max")}
        return {"names": list(self.names), "rows": self.rows, **numbers}


Moments: TypeAlias = tuple[list[str], int, Vector, Vector, Vector, Vector]
"""Names, rows, mean, sum of squared deviations, minimum and maximum of one stream."""


def moments(episode: RecordedEpisode) -> dict[str, Moments]:
    """Moments of one episode by stream, for `stats`.

    Raises:
        EpisodeError: it is damaged, or its streams disagree about the number of steps.
    """
    with damage_reported(episode.where):
        require_consistent(episode)
        found = {}
        for stream, table in tables(episode).items():
            if len(table):
                data = table.astype(np.float64)
                spread = data.var(0) * len(data)
                found[stream] = (names_of(episode, stream), len(data), data.mean(0), spread, data.min(0), data.max(0))
        return found


def stats(episodes: Iterable[Mapping[str, Moments]]) -> dict[str, StreamStatistics]:
    """Mean, standard deviation, minimum and maximum of each dimension over episodes, from their `moments`.

    Moments are merged as in Chan, Golub and LeVeque, "Updating formulae and a pairwise
    algorithm for computing sample variances" (1979), in double precision. A stream of another width
    than the first episode's is counted separately, under a name that contains the width.
    """
    merged: dict[str, Moments] = {}
    for episode in episodes:
        for stream, new in episode.items():
            known = merged.get(stream)
            if known is not None and len(known[0]) != len(new[0]):
                stream = f"{stream} (width {len(new[0])})"
                known = merged.get(stream)
            merged[stream] = new if known is None else _merge(known, new)
    return {
        stream: StreamStatistics(tuple(names), count, mean, np.sqrt(squares / count), low, high)
        for stream, (names, count, mean, squares, low, high) in merged.items()
    }


def _merge(a: Moments, b: Moments) -> Moments:
    names, n, mean, squares, low, high = a
    _, m, mean_b, squares_b, low_b, high_b = b
    total, delta = n + m, mean_b - mean
    return (
        names,
        total,
        mean + delta * (m / total),
        squares + squares_b + delta**2 * (n * m / total),
        np.minimum(low, low_b),
        np.maximum(high, high_b),
    )
