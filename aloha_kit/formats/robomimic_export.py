"""Export to robomimic's HDF5 layout: a part for each demonstration, joined into one file at the end."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.core import ContractError, EpisodeError
from aloha_kit.core.exporter import (
    attributes_of,
    contract_of,
    description_of,
    EpisodeExporter,
    ExportRecord,
    PER_STEP,
    WriteOptions,
)
from aloha_kit.core.files import replacing
from aloha_kit.core.robomimic import DEPTH_SUFFIX, env_args_of, IMAGE_SUFFIX, observation_keys, SimulatorRecord
from aloha_kit.core.source import RecordedEpisode
from aloha_kit.storage import hdf5

CONTRACT, EPISODE = "contract", "episode"
"""Attributes beyond robomimic's: our contract of `data`, and what a demonstration has besides its arrays, JSON."""
VALID_SHARE = 0.1
"""Share of the demonstrations in the filter key `valid`, as robomimic divides them; the others are in `train`."""
_LEVEL = 1  # of deflate, for images


class RobomimicExporter(EpisodeExporter):
    """One file `low_dim.hdf5`, or `image.hdf5` where there are cameras, of demonstrations `data/demo_<number>`.

    Memory holds the vectors of one episode and one image. `next_obs` has the observations that follow each action,
    unless the episodes have none after the last one; it repeats all images but the first.
    Depth is `obs/<camera>_depth`, (T, H, W, 1) uint16 mm.
    """

    next_obs = True

    def __init__(self, folder: Path, parts: Path, options: WriteOptions) -> None:
        options.refuse("robomimic", "images", "codec", "crf", "quality")
        super().__init__(folder, parts, options)

    def simulator_record(self, episode: RecordedEpisode) -> SimulatorRecord | None:
        """States and model for playback; None: the file has none."""
        return None

    def write(self, number: int, episode: RecordedEpisode, record: ExportRecord) -> None:
        with replacing(self._part(number)) as part, hdf5.writing(part) as file:
            self._write(file, episode, record)

    def finish(self, records: Sequence[ExportRecord]) -> None:
        numbers = [record.number for record in records]
        images = any(record.images for record in records)
        count = int(VALID_SHARE * len(numbers)) or int(len(numbers) > 1)
        valid = {numbers[i] for i in np.random.default_rng(0).permutation(len(numbers))[:count]}
        with hdf5.writing(self.folder / ("image.hdf5" if images else "low_dim.hdf5")) as file:
            data = file.create_group("data")
            data.attrs["total"] = sum(_join(data, f"demo_{number}", self._part(number)) for number in numbers)
            for key, wanted in (("train", False), ("valid", True)):
                names = [f"demo_{number}" for number in numbers if (number in valid) == wanted]
                file[f"mask/{key}"] = np.array(names, dtype="S")

    def _part(self, number: int) -> Path:
        return self.parts / f"demo_{number}.hdf5"

    def _write(self, file: Any, episode: RecordedEpisode, record: ExportRecord) -> None:
        steps, next_obs = episode.length, self.next_obs and episode.frames > episode.length
        parts = [record.array("action", episode.action)]
        if episode.base_action is not None:
            parts.append(record.array("base_action", episode.base_action))
        file["actions"] = np.concatenate(parts, axis=1)
        reward = episode.reward
        file["rewards"] = np.zeros(steps, np.float32) if reward is None else record.array("reward", reward)
        file["dones"] = (np.arange(steps) == steps - 1).astype(np.int64)
        vectors, rows = episode.vectors, steps + next_obs
        kept = {vector for vector, _ in observation_keys(episode.contract).values() if vector in vectors}
        held = {vector: record.array(vector, vectors[vector][:rows]) for vector in sorted(kept)}
        for name, (vector, entries) in observation_keys(episode.contract).items():
            if vector in held:
                file[f"obs/{name}"] = held[vector][:steps, entries]
                if next_obs:
                    file[f"next_obs/{name}"] = held[vector][1:, entries]
        for camera in episode.cameras:
            size = (*episode.image_size(camera), 3)
            images = record.pixels(episode, camera, rows)
            _write_images(file, f"{camera}{IMAGE_SUFFIX}", images, steps, size, np.uint8, next_obs=next_obs)
        sizes = contract_of(episode).depth_cameras
        for camera in episode.depth_cameras:
            size = (*sizes[camera], 1)
            depth = record.depth(episode, camera, rows)
            _write_images(file, f"{camera}{DEPTH_SUFFIX}", depth, steps, size, np.uint16, next_obs=next_obs)
        for stream, stamps in episode.stamps.items():
            name = f"stamps/{stream}"
            file[name] = record.array(name, stamps if name in PER_STEP else stamps[:rows])
        self._describe(file, episode, record)

    def _describe(self, file: Any, episode: RecordedEpisode, record: ExportRecord) -> None:
        simulator = self.simulator_record(episode)
        if simulator is not None:
            if len(simulator.states) != episode.length:
                given = f"{episode.length} actions and {len(simulator.states)} simulator states"
                raise EpisodeError("{where} has {given}", where=episode.where, given=given)
            file["states"] = simulator.states
            file.attrs["model_file"] = simulator.model  # of variable length: others may not exceed 64 kB
        file.attrs["num_samples"] = episode.length
        file.attrs["env_args"] = json.dumps(simulator.env_args if simulator else env_args_of(episode), sort_keys=True)
        file.attrs[CONTRACT] = contract_of(episode).to_json()
        record.attributes = attributes_of(episode)
        described = description_of(episode)
        described["describe"].pop("env_args", None)  # they are an attribute of their own
        file.attrs[EPISODE] = json.dumps(described)
        if episode.reward is None:
            record.notes.append("it has no rewards: they are 0")
        if np.abs(episode.action).max(initial=0) > 1:
            record.notes.append("actions reach beyond -1 to 1, which robomimic's policies predict")


