"""Names and layout of an episode: what the files are called and what one row of them holds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.core import Contract, EpisodeError, Observation
from aloha_kit.core.files import special_file

PARTIAL = ".partial"  # the journal of an episode that is not committed yet
KEPT = ".kept"  # a journal that holds more than the episode that was recovered from it
TEMPORARY = ".tmp"  # an HDF5 file being built; never a record of anything
NO_STAMP = -(2**63)  # in a stamp's place: this stream was not stamped here (a virtual clock may well be negative)

SUFFIXES = (".hdf5", ".h5")  # of episode files, in lower case
_NAME = re.compile(r"(?:episode[_-]?)?(\d+)\.(?:hdf5|h5)", re.IGNORECASE)

# Observation keys that are one vector a row, in the order in which they lie in a journal's row.
VECTORS = ("qpos", "qvel", "effort", "base_vel", "environment_state")
SENSORS = "sensors/"  # before a sensor's name; its vectors follow those


def episode_path(folder: str | Path, index: int) -> Path:
    """`folder/episode_<index>.hdf5`."""
    return Path(folder) / f"episode_{index}.hdf5"


def partial_path(path: Path) -> Path:
    """The journal that stands in for `path` until it is committed."""
    return path.with_name(path.name + PARTIAL)


def index_of(path: Path) -> int | None:
    """The number in a name `episode_<i>.hdf5` or its journal's, None for any other name.

    Other recorders' `episode<i>.hdf5`, `<i>.hdf5` and `.h5`, in upper case too, are names of episodes as well.
    """
    match = _NAME.fullmatch(path.name.removesuffix(PARTIAL))
    return int(match.group(1)) if match else None


def identity_of(file: Path) -> str:
    """What caches know an episode file by: name, size and time of change, one of which changes with its content."""
    status = file.stat()
    return f"{file.name}:{status.st_size}:{status.st_mtime_ns}"


def list_episodes(folder: str | Path) -> list[Path]:
    """Committed episodes `episode_<i>.hdf5` of a folder, by index.

    A folder `episode_<i>` that holds one file of the same number counts as that file (RDT). Of two files with one
    number the one that is called as we call it is taken: the other may be its copy.

    Raises:
        EpisodeError: no such folder.
    """
    folder = Path(folder)
    found: dict[int, Path] = {}
    for index, path in (*_numbered(folder, partial=False), *_folders(folder)):
        known = found.setdefault(index, path)
        if path.name == episode_path(folder, index).name and known.name != path.name:
            found[index] = path
    return [found[index] for index in sorted(found)]


def list_partials(folder: str | Path) -> list[Path]:
    """Journals `episode_<i>.hdf5.partial` of a folder, by index: running or interrupted recordings."""
    return [path for _, path in _numbered(Path(folder), partial=True)]


def _numbered(folder: Path, *, partial: bool) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        raise EpisodeError(f"{missing(folder)}; expected a folder that holds episode_<i>.hdf5 files, or one of them")
    found = ((index_of(p), p) for p in folder.iterdir() if p.name.endswith(PARTIAL) == partial)
    return sorted((i, p) for i, p in found if i is not None)


def _folders(folder: Path) -> list[tuple[int, Path]]:
    """Files that lie in a folder of their own name: `episode_3/episode_3.hdf5`."""
    inside = (p / f"{p.name}{suffix}" for p in sorted(folder.glob("episode*")) if p.is_dir() for suffix in SUFFIXES)
    return [(index, path) for path in inside if (index := index_of(path)) is not None and path.is_file()]


def missing(path: Path) -> str:
    """Why there is nothing to read at `path`, in words."""
    if special := special_file(path):
        return f"'{path}' is {special}"
    if path.is_dir():
        return f"'{path}' is a folder"
    if path.is_symlink():
        return f"'{path}' is a link to '{path.readlink()}', which is not there"
    return f"no {'file' if path.suffix in ('.hdf5', PARTIAL) else 'folder'} '{path}'"


def without_path(error: Exception, path: Path) -> str:
    """An error's text for a place that names the file already."""
    return str(error).removeprefix(str(path)).lstrip(": ")


