"""Export to robomimic's HDF5 layout: a part for each demonstration, joined into one file at the end."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from aloha_kit.core import Contract, EpisodeError
from aloha_kit.core.errors import reason
from aloha_kit.core.files import make_folder
from aloha_kit.core.robomimic import env_args_of, IMAGE_SUFFIX, observation_keys, SimulatorRecord
from aloha_kit.core.source import RecordedEpisode
from aloha_kit.storage import hdf5, transaction

CONTRACT, EPISODE = "contract", "episode"
"""Attributes beyond robomimic's: our contract of `data`, and what a demonstration has besides its arrays, JSON."""
_LEVEL = 1  # of deflate, for images
_KEPT = ("task", "rig", "sim", "instruction", "reason", "created")  # attributes of an episode


class RobomimicWriter:
    """Writes one data set of robomimic's layout. Memory holds the vectors of one episode and one image.

    Each demonstration is first a file of its own in `PATH.parts`, complete under its name or not there. Processes may
    add different demonstrations at the same time, and after a kill those that are there are not written again. `finish`
    joins them.

    Args:
        path: the data set, which must not exist.
        next_obs: write the observations that follow each action too, which repeats all images but the first. Without
            them the last observation of an episode has no place.

    Raises:
        EpisodeError: `path` exists.
        ConfigError: its folder cannot be written to.
    """

    def __init__(self, path: Path, *, next_obs: bool = True) -> None:
        if path.exists():
            raise EpisodeError(f"{path} exists and is never overwritten")
        self.path, self._next_obs = path, next_obs
        make_folder(path.parent)
        self._parts = make_folder(path.with_name(f"{path.name}.parts"))

    def add(
        self, number: int, episode: RecordedEpisode, *, identity: str = "", simulator: SimulatorRecord | None = None
    ) -> tuple[str, ...]:
        """Write an episode as `demo_<number>`; returns what of it the layout does not hold, a line each.

        Args:
            identity: of the episode's content: a part of another identity is written anew.
            simulator: states and model for playback; without them there are none in the file.

        Raises:
            EpisodeError: a damaged episode, states of another number of actions, or a part that cannot be written.
        """
        part = self._part(number)
        if (written := _attribute(part, "identity")) is None or written != identity:
            temporary = part.with_name(f"{part.name}.{os.getpid()}.tmp")
            try:
                with hdf5.writing(temporary) as file:
                    self._write(file, episode, simulator)
                    file.attrs["identity"] = identity
                os.replace(temporary, part)
            except OSError as error:
                raise EpisodeError(f"{self.path} cannot be written: {reason(error)}") from error
            finally:
                temporary.unlink(missing_ok=True)
        return _not_held(episode)

    def finish(self, valid: Collection[int] = ()) -> Path:
        """Join the parts, commit the data set and remove them.

        Args:
            valid: demonstrations of the filter key `valid`; all others are in `train`. Without any there are no keys.

        Raises:
            EpisodeError: no demonstration was added, two differ in contract, or the disk is full.
        """
        parts = {int(part.stem): part for part in self._parts.glob("*.hdf5")}
        if not parts:
            raise EpisodeError(f"{self.path}: no episode was added")
        temporary = self._parts / "joined.tmp"
        try:
            with hdf5.writing(temporary) as file:
                data = file.create_group("data")
                total = 0
                for number in sorted(parts):
                    total += _join(data, f"demo_{number}", parts[number])
                data.attrs["total"] = total
                for key, wanted in (("train", False), ("valid", True)) if valid else ():
                    names = [f"demo_{number}" for number in sorted(parts) if (number in valid) == wanted]
                    file[f"mask/{key}"] = np.array(names, dtype="S")
            transaction.commit(temporary, self.path)
        except OSError as error:
            raise EpisodeError(f"{self.path} cannot be written: {reason(error)}; its parts stay") from error
        shutil.rmtree(self._parts)
        return self.path

    def _part(self, number: int) -> Path:
        return self._parts / f"{number:06d}.hdf5"

    def _write(self, file: Any, episode: RecordedEpisode, simulator: SimulatorRecord | None) -> None:
        contract, steps = episode.contract, episode.length
        if self._next_obs and episode.frames == steps:
            raise EpisodeError(
                f"{episode.where} has no observation after its last action, so there is no next_obs: export without it"
            )
        base, action = episode.base_action, episode.action
        file["actions"] = action if base is None else np.concatenate([action, base], axis=1)
        file["rewards"] = np.zeros(steps, np.float32) if episode.reward is None else episode.reward
        file["dones"] = (np.arange(steps) == steps - 1).astype(np.int64)
        for name, (vector, entries) in observation_keys(contract).items():
            if vector in episode.vectors:
                _put(file, name, episode.vectors[vector][:, entries], steps, next_obs=self._next_obs)
        for camera in episode.cameras:
            self._write_images(file, f"{camera}{IMAGE_SUFFIX}", episode, camera)
        for stream, stamps in episode.stamps.items():
            file[f"stamps/{stream}"] = stamps
        file.attrs.update(num_samples=steps, **{EPISODE: json.dumps(_description(episode))})
        file.attrs["env_args"] = json.dumps(simulator.env_args if simulator else env_args_of(episode), sort_keys=True)
        file.attrs[CONTRACT] = contract.to_json()
        if simulator is not None:
            if len(simulator.states) != steps:
                raise EpisodeError(f"{episode.where} has {steps} actions and {len(simulator.states)} simulator states")
            file["states"] = simulator.states
            file.attrs["model_file"] = simulator.model  # of variable length: others may not exceed 64 kB

    def _write_images(self, file: Any, key: str, episode: RecordedEpisode, camera: str) -> None:
        """A camera's images, each compressed once, also where it stands in `obs` and `next_obs`."""
        steps, size = episode.length, (*episode.image_size(camera), 3)
        layout = {"dtype": np.uint8, "chunks": (1, *size), "compression": "gzip", "compression_opts": _LEVEL}
        obs = file.create_dataset(f"obs/{key}", (steps, *size), **layout)
        following = file.create_dataset(f"next_obs/{key}", (steps, *size), **layout) if self._next_obs else None
        for row in range(steps + (following is not None)):
            chunk = zlib.compress(np.ascontiguousarray(episode.image(camera, row)).tobytes(), _LEVEL)
            if row < steps:
                obs.id.write_direct_chunk((row, 0, 0, 0), chunk)
            if following is not None and row > 0:
                following.id.write_direct_chunk((row - 1, 0, 0, 0), chunk)