class RobomimicObsExporter(RobomimicExporter):
    """The same without `next_obs`, at half the size; the observation after the last action has no place."""

    next_obs = False


def _write_images(
    file: Any,
    key: str,
    images: Iterable[npt.NDArray[Any]],
    steps: int,
    size: tuple[int, int, int],
    dtype: npt.DTypeLike,
    *,
    next_obs: bool,
) -> None:
    """A camera's images or depth, each compressed once, also where it stands in `obs` and `next_obs`."""
    layout = {"dtype": dtype, "chunks": (1, *size), "compression": "gzip", "compression_opts": _LEVEL}
    obs = file.create_dataset(f"obs/{key}", (steps, *size), **layout)
    following = file.create_dataset(f"next_obs/{key}", (steps, *size), **layout) if next_obs else None
    for row, image in enumerate(images):
        chunk = zlib.compress(np.ascontiguousarray(image).tobytes(), _LEVEL)
        if row < steps:
            obs.id.write_direct_chunk((row, 0, 0, 0), chunk)
        if following is not None and row > 0:
            following.id.write_direct_chunk((row - 1, 0, 0, 0), chunk)


def _join(data: Any, name: str, part: Path) -> int:
    """Copy a part into the data set without decompressing it; returns its number of steps.

    Raises:
        ContractError: it differs from those before it in contract, environment or `next_obs`.
    """
    with hdf5.reading(part) as file:
        for key in (CONTRACT, "env_args"):
            if data.attrs.setdefault(key, file.attrs[key]) != file.attrs[key]:
                raise ContractError(
                    "{name} differs from the demonstrations before it in {key}: {value}",
                    name=name,
                    key=key,
                    value=file.attrs[key],
                )
        first = next(iter(data.values()), None)
        if first is not None and ("next_obs" in first) != ("next_obs" in file):
            raise ContractError(
                "some episodes have an observation after their last action and others have none: robomimic needs "
                "next_obs in all or none, give --format robomimic_obs"
            )
        group = data.create_group(name)
        for key in file:
            file.copy(file[key], group, name=key)
        for key in ("num_samples", "model_file", EPISODE):
            if key in file.attrs:
                group.attrs[key] = file.attrs[key]
        return int(group.attrs["num_samples"])
