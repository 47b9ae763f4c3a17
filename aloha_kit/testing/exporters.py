"""Contract of every exporter of recorded episodes, as one reusable check."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from aloha_kit.core.exporter import EpisodeExporter, ExportRecord, WriteOptions
from aloha_kit.core.source import EpisodeSource


def check_exporter(
    make: Callable[[Path, Path, WriteOptions], EpisodeExporter], source: EpisodeSource, folder: Path
) -> Path:
    """Assert the contract of an exporter: episodes in any order, twice, after a pickle; `finish` twice.

    Args:
        make: the class.
        source: with at least two episodes; all are written.
        folder: an empty one.

    Returns:
        The data set.
    """
    target, parts = folder / "dataset", folder / "parts"
    target.mkdir()
    parts.mkdir()
    exporter: EpisodeExporter = pickle.loads(pickle.dumps(make(target, parts, WriteOptions())))
    numbers = [*reversed(range(len(source))), 0]  # the first one again, as after an interruption
    records: dict[int, ExportRecord] = {}
    for number in numbers:
        with closing(source.episode(number)) as episode:
            record = ExportRecord.of(number, episode, source.identity(number))
            exporter.write(number, episode, record)
            record.complete(episode)
            kept = ExportRecord.from_mapping(json.loads(json.dumps(record.to_mapping())))
            assert kept == record, f"{episode.where}: the record of an export must be JSON-able"
            assert number not in records or records[number] == record, f"{episode.where}: written twice, it differs"
            assert "action" in record.arrays, f"{episode.where}: the actions are not written"
            assert all(entry["rows"] >= episode.length for entry in record.images.values()), f"{episode.where}: images"
        records[number] = record
    ordered = [records[number] for number in range(len(source))]
    exporter.finish(ordered)
    exporter.finish(ordered)
    assert any(target.iterdir()), "nothing was written"
    return target
