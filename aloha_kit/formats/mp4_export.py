"""Export to folders of MP4 and a table: one folder an episode, with a video a camera and a row a step."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from aloha_kit.core import Contract
from aloha_kit.core.exporter import (
    array_of,
    attributes_of,
    description_of,
    episode_arrays,
    EpisodeExporter,
    ExportRecord,
    PER_STEP,
    WriteOptions,
)
from aloha_kit.core.files import sync_folder, write_json
from aloha_kit.core.source import RecordedEpisode
from aloha_kit.formats.video_export import codec_and_crf, write_video

TABLE, ABOUT, TIME = "table.parquet", "episode.json", "timestamp"


class Mp4Exporter(EpisodeExporter):
    """Folders `episode_<number>` of `table.parquet`, a video of constant rate a camera, and `episode.json`.

    A column is one number: `action.left_waist`. `timestamp` (s) is the row's number over the rate, which is the time of
    its frame in the videos; the true stamps are columns in ns.
    """

    def __init__(self, folder: Path, parts: Path, options: WriteOptions) -> None:
        options.refuse("mp4", "images", "quality")
        super().__init__(folder, parts, options)
        self.codec, self.crf = codec_and_crf(options)

    def write(self, number: int, episode: RecordedEpisode, record: ExportRecord) -> None:
        rows, scratch, contract = episode.length, self.scratch(number), episode.contract
        table: dict[str, npt.NDArray[Any]] = {TIME: np.arange(rows) / contract.rate_hz}
        arrays: dict[str, list[str]] = {}
        for name in episode_arrays(episode):
            values = array_of(episode, name)
            if values.ndim > 2:
                continue  # stays among what is lost
            values = record.array(name, values if name in PER_STEP else values[:rows])
            arrays[name] = _columns(contract, name, values)
            table |= zip(arrays[name], values.reshape(rows, -1).T, strict=True)
        pq.write_table(
            pa.table({name: np.ascontiguousarray(column) for name, column in table.items()}), scratch / TABLE
        )
        for camera in episode.cameras:
            path = scratch / f"{camera}.mp4"
            write_video(episode, camera, path, record, self.codec, self.crf, contract.rate_hz)
        if episode.cameras:
            record.notes.append(f"images are video ({self.codec}, crf {self.crf}) of a constant rate")
        record.attributes = attributes_of(episode)
        about = {
            "steps": rows,
            "rate_hz": contract.rate_hz,
            "arrays": arrays,
            "contract": json.loads(contract.to_json()),
        }
        write_json(scratch / ABOUT, about | description_of(episode))
        target = self._place(number)
        shutil.rmtree(target, ignore_errors=True)  # of an interrupted attempt
        os.rename(scratch, target)
        sync_folder(self.folder)

    def finish(self, records: Sequence[ExportRecord]) -> None:
        written = {self._place(record.number) for record in records}
        for folder in self.folder.glob("episode_*"):
            if folder not in written:  # of an episode that the source no longer has, or that is damaged since
                shutil.rmtree(folder)

    def _place(self, number: int) -> Path:
        return self.folder / f"episode_{number:06d}"


def _columns(contract: Contract, name: str, values: npt.NDArray[Any]) -> list[str]:
    """Names of an array's columns: by its entries, numbered where they have no names, its own where it is one value."""
    if values.ndim == 1:
        return [name]
    base = 0 if name != "base_action" else len(contract.action_names) - values.shape[1]
    feature = next((f for f in contract.features if f.name == ("action" if base else name)), None)
    entries = feature.entries[base : base + values.shape[1]] if feature else ()
    if len(entries) != values.shape[1]:
        entries = tuple(map(str, range(values.shape[1])))
    return [f"{name}.{entry}" for entry in entries]
