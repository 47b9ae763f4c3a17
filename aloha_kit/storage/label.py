"""Changes of committed episode files: labels (success, note, grade, instruction) and names of cameras."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from aloha_kit.core import EpisodeError
from aloha_kit.core.files import put
from aloha_kit.storage import checksums, hdf5, transaction
from aloha_kit.storage.reader import Episode

LABELS = ("success", "note", "grade", "instruction")
GRADES = range(1, 6)
"""From 1, the worst, to 5, the best."""
_LONGEST = 4000  # characters of a note or an instruction: an HDF5 attribute holds less than 64 kB

Value: TypeAlias = bool | int | str | None


def label(path: Path, **labels: Value) -> None:
    """Write labels into a committed episode by atomically replacing it with a labelled copy.

    Args:
        labels: `success` (bool), `note` (str), `grade` (in `GRADES`) or `instruction` (str); None removes one, and
            those that are not given stay.

    Raises:
        EpisodeError: an unknown label or value; no such episode, a damaged one, or no disk space for the copy.
    """
    for name, value in labels.items():
        require_valid(name, value)
    with _changing(path, "labelled") as file:
        for name, value in labels.items():
            if value is not None:
                hdf5.set_attribute(file, name, value)
            elif name in file.attrs:
                del file.attrs[name]


def rename_cameras(path: Path, names: Mapping[str, str]) -> None:
    """Rename cameras of a committed episode of our layout, {old: new}, by atomically replacing it; images stay.

    Raises:
        EpisodeError: no such episode, a damaged one, or no disk space for the copy.
    """
    if not names:
        return
    with Episode.open(path) as episode:
        contract = None if episode.assumption else episode.contract.renamed(names).to_json()
        cameras = [names.get(camera, camera) for camera in episode.cameras]
    with _changing(path, "changed") as file:
        for group in ("observations/images", "observations/images_depth", "stamps/images"):
            moved = [name for name in names if f"{group}/{name}" in file]
            for name in moved:  # by way of a third name: two may be exchanged
                file.move(f"{group}/{name}", f"{group}/.{name}")
            for name in moved:
                file.move(f"{group}/.{name}", f"{group}/{names[name]}")
        if contract is not None:
            hdf5.set_attribute(file, "contract", contract)
        if "camera_names" in file.attrs:
            hdf5.set_attribute(file, "camera_names", cameras)


@contextlib.contextmanager
def _changing(path: Path, done: str) -> Iterator[Any]:
    """A copy of a committed episode, open for changes, that takes its place at the end."""
    with Episode.open(path):
        pass
    checksums.require_sound(path)  # else the new checksums would cover damaged data
    temporary = transaction.temporary_path(path)
    try:
        temporary.unlink(missing_ok=True)  # one left by a kill may be a second name of the episode itself
        shutil.copyfile(path, temporary)
        with hdf5.writing(temporary, "r+") as file:
            yield file
            checksums.reserve(file)
        checksums.seal(temporary)
        put(temporary, path)
    except OSError as error:
        raise EpisodeError(
            "{path} could not be {done}, it is as it was: {error}", path=path, done=done, error=error
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def require_valid(name: str, value: Value) -> None:
    """Raise EpisodeError for an unknown label or value."""
    if name not in LABELS:
        raise EpisodeError("an episode has no label '{name}'; there are: {labels}", name=name, labels=", ".join(LABELS))
    if name == "grade" and value is not None and (isinstance(value, bool) or value not in GRADES):
        raise EpisodeError(
            "grade must be {lowest} to {highest}, given {value}", lowest=GRADES[0], highest=GRADES[-1], value=value
        )
    if name == "success" and value not in (True, False, None):
        raise EpisodeError("success must be true or false, given {value!r}", value=value)
    if name in ("note", "instruction") and value is not None and len(str(value)) > _LONGEST:
        raise EpisodeError(
            "{name} has {count} characters, at most {longest} fit", name=name, count=len(str(value)), longest=_LONGEST
        )