@dataclass(frozen=True)
class RowLayout:
    """What one row (an observation and the action that led to it) consists of.

    Fixed when an episode begins, from the contract and the first observation, and kept in the
    journal's header, so every row has the same size apart from its images.
    """

    fields: tuple[tuple[str, tuple[int, ...]], ...]  # float32: vectors, then action, base_action, reward
    streams: tuple[str, ...]  # int64 ns stamps
    cameras: tuple[tuple[str, int, int], ...]  # name, height, width; uint8 RGB
    depth: tuple[tuple[str, int, int], ...]  # name, height, width; uint16 mm

    @classmethod
    def of(cls, contract: Contract, observation: Observation) -> RowLayout:
        """The layout of an episode that begins with `observation`.

        Raises:
            EpisodeError: the observation lacks what the contract promises, or has another shape.
        """
        for key in ("qpos", "images", "stamps"):
            if key not in observation:
                raise EpisodeError(f"the observation lacks '{key}'; it has: {', '.join(observation) or '(nothing)'}")
        fields: list[tuple[str, tuple[int, ...]]] = []
        for key in VECTORS:
            if key in observation:
                fields.append((key, np.shape(observation[key])))  # type: ignore[literal-required]
        fields += [(f"{SENSORS}{name}", np.shape(value)) for name, value in observation.get("sensors", {}).items()]
        if fields[0][1] != (len(contract.state_names),):
            raise EpisodeError(f"qpos has shape {fields[0][1]}, the contract names {len(contract.state_names)} joints")
        seen, promised = list(observation["images"]), list(contract.cameras)
        if sorted(seen) != sorted(promised):
            raise EpisodeError(
                f"cameras differ: the contract has {', '.join(promised) or '(none)'}, "
                f"the observation has {', '.join(seen) or '(none)'}"
            )
        base = base_size(contract)
        fields.append(("action", (len(contract.action_names) - base,)))
        if base:
            fields.append(("base_action", (base,)))
        fields.append(("reward", ()))
        streams = dict.fromkeys([*observation["stamps"], "deadline", "command"])
        depth = observation.get("images_depth", {})
        return cls(
            tuple(fields),
            tuple(streams),
            tuple((name, *contract.cameras[name]) for name in promised),
            tuple((name, picture.shape[0], picture.shape[1]) for name, picture in depth.items()),
        )

    @property
    def dtype(self) -> np.dtype[np.void]:
        """A row without its images as one numpy record."""
        stamps = ("stamps", "<i8", (len(self.streams),))
        return np.dtype([*((name, "<f4", shape) for name, shape in self.fields), stamps])

    def to_mapping(self) -> dict[str, Any]:
        """For the journal's JSON header."""
        return {"fields": self.fields, "streams": self.streams, "cameras": self.cameras, "depth": self.depth}

    @classmethod
    def from_mapping(cls, raw: Mapping[str, Any]) -> RowLayout:
        """Inverse of `to_mapping`."""
        return cls(
            tuple((str(name), tuple(int(n) for n in shape)) for name, shape in raw["fields"]),
            tuple(str(name) for name in raw["streams"]),
            tuple((str(name), int(h), int(w)) for name, h, w in raw["cameras"]),
            tuple((str(name), int(h), int(w)) for name, h, w in raw["depth"]),
        )


def base_size(contract: Contract) -> int:
    """How many entries at the action's end drive a mobile base: those named `base…`."""
    return sum(name.startswith("base") for name in contract.action_names)


def fill_row(
    layout: RowLayout, observation: Observation, action: npt.ArrayLike | None, reward: float
) -> npt.NDArray[np.void]:
    """One row as a record of `layout.dtype`; a reset has no action (zeros) and no command stamp.

    Raises:
        EpisodeError: a missing or differently shaped entry; a stamp of an unknown stream.
    """
    row = np.zeros((), layout.dtype)
    values: dict[str, Any] = dict(observation)
    values.update({f"{SENSORS}{name}": value for name, value in observation.get("sensors", {}).items()})
    if action is not None:
        action = np.asarray(action)
        joints = dict(layout.fields)["action"][0]
        expected = sum(shape[0] for name, shape in layout.fields if name.endswith("action"))
        if action.shape != (expected,):
            raise EpisodeError(f"action has shape {action.shape}, the contract names {expected} entries")
        values.update(action=action[:joints], base_action=action[joints:], reward=reward)
    for name, shape in layout.fields:
        if name in values:
            value = np.asarray(values[name])
            if value.shape != shape:
                raise EpisodeError(f"'{name}' has shape {value.shape}, this episode began with {shape}")
            row[name] = value
        elif name in VECTORS or name.startswith(SENSORS):
            raise EpisodeError(f"the observation lacks '{name}', which this episode began with")
    stamps = observation["stamps"]
    unknown = set(stamps) - set(layout.streams)
    if unknown:
        raise EpisodeError(f"stamps of unknown streams {sorted(unknown)}; this episode began with {layout.streams}")
    row["stamps"] = [stamps.get(name, NO_STAMP) for name in layout.streams]
    return row
