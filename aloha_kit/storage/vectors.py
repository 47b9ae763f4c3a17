"""Vector streams of an episode by name, the names of their entries, their rows, and runs of equal rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.core import EpisodeError, plural
from aloha_kit.core.lang import joined, Message
from aloha_kit.core.source import RecordedEpisode
from aloha_kit.core.versions import CLASSIC, SCHEMA

Table = npt.NDArray[Any]


def tables(episode: RecordedEpisode) -> dict[str, Table]:
    """Every vector stream the episode has, (rows, width)."""
    base = {} if episode.base_action is None else {"base_action": episode.base_action}
    return {"action": episode.action, **base, **episode.vectors}


def names_of(episode: RecordedEpisode, stream: str) -> list[str]:
    """Names of a stream's columns, numbers where the file does not record them."""
    contract = episode.contract
    width = tables(episode)[stream].shape[1]
    for feature in contract.features:
        if feature.name == stream and len(feature.entries) == width:
            return list(feature.entries)
    known = contract.action_names if stream == "action" else contract.state_names
    if stream in ("action", "qpos", "qvel", "effort") and len(known) >= width:
        return list(known[:width])
    return [f"{stream}[{i}]" for i in range(width)]


def wrong_rows(episode: RecordedEpisode) -> list[Message]:
    """Descriptions of the streams whose number of rows does not match the actions."""
    steps, frames = episode.length, episode.frames
    schema = episode.attrs.get("schema")
    wanted = (steps + 1,) if schema == SCHEMA else (steps,) if schema == CLASSIC else (steps, steps + 1)
    rows = {name: len(table) for name, table in tables(episode).items()}
    rows |= {f"images/{name}": episode.rows(name) for name in episode.cameras}
    if (reward := episode.reward) is not None:
        rows["reward"] = len(reward)
    rows |= {f"stamps/{name}": len(stamps) for name, stamps in episode.stamps.items()}
    observations = frames if frames in wanted else wanted[0]
    expected = {
        **dict.fromkeys(rows, observations),
        "base_action": steps,
        "stamps/command": steps,
        "action": steps,
        "reward": steps,
    }
    return [
        Message("{name} has {rows}, expected {expected}", name=name, rows=plural(count, "row"), expected=expected[name])
        for name, count in rows.items()
        if count != expected[name]
    ]


def require_consistent(episode: RecordedEpisode) -> None:
    """Raise `EpisodeError` where streams disagree about the number of steps."""
    if wrong := wrong_rows(episode):
        more = [Message("and {n} more", n=len(wrong) - 5)] if len(wrong) > 5 else []
        raise EpisodeError("{where} is inconsistent: {wrong}", where=episode.where, wrong=joined([*wrong[:5], *more]))


def longest_run(flags: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Length and first index of the longest run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]])))
    if not len(edges):
        return 0, 0
    begins, lengths = edges[::2], edges[1::2] - edges[::2]
    best = int(lengths.argmax())
    return int(lengths[best]), int(begins[best])


def runs(flags: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """[begin, end) of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]])))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