def _put(file: Any, key: str, values: npt.NDArray[Any], steps: int, *, next_obs: bool) -> None:
    file[f"obs/{key}"] = values[:steps]
    if next_obs:
        file[f"next_obs/{key}"] = values[1:]


def _join(data: Any, name: str, part: Path) -> int:
    """Copy a part into the data set without decompressing it; returns its number of steps."""
    with hdf5.reading(part) as file:
        for key in (CONTRACT, "env_args"):
            if data.attrs.setdefault(key, file.attrs[key]) != file.attrs[key]:
                raise EpisodeError(f"{name} differs from the demonstrations before it in its {key}: {file.attrs[key]}")
        group = data.create_group(name)
        for key in file:
            file.copy(file[key], group, name=key)
        for key in ("num_samples", "model_file", EPISODE):
            if key in file.attrs:
                group.attrs[key] = file.attrs[key]
        return int(group.attrs["num_samples"])


def _description(episode: RecordedEpisode) -> Mapping[str, Any]:
    """What an episode has besides arrays, JSON-able."""
    plain = {key: episode.attrs[key] for key in _KEPT if key in episode.attrs}
    described = {key: value for key, value in episode.describe.items() if key != "env_args"}
    success = None if episode.success is None else bool(episode.success)
    return {"name": episode.name, "id": episode.id, "success": success, "attrs": plain, "describe": described}


def _not_held(episode: RecordedEpisode) -> tuple[str, ...]:
    contract: Contract = episode.contract
    held = {"qpos", "action"} | {vector for vector, _ in observation_keys(contract).values()}
    lost = [f.name for f in contract.sensors if f.name not in held]
    lines = [f"not held: {', '.join(lost)}"] if lost else []
    if (bound := float(np.abs(episode.action).max(initial=0))) > 1:
        lines.append(f"actions reach {bound:.2f}; robomimic's policies predict -1 to 1 unless it normalises actions")
    if episode.reward is None:
        lines.append("no rewards are recorded: they are written as 0")
    return tuple(lines)


def _attribute(part: Path, key: str) -> str | None:
    if not part.exists():
        return None
    with hdf5.damage_reported(part), h5py.File(part, "r") as file:
        return str(file.attrs.get(key, ""))
